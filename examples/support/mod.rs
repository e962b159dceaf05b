//! What the examples share: the server at `--addr`, or one of their own, what they show it, and how
//! they end.

mod token;

use std::{error::Error, fs, io, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context;
use muxs::{
    app::{self, Config},
    client::{self, AuthorizedChannel, Credentials, TokenError},
    files::{Settings, Store},
};
use tempfile::TempDir;
use tokio::{net::TcpListener, time::timeout};
use tokio_rustls::rustls::{
    self, CertificateError,
    pki_types::{CertificateDer, pem::PemObject},
};
use tonic::{
    Code, Status,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

/// How addresses begin.
const SCHEMES: [&str; 3] = ["http://", "https://", "unix:"];

/// How long a server that listens is waited for to say something.
const ANSWER: Duration = Duration::from_secs(5);

// Not a doc comment, which would become the help of the example.
// Which server an example uses.
#[derive(clap::Args)]
pub(crate) struct ServerArgs {
    /// The server to use, such as https://example.com or unix:/run/muxs.sock; if nothing listens
    /// there, the example starts one
    #[arg(long, default_value = "http://127.0.0.1:50051", global = true)]
    pub(crate) addr: String,

    /// Trust servers with a certificate of the authorities in this file, in PEM, and no others
    #[arg(long, value_name = "FILE", global = true)]
    ca: Option<PathBuf>,

    /// Show the server this certificate, in PEM
    #[arg(long, value_name = "FILE", requires = "key", global = true)]
    cert: Option<PathBuf>,

    /// The key of the certificate, in PEM
    #[arg(long, value_name = "FILE", requires = "cert", global = true)]
    key: Option<PathBuf>,

    #[command(flatten)]
    token: token::TokenArgs,
}

/// A server that listens: the one at `--addr`, or one in this process.
pub(crate) struct Server {
    pub(crate) address: String,
    /// How to get there.
    pub(crate) endpoint: Endpoint,
    /// None for a server of its own, which wants none.
    credentials: Option<Credentials>,
    /// Removed when the example ends.
    _root: Option<TempDir>,
}

/// Who listens at `--addr`.
pub(crate) enum Found {
    Server,
    Nothing,
    /// Somebody to whom trying again will not help, and why.
    Unusable(String),
}

impl Server {
    pub(crate) async fn connect(&self) -> anyhow::Result<AuthorizedChannel> {
        let connected = self.endpoint.connect().await;
        self.authorize(connected.with_context(|| format!("cannot connect to {}", self.address))?)
    }

    /// The same for a connection that somebody else has made.
    pub(crate) fn authorize(&self, channel: Channel) -> anyhow::Result<AuthorizedChannel> {
        authorize(&self.endpoint, channel, self.credentials.clone())
    }
}

impl ServerArgs {
    /// Looks whether the server is there, and starts one in this process if nothing listens.
    pub(crate) async fn find_or_start(&self) -> anyhow::Result<Server> {
        match self.find().await? {
            Found::Nothing => {}
            Found::Server => {
                return Ok(Server {
                    address: self.addr.clone(),
                    endpoint: self.endpoint()?,
                    credentials: self.credentials()?,
                    _root: None,
                });
            }
            Found::Unusable(why) => anyhow::bail!("cannot use {}: {why}", self.addr),
        }
        let root = tempfile::tempdir()?;
        let store = Store::open(root.path(), Settings::default())?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = format!("http://{}", listener.local_addr()?);
        eprintln!(
            "Nothing listens at {}, so this example starts a server of its own at {address}.",
            self.addr
        );
        // It ends with the process.
        let shutdown = std::future::pending();
        tokio::spawn(app::run(
            vec![listener.into()],
            Config::new(store),
            shutdown,
        ));
        Ok(Server {
            endpoint: client::endpoint(&address)?,
            address,
            credentials: None,
            _root: Some(root),
        })
    }

    /// What to show the server at `--addr`, if it is to be shown anything.
    pub(crate) fn credentials(&self) -> anyhow::Result<Option<Credentials>> {
        self.token.credentials()
    }

    /// Looks who listens.
    pub(crate) async fn find(&self) -> anyhow::Result<Found> {
        let addr = &self.addr;
        let channel = match self.endpoint()?.connect().await {
            Ok(channel) => channel,
            Err(error) if is_refused(&error) => return Ok(Found::Nothing),
            Err(error) => match why_unusable(&error) {
                Some(why) => return Ok(Found::Unusable(why)),
                None => anyhow::bail!("cannot connect to {addr}: {}", first_cause(&error)),
            },
        };
        // A connection is there before the server has said anything, even that it wants another.
        let mut health = HealthClient::new(channel);
        let check = health.check(HealthCheckRequest::default());
        match timeout(ANSWER, check).await {
            Ok(Err(status)) if status.source().is_some() => {
                let hint = match (addr.starts_with("https"), &self.cert) {
                    (false, _) => "if it encrypts, its address begins with https://",
                    (true, None) => "if it wants a certificate, --cert and --key name one",
                    (true, Some(_)) => "perhaps it does not accept the certificate of --cert",
                };
                let cause = first_cause(&status);
                anyhow::bail!("{addr} ended the connection without an answer ({cause}); {hint}")
            }
            _ => Ok(Found::Server),
        }
    }

    /// The server at `--addr`, and how to trust it.
    pub(crate) fn endpoint(&self) -> anyhow::Result<Endpoint> {
        let addr = &self.addr;
        anyhow::ensure!(
            SCHEMES.iter().any(|scheme| addr.starts_with(scheme)),
            "{addr} is not an address: those begin with {}",
            SCHEMES.join(", ")
        );
        let endpoint =
            client::endpoint(addr).with_context(|| format!("{addr} is not an address"))?;
        if self.ca.is_none() && self.cert.is_none() {
            return Ok(endpoint);
        }
        let read = |file: &PathBuf| {
            fs::read(file).with_context(|| format!("cannot read {}", file.display()))
        };
        anyhow::ensure!(
            addr.starts_with("https://"),
            "--ca and --cert are for addresses that begin with https://, and {addr} does not"
        );
        let mut tls = ClientTlsConfig::new();
        tls = match &self.ca {
            Some(ca) => {
                let pem = read(ca)?;
                let has_any = CertificateDer::pem_slice_iter(&pem).next().is_some();
                anyhow::ensure!(has_any, "there is no certificate in {}", ca.display());
                tls.ca_certificate(Certificate::from_pem(pem))
            }
            None => tls.with_native_roots(),
        };
        if let (Some(cert), Some(key)) = (&self.cert, &self.key) {
            tls = tls.identity(Identity::from_pem(read(cert)?, read(key)?));
        }
        endpoint
            .tls_config(tls)
            .context("cannot use these certificates")
    }
}

/// Has each call over `channel`, which leads to `endpoint`, show a token, if there are credentials.
pub(crate) fn authorize(
    endpoint: &Endpoint,
    channel: Channel,
    credentials: Option<Credentials>,
) -> anyhow::Result<AuthorizedChannel> {
    Ok(match credentials {
        Some(credentials) => AuthorizedChannel::new(endpoint, channel, credentials)?,
        None => channel.into(),
    })
}

/// Whether the connection was refused, which is how a port with nobody behind it answers, or there
/// is no such socket.
fn is_refused(error: &tonic::transport::Error) -> bool {
    causes(error)
        .filter_map(|error| error.downcast_ref::<io::Error>())
        .any(|error| {
            matches!(
                error.kind(),
                io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound
            )
        })
}

/// What keeps this client from trusting a server, and does not pass by itself.
fn why_unusable(error: &tonic::transport::Error) -> Option<String> {
    let tls = causes(error).find_map(|cause| {
        let error = cause.downcast_ref::<io::Error>()?.get_ref()?;
        error.downcast_ref::<rustls::Error>()
    })?;
    Some(match tls {
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "nobody who is trusted here vouches for its certificate; --ca FILE trusts those in FILE"
                .to_owned()
        }
        rustls::Error::InvalidMessage(_) => {
            "it does not encrypt; where that is wanted, the address begins with http://".to_owned()
        }
        other => other.to_string(),
    })
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

/// What an error comes down to. Those above it say less, or the same.
fn first_cause<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    causes(error).last().unwrap_or(error)
}

/// Ends an example: a failure is told in one sentence on standard error.
pub(crate) fn exit(result: anyhow::Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        let status = error.downcast_ref::<Status>();
        match status {
            // The call was not made.
            Some(status) if let Some(why) = why_no_token(status) => eprintln!("Failed: {why}."),
            Some(status) => eprintln!(
                "The call failed with {:?}: {}.{}",
                status.code(),
                status.message(),
                advice(status.code())
            ),
            None => eprintln!("Failed: {error:#}."),
        }
        ExitCode::FAILURE
    })
}

/// What may help against a call that failed so.
pub(crate) fn advice(code: Code) -> &'static str {
    match code {
        Code::Unauthenticated if !token::is_given() => token::ADVICE,
        _ => "",
    }
}

fn why_no_token(status: &Status) -> Option<String> {
    let error = status.source()?;
    error.is::<TokenError>().then(|| {
        let causes: Vec<_> = causes(error).map(ToString::to_string).collect();
        causes.join(": ")
    })
}
