//! A file that is read in pieces.

use std::sync::Arc;

use super::joined;
use crate::{
    checksum::Crc32c,
    files::{error::Error, local::Reader, version::Version},
};

/// An open file, one version of it however long reading takes.
#[derive(Clone, Debug)]
pub(crate) struct Download {
    file: Arc<Reader>,
}

impl Download {
    pub(super) fn new(file: Reader) -> Self {
        let file = Arc::new(file);
        Self { file }
    }

    /// What was opened.
    pub(crate) fn version(&self) -> &Version {
        &self.file.version
    }

    /// Reads `length` bytes, all of which the file has, and sums them up while they are in the
    /// processor's cache.
    pub(crate) async fn read(
        &self,
        offset: u64,
        length: usize,
    ) -> Result<(Vec<u8>, Crc32c), Error> {
        let file = Arc::clone(&self.file);
        joined(tokio::task::spawn_blocking(move || {
            let bytes = file.read(offset, length)?;
            let crc32c = Crc32c::of(&bytes);
            Ok((bytes, crc32c))
        }))
        .await
    }
}
