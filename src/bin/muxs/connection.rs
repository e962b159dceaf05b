//! The connection to the server of the arguments.

use muxs::client::{AuthorizedChannel, Client, Credentials};
use tonic::{
    Code,
    transport::{Channel, Endpoint},
};

use crate::{
    args::{ServerArgs, TokenArgs},
    failure::{Failure, TokenUse, with_causes},
    probe::{Probe, probe},
};

/// A server, and how to call it. Nothing is sent before the first call.
pub(crate) struct Connection {
    address: String,
    endpoint: Endpoint,
    channel: Channel,
    credentials: Option<Credentials>,
    sends_certificate: bool,
    pub(crate) token_use: TokenUse,
}

impl Connection {
    pub(crate) fn new(server: &ServerArgs, token: &TokenArgs) -> Result<Self, Failure> {
        let address = server.address()?;
        let endpoint = server.endpoint(&address)?;
        let credentials = token.credentials()?;
        let connection = Self {
            channel: endpoint.connect_lazy(),
            token_use: match (&credentials, &token.issuer) {
                (None, _) => TokenUse::None,
                (Some(_), None) => TokenUse::Given,
                (Some(_), Some(_)) => TokenUse::Requested,
            },
            address,
            endpoint,
            credentials,
            sends_certificate: server.cert.is_some(),
        };
        connection.authorized()?;
        Ok(connection)
    }

    /// The channel for calls that need no token.
    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// The channel that sends a token with each call, if there are credentials.
    pub(crate) fn authorized(&self) -> Result<AuthorizedChannel, Failure> {
        let channel = self.channel.clone();
        let authorized = match self.credentials.clone() {
            Some(credentials) => AuthorizedChannel::new(&self.endpoint, channel, credentials),
            None => return Ok(channel.into()),
        };
        authorized.map_err(|error| Failure::local(with_causes(&error)))
    }

    /// Looks what answers at the address, and returns a client for it.
    ///
    /// # Errors
    ///
    /// Nothing listens there, or what does is no gRPC server for this client, so that retries would be in vain.
    pub(crate) async fn client(&self) -> Result<Client, Failure> {
        self.check_server().await?;
        Ok(Client::new(self.authorized()?))
    }

    /// Fails if nothing listens at the address, or no gRPC server for this client does.
    pub(crate) async fn check_server(&self) -> Result<(), Failure> {
        match probe(&self.address, &self.endpoint, self.sends_certificate).await {
            Probe::Usable => Ok(()),
            Probe::Nothing => Err(Failure::call(Code::Unavailable, self.nothing_listens())),
            Probe::Unusable(why) => Err(Failure::call(Code::Unavailable, why)),
        }
    }

    fn nothing_listens(&self) -> String {
        let address = &self.address;
        let is_here = ["http://127.", "http://localhost", "http://[::1]", "unix:"]
            .iter()
            .any(|start| address.starts_with(start));
        match is_here {
            true => format!(
                "nothing listens at {address}: start a server there with `cargo run --bin server`, \
                 or name another with --addr"
            ),
            false => format!(
                "nothing listens at {address}: start a server there, or name another with --addr"
            ),
        }
    }
}
