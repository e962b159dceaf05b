//! A file as it was opened, or a failure: never a mixture of two versions.

use std::os::unix::fs::FileExt;

use cap_std::fs::{File, Metadata};

use crate::files::{error::Error, local::version, version::Version};

/// An open file. Replacing the file does not touch it: it goes on with the old version.
#[derive(Debug)]
pub(crate) struct Reader {
    file: std::fs::File,
    pub(crate) version: Version,
}

impl Reader {
    pub(super) fn new(file: File) -> Result<Self, Error> {
        let file = file.into_std();
        let version = version(&metadata(&file)?);
        Ok(Self { file, version })
    }

    /// Reads `length` bytes, all of which the file has to have.
    ///
    /// Fails with [`Error::FileChanged`] if the file is no longer what it was when it was opened.
    pub(crate) fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; length];
        let read = self.file.read_exact_at(&mut bytes, offset);
        // A file's time of change moves before its bytes do, so this look comes after the bytes.
        if version(&metadata(&self.file)?) != self.version {
            return Err(Error::FileChanged);
        }
        read.map_err(|error| Error::io("read the file", error))?;
        Ok(bytes)
    }
}

fn metadata(file: &std::fs::File) -> Result<Metadata, Error> {
    Metadata::from_file(file).map_err(|error| Error::io("look at the file", error))
}
