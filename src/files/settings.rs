//! Settings of a store.

use std::time::Duration;

/// Whether a store may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessMode {
    /// Creates a missing root, and locks it against other writing servers.
    ReadWrite,
    /// Writes nothing and locks nothing: works beside a writing server, and on a read-only disk.
    ReadOnly,
}

/// Configures a store.
#[derive(Clone, Debug)]
pub struct Settings {
    /// [`AccessMode::ReadWrite`] by default.
    pub access: AccessMode,
    /// How long an idle upload is kept, and the result of a finished one. 24 hours by default.
    pub upload_ttl: Duration,
    /// The bytes after which an upload has a checkpoint. Independently of them, it has one a second after
    /// bytes were received. 64 MiB by default.
    pub checkpoint_bytes: u64,
    /// The maximum size of an upload, in bytes. By default, the maximum size of a file.
    pub max_upload_bytes: u64,
    /// The maximum number of open uploads. Each has two file descriptors. 256 by default.
    pub max_open_uploads: usize,
    /// The maximum number of unfinished uploads: those that are open, and those with bytes on the disk. 10,000
    /// by default.
    pub max_unfinished_uploads: usize,
    /// The maximum number of unfinished uploads of one owner, on a server that requires access tokens. 1,000
    /// by default.
    pub max_unfinished_uploads_per_owner: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            access: AccessMode::ReadWrite,
            upload_ttl: Duration::from_secs(24 * 60 * 60),
            checkpoint_bytes: 64 * 1024 * 1024,
            max_upload_bytes: i64::MAX as u64,
            max_open_uploads: 256,
            max_unfinished_uploads: 10_000,
            max_unfinished_uploads_per_owner: 1_000,
        }
    }
}

impl Settings {
    /// The defaults, with [`AccessMode::ReadOnly`].
    pub fn read_only() -> Self {
        Self {
            access: AccessMode::ReadOnly,
            ..Self::default()
        }
    }
}
