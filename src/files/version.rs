//! The version of a file.

use std::time::SystemTime;

use crate::checksum::Crc32c;

/// Identifies one version of a file.
///
/// Each write through the store makes a new version. So does a change by another program, unless the program
/// keeps the size and restores the mtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// The size in bytes.
    pub size: u64,
    /// An opaque tag: ASCII, at most 128 bytes.
    pub etag: String,
    /// When the content last changed.
    pub modified_at: SystemTime,
    /// The checksum of the content, if it is known without reading the file.
    pub crc32c: Option<Crc32c>,
}
