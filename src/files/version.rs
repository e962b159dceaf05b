//! One version of a file.

use std::time::SystemTime;

/// What tells one version of a file from another. Each write through the store makes a new one; so
/// does a change by another program, unless it keeps the size and puts the time of change back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// In bytes.
    pub size: u64,
    /// Opaque, ASCII, at most 128 bytes.
    pub etag: String,
    /// When the content last changed.
    pub modified_at: SystemTime,
}
