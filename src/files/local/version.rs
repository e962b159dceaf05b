//! The version of a file, from its metadata.

use std::time::SystemTime;

use cap_std::fs::{Metadata, MetadataExt};

use crate::files::version::Version;

/// The identity of a file's version: inode, size in bytes, and mtime in seconds and nanoseconds.
///
/// A replacement has another inode as long as the old file is open, and each commit sets an mtime in
/// nanoseconds. The time of change of the inode (ctime) is left out: it moves when a file is replaced while
/// it is being read.
pub(super) type Fingerprint = (u64, u64, i64, i64);

pub(super) fn fingerprint(metadata: &Metadata) -> Fingerprint {
    let (seconds, nanoseconds) = (metadata.mtime(), metadata.mtime_nsec());
    (metadata.ino(), metadata.len(), seconds, nanoseconds)
}

pub(super) fn version(metadata: &Metadata) -> Version {
    Version {
        size: metadata.len(),
        etag: etag(metadata),
        modified_at: metadata
            .modified()
            .map(|time| time.into_std())
            .ok()
            .filter(|time| is_wire_timestamp(*time))
            .unwrap_or(SystemTime::UNIX_EPOCH),
        crc32c: None,
    }
}

fn etag(metadata: &Metadata) -> String {
    let (inode, size, seconds, nanoseconds) = fingerprint(metadata);
    format!("{inode:x}-{size:x}-{seconds:x}.{nanoseconds:x}")
}

/// Whether a time lies in the years 1 to 9999, the range of a timestamp on the wire. Files may claim others.
fn is_wire_timestamp(time: SystemTime) -> bool {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => after.as_secs() < 253_402_300_800,
        Err(before) => before.duration().as_secs() < 62_135_596_800,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_outside_years_1_to_9999_are_not_sent() {
        let seconds = Duration::from_secs;
        let epoch = SystemTime::UNIX_EPOCH;
        for time in [epoch, SystemTime::now(), epoch - seconds(62_135_596_799)] {
            assert!(is_wire_timestamp(time), "{time:?}");
        }
        for time in [epoch - seconds(1 << 40), epoch + seconds(253_402_300_800)] {
            assert!(!is_wire_timestamp(time), "{time:?}");
        }
    }
}
