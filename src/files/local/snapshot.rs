//! Reads from one version of a file, never a mixture of two.

use std::io;

use cap_std::fs::Metadata;

use crate::files::{
    error::Error,
    local::{
        closer::{ClosedElsewhere, Closer},
        disk,
        version::{Fingerprint, fingerprint, version},
    },
    version::Version,
};

/// An open file. Reads continue on the old version after the file is replaced.
#[derive(Debug)]
pub(crate) struct FileSnapshot {
    file: ClosedElsewhere,
    pub(crate) version: Version,
    fingerprint: Fingerprint,
}

impl FileSnapshot {
    pub(super) fn new(file: std::fs::File, closer: &Closer) -> Result<Self, Error> {
        let metadata = metadata(&file)?;
        Ok(Self {
            version: version(&file, &metadata)?,
            fingerprint: fingerprint(&metadata),
            file: ClosedElsewhere::new(file, closer),
        })
    }

    /// Fills `bytes` with the bytes from `offset` on.
    ///
    /// Fails with [`Error::FileChanged`] if the file was changed in place since it was opened, and with
    /// [`Error::Io`] if it ends before `bytes` is full.
    pub(crate) fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<(), Error> {
        let read = disk::read_exact_at(&self.file, bytes, offset);
        self.verify_unchanged()?;
        read.map_err(|error| Error::io("read the file", error))
    }

    /// Fills a prefix of `bytes` from the page cache, and returns its length in bytes.
    ///
    /// Does not wait for the disk where the system supports that.
    /// Fails like [`FileSnapshot::read`], but only if `bytes` is full.
    pub(crate) fn try_read_cached(&self, offset: u64, bytes: &mut [u8]) -> Result<usize, Error> {
        // An error occurs again in the read that waits for the disk, and is reported there.
        let read = read_nowait(&self.file, offset, bytes).unwrap_or(0);
        if read == bytes.len() {
            self.verify_unchanged()?;
        }
        Ok(read)
    }

    /// Checks the version after a read: a file's mtime moves before its bytes do.
    fn verify_unchanged(&self) -> Result<(), Error> {
        match fingerprint(&metadata(&self.file)?) == self.fingerprint {
            true => Ok(()),
            false => Err(Error::FileChanged),
        }
    }
}

/// Reads from the page cache. Filesystems that may block elsewhere, such as network filesystems, refuse.
#[cfg(target_os = "linux")]
fn read_nowait(file: &std::fs::File, offset: u64, bytes: &mut [u8]) -> io::Result<usize> {
    use rustix::io::{ReadWriteFlags, preadv2};

    let bytes = &mut [io::IoSliceMut::new(bytes)];
    Ok(preadv2(file, bytes, offset, ReadWriteFlags::NOWAIT)?)
}

/// Reads nothing: other systems do not say what is in the page cache.
#[cfg(not(target_os = "linux"))]
fn read_nowait(_: &std::fs::File, _: u64, _: &mut [u8]) -> io::Result<usize> {
    Ok(0)
}

fn metadata(file: &std::fs::File) -> Result<Metadata, Error> {
    disk::fstat(file).map_err(|error| Error::io("inspect the file", error))
}
