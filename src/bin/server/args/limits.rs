//! The flags for limits on clients.

use clap::Args as Flags;
use humantime::Duration;
use muxs::server::Limits;

#[derive(Debug, Flags)]
#[command(next_help_heading = "Limits")]
pub(crate) struct LimitArgs {
    /// Connections at a time
    #[arg(
        long,
        value_name = "COUNT",
        env = "MUXS_MAX_CONNECTIONS",
        default_value = "10000"
    )]
    max_connections: usize,

    /// Connections at a time from one IPv4 address or IPv6 network of 64 bits
    #[arg(
        long,
        value_name = "COUNT",
        env = "MUXS_MAX_CONNECTIONS_PER_ADDRESS",
        default_value = "1000"
    )]
    max_connections_per_address: usize,

    /// Calls at a time on one connection; further ones wait at the client
    #[arg(
        long,
        value_name = "COUNT",
        env = "MUXS_MAX_STREAMS",
        default_value = "128"
    )]
    max_streams: u32,

    /// Calls at a time on all connections
    #[arg(
        long,
        value_name = "COUNT",
        env = "MUXS_MAX_CALLS",
        default_value = "4096"
    )]
    max_calls: usize,

    /// How long a client may take for the TLS handshake, and for the first bytes of HTTP/2
    #[arg(
        long,
        value_name = "DURATION",
        env = "MUXS_HANDSHAKE_TIMEOUT",
        default_value = "5s"
    )]
    handshake_timeout: Duration,

    /// How long a client may take nothing from its socket while bytes wait for it
    #[arg(
        long,
        value_name = "DURATION",
        env = "MUXS_WRITE_STALL_TIMEOUT",
        default_value = "60s"
    )]
    write_stall_timeout: Duration,

    /// How long a connection may be silent before the client is asked whether it is there
    #[arg(
        long,
        value_name = "DURATION",
        env = "MUXS_KEEPALIVE_INTERVAL",
        default_value = "60s"
    )]
    keepalive_interval: Duration,

    /// How long the client may take to answer that
    #[arg(
        long,
        value_name = "DURATION",
        env = "MUXS_KEEPALIVE_TIMEOUT",
        default_value = "20s"
    )]
    keepalive_timeout: Duration,

    /// How long the server waits for the next step of an upload, or for the message of a call that
    /// has one
    #[arg(
        long,
        value_name = "DURATION",
        env = "MUXS_IDLE_TIMEOUT",
        default_value = "60s"
    )]
    idle_timeout: Duration,

    /// The most time a call may take, whatever its client says [default: no limit]
    #[arg(long, value_name = "DURATION", env = "MUXS_MAX_DEADLINE")]
    max_deadline: Option<Duration>,

    /// After how long a connection takes no further calls, give or take a tenth [default: never]
    #[arg(long, value_name = "DURATION", env = "MUXS_MAX_CONNECTION_AGE")]
    max_connection_age: Option<Duration>,
}

impl LimitArgs {
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            max_connections: self.max_connections,
            max_connections_per_address: self.max_connections_per_address,
            max_streams: self.max_streams,
            max_calls: self.max_calls,
            handshake_timeout: self.handshake_timeout.into(),
            write_stall_timeout: self.write_stall_timeout.into(),
            keepalive_interval: self.keepalive_interval.into(),
            keepalive_timeout: self.keepalive_timeout.into(),
            idle_timeout: self.idle_timeout.into(),
            max_deadline: self.max_deadline.map(Into::into),
            max_connection_age: self.max_connection_age.map(Into::into),
        }
    }
}
