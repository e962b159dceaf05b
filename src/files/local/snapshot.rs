//! A file as it was opened, or a failure: never a mixture of two versions.

use std::{io, os::unix::fs::FileExt};

use cap_std::fs::{File, Metadata};

use crate::files::{
    error::Error,
    local::{Stamp, stamp, version},
    version::Version,
};

/// An open file. Replacing the file does not touch it: it goes on with the old version.
#[derive(Debug)]
pub(crate) struct Reader {
    file: std::fs::File,
    pub(crate) version: Version,
    stamp: Stamp,
}

impl Reader {
    pub(super) fn new(file: File) -> Result<Self, Error> {
        let file = file.into_std();
        let metadata = metadata(&file)?;
        Ok(Self {
            file,
            version: version(&metadata),
            stamp: stamp(&metadata),
        })
    }

    /// Fills `bytes` from `offset` on. The file has to have all of them.
    ///
    /// Fails with [`Error::FileChanged`] if the file is no longer what it was when it was opened.
    pub(crate) fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<(), Error> {
        let read = self.file.read_exact_at(bytes, offset);
        self.unchanged()?;
        read.map_err(|error| Error::io("read the file", error))
    }

    /// The same without waiting for the disk, as far as that goes: fills the beginning of `bytes`
    /// and says how much of it.
    ///
    /// Fails like [`Reader::read`], but only where there is nothing left to be read.
    pub(crate) fn read_cached(&self, offset: u64, bytes: &mut [u8]) -> Result<usize, Error> {
        // What is wrong shows when the disk is asked.
        let read = cached(&self.file, offset, bytes).unwrap_or(0);
        if read == bytes.len() {
            self.unchanged()?;
        }
        Ok(read)
    }

    /// To be asked after the bytes were read: a file's time of change moves before its bytes do.
    fn unchanged(&self) -> Result<(), Error> {
        match stamp(&metadata(&self.file)?) == self.stamp {
            true => Ok(()),
            false => Err(Error::FileChanged),
        }
    }
}

/// Reads what is in memory. Filesystems that may have to wait for something else, such as those of
/// a network, refuse.
#[cfg(target_os = "linux")]
fn cached(file: &std::fs::File, offset: u64, bytes: &mut [u8]) -> io::Result<usize> {
    use rustix::io::{ReadWriteFlags, preadv2};

    let bytes = &mut [io::IoSliceMut::new(bytes)];
    Ok(preadv2(file, bytes, offset, ReadWriteFlags::NOWAIT)?)
}

/// Others do not say what is in memory.
#[cfg(not(target_os = "linux"))]
fn cached(_: &std::fs::File, _: u64, _: &mut [u8]) -> io::Result<usize> {
    Ok(0)
}

fn metadata(file: &std::fs::File) -> Result<Metadata, Error> {
    Metadata::from_file(file).map_err(|error| Error::io("look at the file", error))
}
