//! An open file for reading.

use std::{ops::Range, sync::Arc};

use super::blocking::Pool;
use crate::files::{error::Error, local::FileSnapshot, stats::StoreStats, version::Version};

/// An open file. All reads see the version that was opened. Clones share the file.
#[derive(Clone, Debug)]
pub(crate) struct OpenFile {
    file: Arc<FileSnapshot>,
    stats: Arc<StoreStats>,
    reads: Pool,
}

impl OpenFile {
    pub(super) fn new(file: FileSnapshot, stats: Arc<StoreStats>, reads: Pool) -> Self {
        let file = Arc::new(file);
        Self { file, stats, reads }
    }

    /// The version that was opened.
    pub(crate) fn version(&self) -> &Version {
        &self.file.version
    }

    /// Fills the range `part` of `buffer` with the bytes from `offset` on. The file must have all of them.
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
        // Copying from the page cache takes less time than waking another thread.
        let cached = self
            .file
            .try_read_cached(offset, &mut buffer[part.clone()])?;
        part.start += cached;
        if part.is_empty() {
            return Ok(buffer);
        }
        let file = Arc::clone(&self.file);
        let read = move || {
            file.read(offset + cached as u64, &mut buffer[part])?;
            Ok(buffer)
        };
        self.reads.clone().run(read).await
    }
}
