//! Connection settings for transfers.

use std::time::Duration;

use tonic::transport::Endpoint;

/// The flow-control window of one call: what a link of 1 Gbit/s and 60 ms holds.
const STREAM_WINDOW_BYTES: u32 = 8 * 1024 * 1024;

/// The flow-control window of a connection: large enough not to hold back any of its calls.
const CONNECTION_WINDOW_BYTES: u32 = 32 * STREAM_WINDOW_BYTES;

/// The largest HTTP/2 frame that the server may send: a chunk in one frame costs one system call.
const MAX_FRAME_BYTES: u32 = 1024 * 1024;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The interval of HTTP/2 pings, and the timeout for their answers.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// Why there is no [`Endpoint`] for an address.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// It has no scheme.
    #[error("{0} has no scheme: it should begin with http://, https:// or unix:")]
    NoScheme(String),
    /// It is `https`, and this program is built without TLS.
    #[error("{0} needs TLS, and this program is built without the feature client-tls of muxs")]
    NoTls(String),
    /// It is not a URI, or the authorities of this machine cannot be read.
    #[error(transparent)]
    Invalid(tonic::transport::Error),
}

/// Creates an [`Endpoint`] with settings for transfers.
///
/// They are flow-control windows for fast links, large frames, and keepalives that detect a server which is
/// gone without closing the connection.
///
/// An `https` address is connected to with TLS, and the server must have a certificate of an authority
/// that this machine trusts. `Endpoint::tls_config` replaces these settings.
///
/// [`Endpoint::connect_lazy`] leaves a failure of the first connection to the transfer's
/// [`Retry`](super::Retry).
///
/// # Errors
///
/// The address is not like `http://127.0.0.1:50051`, `https://example.com` or `unix:/run/muxs.sock`; it is `https`, and
/// the feature `client-tls` is not enabled; or the authorities of this machine cannot be read.
pub fn endpoint(address: impl Into<String>) -> Result<Endpoint, EndpointError> {
    let address = address.into();
    let endpoint = match Endpoint::from_shared(address.clone()) {
        // tonic connects to an address without a scheme, and fails then.
        Ok(endpoint) if endpoint.uri().scheme().is_some() => with_tls(endpoint)?,
        Ok(_) => return Err(EndpointError::NoScheme(address)),
        Err(source) => return Err(EndpointError::Invalid(source)),
    };
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(MAX_FRAME_BYTES)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE))
}

#[cfg(feature = "client-tls")]
fn with_tls(endpoint: Endpoint) -> Result<Endpoint, EndpointError> {
    use tonic::transport::ClientTlsConfig;

    if !is_https(&endpoint) {
        return Ok(endpoint);
    }
    let tls = ClientTlsConfig::new().with_native_roots();
    endpoint.tls_config(tls).map_err(EndpointError::Invalid)
}

/// tonic connects to such an address without TLS when it is built without TLS.
#[cfg(not(feature = "client-tls"))]
fn with_tls(endpoint: Endpoint) -> Result<Endpoint, EndpointError> {
    match is_https(&endpoint) {
        true => Err(EndpointError::NoTls(endpoint.uri().to_string())),
        false => Ok(endpoint),
    }
}

fn is_https(endpoint: &Endpoint) -> bool {
    endpoint.uri().scheme() == Some(&http::uri::Scheme::HTTPS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_without_a_scheme_is_refused() {
        for address in ["localhost", "127.0.0.1:50051", "example.com:443"] {
            let refused = endpoint(address).unwrap_err().to_string();
            assert!(refused.starts_with(address), "{refused}");
        }
        endpoint("http://127.0.0.1:50051").unwrap();
        endpoint("unix:/run/muxs.sock").unwrap();
    }

    #[cfg(not(feature = "client-tls"))]
    #[test]
    fn https_is_refused_without_tls() {
        let refused = endpoint("https://example.com").unwrap_err();
        assert!(matches!(refused, EndpointError::NoTls(_)), "{refused}");
    }
}
