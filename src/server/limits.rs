//! The limits on what clients may take.

use std::time::Duration;

/// Limits on what clients may take, and on how long they may keep the server waiting.
///
/// `docs/limits.md` says what each limit prevents, and what a client gets that exceeds it.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Maximum number of open connections. 10,000 by default.
    pub max_connections: usize,
    /// Maximum number of open connections from one IPv4 address, or from one IPv6 network of 64 bits.
    /// 1,000 by default.
    pub max_connections_per_address: usize,
    /// Maximum number of concurrent calls on one connection; further calls wait at the client. 128 by
    /// default.
    pub max_streams: u32,
    /// Maximum number of concurrent calls of all clients. A call counts from its admission until its
    /// response is sent or dropped. Methods with [`MethodPolicy::uncounted`](super::MethodPolicy::uncounted),
    /// such as health checks, do not count. 4,096 by default.
    pub max_calls: usize,
    /// Timeout of the TLS handshake, and again of the first bytes of HTTP/2. 5 s by default.
    pub handshake_timeout: Duration,
    /// Timeout of a blocked write: the client reads nothing from its socket. 60 s by default.
    pub write_stall_timeout: Duration,
    /// Time without received bytes after which the server sends an HTTP/2 PING. The PING is sent after
    /// twice this time at the latest. 60 s by default.
    pub keepalive_interval: Duration,
    /// Timeout of the answer to that PING. 20 s by default.
    pub keepalive_timeout: Duration,
    /// Time that the server waits for the next bytes of a request. Applies to methods with a single request
    /// message, and to streams with
    /// [`MethodPolicy::active_requests`](super::MethodPolicy::active_requests). 60 s by default.
    pub idle_timeout: Duration,
    /// Maximum duration of a call, whatever deadline its client sets. Unlimited by default.
    pub max_deadline: Option<Duration>,
    /// Age at which a connection takes no further calls, varied by up to a tenth. Unlimited by default.
    pub max_connection_age: Option<Duration>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            max_connections_per_address: 1_000,
            max_streams: 128,
            max_calls: 4_096,
            handshake_timeout: Duration::from_secs(5),
            write_stall_timeout: Duration::from_secs(60),
            keepalive_interval: Duration::from_secs(60),
            keepalive_timeout: Duration::from_secs(20),
            idle_timeout: Duration::from_secs(60),
            max_deadline: None,
            max_connection_age: None,
        }
    }
}
