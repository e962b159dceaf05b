//! What was refused or cut, by the limit that said so.

use crate::counter::Counter;

/// The limits that the server keeps itself. `docs/limits.md` has all there are; those of HTTP/2 are
/// kept by h2, which does not say when.
#[derive(Clone, Copy, Debug)]
pub(in crate::server) enum Limit {
    MaxConnections,
    MaxConnectionsPerAddress,
    MaxCalls,
    MaxUploads,
    MaxUploadBytes,
    MessageBytes,
    ChunkBytes,
    HandshakeTimeout,
    WriteStallTimeout,
    KeepaliveTimeout,
    IdleTimeout,
    MaxDeadline,
    ShutdownGrace,
    Silence,
}

impl Limit {
    pub(super) const ALL: [Self; 14] = [
        Self::MaxConnections,
        Self::MaxConnectionsPerAddress,
        Self::MaxCalls,
        Self::MaxUploads,
        Self::MaxUploadBytes,
        Self::MessageBytes,
        Self::ChunkBytes,
        Self::HandshakeTimeout,
        Self::WriteStallTimeout,
        Self::KeepaliveTimeout,
        Self::IdleTimeout,
        Self::MaxDeadline,
        Self::ShutdownGrace,
        Self::Silence,
    ];

    /// As its flag or constant is called.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::MaxConnections => "max_connections",
            Self::MaxConnectionsPerAddress => "max_connections_per_address",
            Self::MaxCalls => "max_calls",
            Self::MaxUploads => "max_uploads",
            Self::MaxUploadBytes => "max_upload_bytes",
            Self::MessageBytes => "message_bytes",
            Self::ChunkBytes => "chunk_bytes",
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

/// How often each limit was reached. All workers count together: it is rare.
#[derive(Debug, Default)]
pub(in crate::server) struct Refusals([Counter; Limit::ALL.len()]);

impl Refusals {
    pub(in crate::server) fn add(&self, limit: Limit) {
        self.0[limit as usize].add(1);
    }

    pub(super) fn of(&self, limit: Limit) -> u64 {
        self.0[limit as usize].get()
    }
}
