//! One version of a file.

use std::time::SystemTime;

/// What distinguishes one version of a file from every other: a file that is replaced or changed
/// has another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// In bytes.
    pub size: u64,
    /// Opaque, ASCII, at most 128 bytes. Equal only for the same version of the same file.
    pub etag: String,
    /// When the content last changed.
    pub modified_at: SystemTime,
}
