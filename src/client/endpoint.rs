//! Connection settings for transfers.

use std::time::Duration;

use tonic::transport::{Endpoint, Error};

/// The flow-control window of one call: what a link of 1 Gbit/s and 60 ms holds.
const STREAM_WINDOW_BYTES: u32 = 8 * 1024 * 1024;

/// The flow-control window of a connection: large enough not to hold back any of its calls.
const CONNECTION_WINDOW_BYTES: u32 = 32 * STREAM_WINDOW_BYTES;

/// The largest HTTP/2 frame that the server may send: a chunk in one frame costs one system call.
const MAX_FRAME_BYTES: u32 = 1024 * 1024;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The interval of HTTP/2 pings, and the timeout for their answers.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// Creates an [`Endpoint`] with settings for transfers.
///
/// They are flow-control windows for fast links, large frames, and keepalives that detect a server which is
/// gone without closing the connection.
///
/// An `https` address is connected to with TLS, and the server must have a certificate of an authority
/// that this machine trusts. `Endpoint::tls_config` replaces these settings. Without the feature `client-tls`,
/// connecting to such an address fails.
///
/// [`Endpoint::connect_lazy`] leaves a failure of the first connection to the transfer's
/// [`Retry`](super::Retry).
///
/// # Errors
///
/// The address is not a URI such as `http://127.0.0.1:50051`, `https://example.com` or
/// `unix:/run/muxs.sock`, or the authorities of this machine cannot be read.
pub fn endpoint(address: impl Into<String>) -> Result<Endpoint, Error> {
    let endpoint = Endpoint::from_shared(address.into())?;
    #[cfg(feature = "client-tls")]
    let endpoint = with_tls(endpoint)?;
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(MAX_FRAME_BYTES)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE))
}

#[cfg(feature = "client-tls")]
fn with_tls(endpoint: Endpoint) -> Result<Endpoint, Error> {
    use tonic::transport::ClientTlsConfig;

    match endpoint.uri().scheme_str() {
        Some("https") => endpoint.tls_config(ClientTlsConfig::new().with_native_roots()),
        _ => Ok(endpoint),
    }
}
