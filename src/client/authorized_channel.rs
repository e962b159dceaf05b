//! A channel that adds an access token to each call.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use futures::future::{BoxFuture, Either, FutureExt, MapErr, TryFutureExt};
use http::{Request, Response, header::AUTHORIZATION, uri::Scheme};
use tonic::{
    Code, Status,
    body::Body,
    transport::{self, Channel, Endpoint},
};
use tower::{BoxError, Service};

use super::{
    credentials::{Credentials, TokenError},
    error::Error,
};
use crate::loopback::is_loopback;

/// A channel that adds an access token to each call, for use with any generated client.
///
/// A call that already has an `authorization` keeps it. A call without a token fails with UNAVAILABLE if the
/// cause is transient, otherwise with UNAUTHENTICATED; the source of the status is a [`TokenError`]. A token
/// that the server refuses at once, with UNAUTHENTICATED, is discarded, so that the next call gets another.
/// The refused call is not retried: only [`Client`](super::Client), which can resume a transfer, does that.
///
/// ```
/// use muxs::{client::{self, AuthorizedChannel, Credentials}, pb::greeter_client::GreeterClient};
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let endpoint = client::endpoint("https://example.com")?;
/// let channel = endpoint.connect_lazy();
/// let credentials = Credentials::file("/run/secrets/token");
/// let greeter = GreeterClient::new(AuthorizedChannel::new(&endpoint, channel, credentials)?);
/// # let _ = greeter;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct AuthorizedChannel {
    channel: Channel,
    credentials: Option<Credentials>,
}

impl AuthorizedChannel {
    /// Adds a token of `credentials` to each call over `channel`, a channel to `endpoint`.
    ///
    /// # Errors
    ///
    /// [`TokenError::Plaintext`]: others could read the token in transit, because the endpoint is neither
    /// https, nor a Unix socket, nor on a loopback host. Without the feature `client-tls`, Unix sockets are
    /// refused, too.
    pub fn new(
        endpoint: &Endpoint,
        channel: Channel,
        credentials: Credentials,
    ) -> Result<Self, Error> {
        if !is_secure(endpoint) {
            return Err(TokenError::Plaintext(endpoint.uri().to_string()).into());
        }
        Ok(Self {
            channel,
            credentials: Some(credentials),
        })
    }

    /// Returns the parts, for [`Client`](super::Client), which has to know the token of each call.
    pub(super) fn into_parts(self) -> (Channel, Option<Credentials>) {
        (self.channel, self.credentials)
    }
}

/// A channel that adds no token.
impl From<Channel> for AuthorizedChannel {
    fn from(channel: Channel) -> Self {
        Self {
            channel,
            credentials: None,
        }
    }
}

type HttpResult = Result<Response<Body>, BoxError>;
type MapBoxError<F> = MapErr<F, fn(transport::Error) -> BoxError>;

impl Service<Request<Body>> for AuthorizedChannel {
    type Response = Response<Body>;
    type Error = BoxError;
    /// Without credentials, the future of the channel.
    type Future = Either<
        MapBoxError<<Channel as Service<Request<Body>>>::Future>,
        BoxFuture<'static, HttpResult>,
    >;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.channel.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match &self.credentials {
            Some(credentials) if !request.headers().contains_key(AUTHORIZATION) => {
                // The call takes the channel that `poll_ready` has reserved; a clone has no reservation.
                let next = self.channel.clone();
                let channel = std::mem::replace(&mut self.channel, next);
                Either::Right(call_with_token(channel, credentials.clone(), request).boxed())
            }
            _ => Either::Left(self.channel.call(request).map_err(BoxError::from)),
        }
    }
}

async fn call_with_token(
    mut channel: Channel,
    credentials: Credentials,
    mut request: Request<Body>,
) -> HttpResult {
    let token = match credentials.cached_header() {
        Some(token) => token,
        None => match credentials.current_token().await {
            Ok((token, _)) => token.header(),
            Err(error) => return Err(token_error_to_status(error).into()),
        },
    };
    request.headers_mut().insert(AUTHORIZATION, token.clone());
    let response = channel.call(request).await?;
    // A refusal in trailers after messages is not seen here.
    let status = response.headers().get("grpc-status");
    if status.is_some_and(|status| Code::from_bytes(status.as_bytes()) == Code::Unauthenticated) {
        credentials.discard(&token).await;
    }
    Ok(response)
}

fn token_error_to_status(error: TokenError) -> Status {
    let mut status = match error.is_transient() {
        true => Status::unavailable(error.to_string()),
        false => Status::unauthenticated(error.to_string()),
    };
    status.set_source(Arc::new(error));
    status
}

/// Whether nobody else can read data in transit to `endpoint`.
fn is_secure(endpoint: &Endpoint) -> bool {
    let uri = endpoint.uri();
    // tonic ignores the scheme when it is built without TLS.
    (cfg!(feature = "client-tls") && uri.scheme() == Some(&Scheme::HTTPS))
        || uri.host().is_some_and(is_loopback)
        || is_unix_socket(endpoint)
}

/// Whether `endpoint` is a Unix socket. tonic gives those an address that a network server could have as
/// well, but only a Unix socket refuses TLS settings.
#[cfg(feature = "client-tls")]
fn is_unix_socket(endpoint: &Endpoint) -> bool {
    let tls = tonic::transport::ClientTlsConfig::new();
    endpoint.uri() == "http://tonic/" && endpoint.clone().tls_config(tls).is_err()
}

/// Without TLS settings, a Unix socket cannot be distinguished.
#[cfg(not(feature = "client-tls"))]
fn is_unix_socket(_: &Endpoint) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::endpoint::endpoint;

    #[test]
    fn only_https_unix_and_loopback_endpoints_are_secure() {
        for private in [
            "http://127.0.0.1:50051",
            "http://127.1.2.3",
            "http://[::1]:50051",
            "http://localhost:50051",
        ] {
            assert!(is_secure(&endpoint(private).unwrap()), "{private}");
        }
        for private in [
            "https://example.com",
            "https://10.0.0.1:50051",
            "unix:/run/muxs.sock",
            "unix:///run/muxs.sock",
        ] {
            let endpoint = Endpoint::from_shared(private).unwrap();
            // Without TLS, tonic would send the token in the clear.
            let is_private = cfg!(feature = "client-tls");
            assert_eq!(is_secure(&endpoint), is_private, "{private}");
        }
        for public in [
            "http://example.com",
            "http://10.0.0.1:50051",
            "http://0.0.0.0:50051",
            "http://[fe80::1]:50051",
            "http://127.0.0.1.example.com",
            "http://localhost.example.com",
            // tonic's placeholder for a Unix socket.
            "http://tonic",
            "http://tonic/",
            "tonic:80",
        ] {
            let endpoint = Endpoint::from_shared(public).unwrap();
            assert!(!is_secure(&endpoint), "{public}");
        }
    }
}
