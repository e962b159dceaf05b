//! What a store can be told.

use std::time::Duration;

/// Whether a store may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessMode {
    /// Creates the root where it is missing, and keeps out every other server that would write.
    ReadWrite,
    /// Writes nothing and locks nothing: it can stand beside a server that writes, or on a disk
    /// that cannot be written.
    ReadOnly,
}

/// How a store keeps its files.
#[derive(Clone, Debug)]
pub struct Settings {
    /// [`AccessMode::ReadWrite`] by default.
    pub access: AccessMode,
    /// How long an upload that nobody goes on with is kept, and the result of one that is
    /// finished. 24 hours by default.
    pub upload_ttl: Duration,
    /// After how many bytes an upload is made durable again, at the latest; it is in any case a
    /// second after bytes came. 64 MiB by default.
    pub checkpoint_bytes: u64,
    /// The largest upload that is taken, in bytes. As large as a file can be by default.
    pub max_upload_bytes: u64,
    /// How many uploads may be open at a time, each with two descriptors. 256 by default.
    pub max_open_uploads: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            access: AccessMode::ReadWrite,
            upload_ttl: Duration::from_secs(24 * 60 * 60),
            checkpoint_bytes: 64 * 1024 * 1024,
            max_upload_bytes: i64::MAX as u64,
            max_open_uploads: 256,
        }
    }
}

impl Settings {
    /// The defaults, but that nothing is written.
    pub fn read_only() -> Self {
        Self {
            access: AccessMode::ReadOnly,
            ..Self::default()
        }
    }
}
