//! Sources of uploads, which return chunks and resume from the offset that the server has.

use bytes::Bytes;

use super::error::Error;
use crate::checksum::{Crc32c, Prefix};

/// A chunk of an upload, with its checksum.
#[derive(Clone, Debug)]
pub(super) struct SourceChunk {
    pub(super) offset: u64,
    pub(super) data: Bytes,
    pub(super) crc32c: Crc32c,
}

impl SourceChunk {
    pub(super) fn new(offset: u64, data: Bytes) -> Self {
        let crc32c = Crc32c::of(&data);
        Self {
            offset,
            data,
            crc32c,
        }
    }

    /// The offset of the first byte after the chunk.
    pub(super) fn end(&self) -> u64 {
        self.offset + self.data.len() as u64
    }

    /// Extends `prefix`, which must end where the chunk starts. The chunk is not read again.
    pub(super) fn append_to(&self, prefix: Prefix) -> Prefix {
        prefix.combine(Prefix {
            len: self.data.len() as u64,
            crc32c: self.crc32c,
        })
    }

    /// Splits the chunk into chunks of at most `max_len` bytes.
    pub(super) fn split(self, max_len: usize) -> Vec<Self> {
        if self.data.len() <= max_len {
            return vec![self];
        }
        let starts = (0..self.data.len()).step_by(max_len);
        starts
            .map(|start| {
                let end = self.data.len().min(start + max_len);
                Self::new(self.offset + start as u64, self.data.slice(start..end))
            })
            .collect()
    }
}

/// A sequence of bytes that can be sent from the offset that the server has reached.
pub(super) trait UploadSource: Send {
    /// Continues after `persisted`, in chunks of `chunk_len` bytes.
    ///
    /// # Errors
    ///
    /// The source does not begin with `persisted`, or can no longer be read from there.
    fn resume(
        &mut self,
        persisted: Prefix,
        chunk_len: usize,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// Reads the next chunk, `None` at the end. Cancel safe.
    fn next_chunk(&mut self) -> impl Future<Output = Result<Option<SourceChunk>, Error>> + Send;

    /// Returns size and checksum of the whole source, once its last chunk has been read.
    fn finish(&mut self) -> impl Future<Output = Result<Prefix, Error>> + Send;

    /// Reads the whole source and returns its size and checksum, `None` if it can be read only once.
    fn whole(&mut self) -> impl Future<Output = Result<Option<Prefix>, Error>> + Send;

    /// Releases what is held of the first `len` bytes, which are durable on the server.
    fn release(&mut self, len: u64);
}
