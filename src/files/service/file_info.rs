//! Converts the version of a file to its message.

use crate::{
    checksum::Crc32c,
    files::{path::FilePath, version::Version},
    pb,
};

pub(super) fn file_info(path: &FilePath, version: Version) -> pb::FileInfo {
    pb::FileInfo {
        filename: path.as_str().to_owned(),
        size: version.size,
        etag: version.etag,
        modified_at: Some(version.modified_at.into()),
        crc32c: version.crc32c.map(Crc32c::value),
    }
}
