//! The flags for limits on clients.

use std::time::Duration;

use clap::Args as Flags;
use muxs::server::Limits;

use super::values::{parse_count, parse_nonzero_duration};

#[derive(Debug, Flags)]
#[command(next_help_heading = "Limits")]
pub(crate) struct LimitArgs {
    /// Open connections, in all
    #[arg(
        long,
        value_name = "COUNT",
        env = "MUXS_MAX_CONNECTIONS",
        default_value = "10000",
        value_parser = parse_count::<usize>
    )]
    max_connections: usize,

    /// Open connections from one IPv4 address, or from one IPv6 /64 network
    #[arg(
        long,
        value_name = "COUNT",
        env = "MUXS_MAX_CONNECTIONS_PER_ADDRESS",
        default_value = "1000",
        value_parser = parse_count::<usize>
    )]
    max_connections_per_address: usize,

    /// Concurrent calls on one connection; clients hold back further calls
    #[arg(
        long,
        value_name = "COUNT",
        env = "MUXS_MAX_STREAMS",
        default_value = "128",
        value_parser = parse_count::<u32>
    )]
    max_streams: u32,

    /// Concurrent calls, in all; further calls fail with BUSY
    #[arg(
        long,
        value_name = "COUNT",
        env = "MUXS_MAX_CALLS",
        default_value = "4096",
        value_parser = parse_count::<usize>
    )]
    max_calls: usize,

    /// Time for the TLS handshake, and again for the client's first HTTP/2 bytes
    #[arg(
        long,
        value_name = "DURATION",
        env = "MUXS_HANDSHAKE_TIMEOUT",
        default_value = "5s",
        value_parser = parse_nonzero_duration
    )]
    handshake_timeout: Duration,

    /// Close a connection if the client reads nothing for this time while data waits for it
    #[arg(
        long,
        value_name = "DURATION",
        env = "MUXS_WRITE_STALL_TIMEOUT",
        default_value = "60s",
        value_parser = parse_nonzero_duration
    )]
    write_stall_timeout: Duration,

    /// Ping the client after this time without a byte from it
    #[arg(
        long,
        value_name = "DURATION",
        env = "MUXS_KEEPALIVE_INTERVAL",
        default_value = "60s",
        value_parser = parse_nonzero_duration
    )]
    keepalive_interval: Duration,

    /// Close a connection if the client does not answer a ping in this time
    #[arg(
        long,
        value_name = "DURATION",
        env = "MUXS_KEEPALIVE_TIMEOUT",
        default_value = "20s",
        value_parser = parse_nonzero_duration
    )]
    keepalive_timeout: Duration,

    /// End a call whose client does not send the next step of an upload, or its only request
    /// message, in this time
    #[arg(
        long,
        value_name = "DURATION",
        env = "MUXS_IDLE_TIMEOUT",
        default_value = "60s",
        value_parser = parse_nonzero_duration
    )]
    idle_timeout: Duration,

    /// End a call after this time, even if the client's deadline is later [default: no limit]
    #[arg(
        long,
        value_name = "DURATION",
        env = "MUXS_MAX_DEADLINE",
        value_parser = parse_nonzero_duration
    )]
    max_deadline: Option<Duration>,

    /// Accept no further calls on a connection of this age, varied by up to 10 %
    /// [default: no limit]
    #[arg(
        long,
        value_name = "DURATION",
        env = "MUXS_MAX_CONNECTION_AGE",
        value_parser = parse_nonzero_duration
    )]
    max_connection_age: Option<Duration>,
}

impl LimitArgs {
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            max_connections: self.max_connections,
            max_connections_per_address: self.max_connections_per_address,
            max_streams: self.max_streams,
            max_calls: self.max_calls,
            handshake_timeout: self.handshake_timeout,
            write_stall_timeout: self.write_stall_timeout,
            keepalive_interval: self.keepalive_interval,
            keepalive_timeout: self.keepalive_timeout,
            idle_timeout: self.idle_timeout,
            max_deadline: self.max_deadline,
            max_connection_age: self.max_connection_age,
        }
    }
}
