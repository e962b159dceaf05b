//! What an upload sends.

use bytes::Bytes;

use super::error::Error;
use crate::checksum::Crc32c;

/// A piece of what is sent.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub(super) offset: u64,
    pub(super) data: Bytes,
    pub(super) checksum: Crc32c,
}

impl Piece {
    pub(super) fn new(offset: u64, data: Bytes) -> Self {
        let checksum = Crc32c::of(&data);
        Self {
            offset,
            data,
            checksum,
        }
    }

    pub(super) fn end(&self) -> u64 {
        self.offset + self.data.len() as u64
    }

    /// The checksum of all up to its end, where `before` is that of all before it.
    pub(super) fn behind(&self, before: Crc32c) -> Crc32c {
        before.combine(self.checksum, self.data.len() as u64)
    }

    /// The same bytes in pieces of at most `most`.
    pub(super) fn cut(self, most: usize) -> Vec<Self> {
        if self.data.len() <= most {
            return vec![self];
        }
        let starts = (0..self.data.len()).step_by(most);
        starts
            .map(|start| {
                let end = self.data.len().min(start + most);
                Self::new(self.offset + start as u64, self.data.slice(start..end))
            })
            .collect()
    }
}

/// A sequence of bytes that can be sent from where the server has the ones before.
pub(super) trait Source: Send {
    /// Proves that the first `length` bytes have this checksum, and goes on behind them, in pieces
    /// of `piece` bytes.
    fn resume(
        &mut self,
        length: u64,
        checksum: Crc32c,
        piece: usize,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// The next piece; none at the end. Dropped before it is there, it is not lost.
    fn next(&mut self) -> impl Future<Output = Result<Option<Piece>, Error>> + Send;

    /// Size and checksum of the whole, once it has been sent.
    fn finish(&mut self) -> impl Future<Output = Result<(u64, Crc32c), Error>> + Send;

    /// Notes that the server will not need the first `length` bytes again.
    fn durable(&mut self, length: u64);

    /// What to upload under once the server has a finished upload, whose result was `etag`, under
    /// `id`.
    fn next_id(&self, id: &str, etag: &str) -> String;
}
