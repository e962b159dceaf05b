//! How often each limit was reached.

use crate::counter::Counter;

/// The limits that the serving layer enforces. Services count their own. h2 enforces further ones and does not
/// report them; `docs/limits.md` lists all.
#[derive(Clone, Copy, Debug)]
pub(in crate::server) enum Limit {
    MaxConnections,
    MaxConnectionsPerAddress,
    MaxCalls,
    MessageBytes,
    HandshakeTimeout,
    WriteStallTimeout,
    KeepaliveTimeout,
    IdleTimeout,
    MaxDeadline,
    ShutdownGrace,
    Silence,
}

impl Limit {
    pub(in crate::server) const ALL: [Self; 11] = [
        Self::MaxConnections,
        Self::MaxConnectionsPerAddress,
        Self::MaxCalls,
        Self::MessageBytes,
        Self::HandshakeTimeout,
        Self::WriteStallTimeout,
        Self::KeepaliveTimeout,
        Self::IdleTimeout,
        Self::MaxDeadline,
        Self::ShutdownGrace,
        Self::Silence,
    ];

    /// The value of the label `limit`.
    pub(in crate::server) fn name(self) -> &'static str {
        match self {
            Self::MaxConnections => "max_connections",
            Self::MaxConnectionsPerAddress => "max_connections_per_address",
            Self::MaxCalls => "max_calls",
            Self::MessageBytes => "message_bytes",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::WriteStallTimeout => "write_stall_timeout",
            Self::KeepaliveTimeout => "keepalive_timeout",
            Self::IdleTimeout => "idle_timeout",
            Self::MaxDeadline => "max_deadline",
            Self::ShutdownGrace => "shutdown_grace",
            Self::Silence => "silence",
        }
    }
}

/// The number of calls and connections that each limit rejected or ended. All workers share it, since that is rare.
#[derive(Debug, Default)]
pub(in crate::server) struct LimitHits([Counter; Limit::ALL.len()]);

impl LimitHits {
    pub(in crate::server) fn add(&self, limit: Limit) {
        self.0[limit as usize].add(1);
    }

    pub(in crate::server) fn get(&self, limit: Limit) -> u64 {
        self.0[limit as usize].get()
    }
}
