//! A file that is read in pieces.

use std::{ops::Range, sync::Arc};

use super::joined;
use crate::files::{error::Error, local::FileSnapshot, stats::StoreStats, version::Version};

/// An open file, one version of it however long reading takes.
#[derive(Clone, Debug)]
pub(crate) struct Download {
    file: Arc<FileSnapshot>,
    stats: Arc<StoreStats>,
}

impl Download {
    pub(super) fn new(file: FileSnapshot, stats: Arc<StoreStats>) -> Self {
        let file = Arc::new(file);
        Self { file, stats }
    }

    /// What was opened.
    pub(crate) fn version(&self) -> &Version {
        &self.file.version
    }

    /// Fills `part` of `buffer` from `offset` on. The file has to have all of it.
    pub(crate) async fn read(
        &self,
        offset: u64,
        buffer: Vec<u8>,
        part: Range<usize>,
    ) -> Result<Vec<u8>, Error> {
        let bytes = part.len() as u64;
        let read = self.read_uncounted(offset, buffer, part).await?;
        self.stats.read_bytes.add(bytes);
        Ok(read)
    }

    async fn read_uncounted(
        &self,
        offset: u64,
        mut buffer: Vec<u8>,
        mut part: Range<usize>,
    ) -> Result<Vec<u8>, Error> {
        // What is in memory is copied sooner than another thread is woken.
        let cached = self
            .file
            .try_read_cached(offset, &mut buffer[part.clone()])?;
        part.start += cached;
        if part.is_empty() {
            return Ok(buffer);
        }
        let file = Arc::clone(&self.file);
        joined(tokio::task::spawn_blocking(move || {
            file.read(offset + cached as u64, &mut buffer[part])?;
            Ok(buffer)
        }))
        .await
    }
}
