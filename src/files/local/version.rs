//! The version of a file: its metadata, and the nonce that its commit left in an attribute.
//!
//! Inode, size and mtime alone come back: where a filesystem keeps whole seconds, the third version of a name
//! within one has the inode and the time of the first.

use std::{
    fs, io,
    time::{Duration, SystemTime},
};

use cap_std::fs::{Metadata, MetadataExt};
use parking_lot::Mutex;
use uuid::Uuid;

use crate::{
    checksum::Crc32c,
    files::{error::Error, local::disk, version::Version},
};

/// The attribute of a file that a commit put in place: its nonce, its fingerprint and its checksum.
const VERSION: &str = "user.muxs.version";

/// More than the attribute ever has, in bytes.
const MAX_VERSION_BYTES: usize = 128;

/// The identity of a file's version: inode, size in bytes, and mtime in seconds and nanoseconds.
///
/// The time of change of the inode (ctime) is left out: it moves when a file is replaced while it is being
/// read.
pub(super) type Fingerprint = (u64, u64, i64, i64);

pub(super) fn fingerprint(metadata: &Metadata) -> Fingerprint {
    let (seconds, nanoseconds) = (metadata.mtime(), metadata.mtime_nsec());
    (metadata.ino(), metadata.len(), seconds, nanoseconds)
}

/// How the versions below a root are distinguished.
#[derive(Debug)]
pub(super) enum Versions {
    /// By a random nonce, kept in an attribute of the file.
    Nonces,
    /// By the mtime in nanoseconds, which is later than that of all versions before it.
    Times(Mutex<SystemTime>),
}

impl Versions {
    /// Finds out what the filesystem of a new file supports. None if versions cannot be distinguished.
    pub(super) fn probe(file: &fs::File) -> io::Result<Option<Self>> {
        match disk::set_xattr(file, VERSION, "") {
            Ok(()) => return Ok(Some(Self::Nonces)),
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
            Err(error) => return Err(error),
        }
        let time = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
        disk::set_mtime(file, time)?;
        let is_exact = file.metadata()?.modified()? == time;
        Ok(is_exact.then(|| Self::Times(Mutex::new(time))))
    }

    /// Makes a file, which has all its bytes, a version of its own.
    pub(super) fn mark(&self, file: &fs::File, crc32c: Crc32c) -> io::Result<Version> {
        let nonce = match self {
            Self::Nonces => {
                disk::set_mtime(file, SystemTime::now())?;
                let (nonce, _) = Uuid::new_v4().as_u64_pair();
                Some(format!("{nonce:016x}"))
            }
            Self::Times(last) => {
                let time = {
                    let mut last = last.lock();
                    *last = SystemTime::now().max(*last + Duration::from_nanos(1));
                    *last
                };
                disk::set_mtime(file, time)?;
                None
            }
        };
        let metadata = disk::fstat(file)?;
        if let Some(nonce) = &nonce {
            let (_, size, seconds, nanoseconds) = fingerprint(&metadata);
            let crc32c = crc32c.value();
            let text = format!("{nonce} {size:x} {seconds:x}.{nanoseconds:x} {crc32c:08x}");
            disk::set_xattr(file, VERSION, &text)?;
        }
        Ok(describe(&metadata, nonce.as_deref(), Some(crc32c)))
    }
}

/// The nonce of a file, and its checksum if the file did not change since. None for the file of another program.
fn read_mark(file: &fs::File, metadata: &Metadata) -> io::Result<Option<(String, Option<Crc32c>)>> {
    let mut buffer = [0; MAX_VERSION_BYTES];
    let text = disk::xattr(file, VERSION, &mut buffer)?;
    let text = text.and_then(|text| str::from_utf8(text).ok());
    Ok(text.and_then(|text| parse_mark(text, metadata)))
}

fn parse_mark(text: &str, metadata: &Metadata) -> Option<(String, Option<Crc32c>)> {
    let (nonce, rest) = text.split_once(' ')?;
    let (found, crc32c) = rest.rsplit_once(' ')?;
    if nonce.len() != 16 || !nonce.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let (_, size, seconds, nanoseconds) = fingerprint(metadata);
    let is_current = found == format!("{size:x} {seconds:x}.{nanoseconds:x}");
    let crc32c = u32::from_str_radix(crc32c, 16).ok()?;
    Some((nonce.to_owned(), is_current.then(|| crc32c.into())))
}

/// The version of an open file.
pub(super) fn version(file: &fs::File, metadata: &Metadata) -> Result<Version, Error> {
    let mark = read_mark(file, metadata).map_err(|error| Error::io("inspect the file", error))?;
    let (nonce, crc32c) = mark.unzip();
    Ok(describe(metadata, nonce.as_deref(), crc32c.flatten()))
}

fn describe(metadata: &Metadata, nonce: Option<&str>, crc32c: Option<Crc32c>) -> Version {
    Version {
        size: metadata.len(),
        etag: etag(metadata, nonce),
        modified_at: metadata
            .modified()
            .map(|time| time.into_std())
            .ok()
            .filter(|time| is_wire_timestamp(*time))
            .unwrap_or(SystemTime::UNIX_EPOCH),
        crc32c,
    }
}

fn etag(metadata: &Metadata, nonce: Option<&str>) -> String {
    let (inode, size, seconds, nanoseconds) = fingerprint(metadata);
    let etag = format!("{inode:x}-{size:x}-{seconds:x}.{nanoseconds:x}");
    match nonce {
        Some(nonce) => etag + "-" + nonce,
        None => etag,
    }
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
