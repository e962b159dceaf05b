//! A reader as the source of an upload: what may be needed again is kept.

use std::{collections::VecDeque, future};

use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};
use uuid::Uuid;

use super::{
    error::Error,
    source::{Piece, Source},
};
use crate::checksum::Crc32c;

/// The most that is kept until the server has it durable, in bytes: four times what a server takes
/// between two checkpoints.
const MOST_KEPT: u64 = 256 * 1024 * 1024;

pub(super) struct Reader<'a> {
    reader: Box<dyn AsyncRead + Send + Unpin + 'a>,
    piece: usize,
    /// The beginning of the piece that is being read.
    partial: BytesMut,
    at_end: bool,
    /// What has been read, or is durable, in total, and its checksum.
    read: u64,
    checksum: Crc32c,
    /// Size and checksum of what is no longer kept.
    dropped: u64,
    dropped_checksum: Crc32c,
    kept: VecDeque<Piece>,
    /// How many of those have been sent in this attempt.
    sent: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(reader: Box<dyn AsyncRead + Send + Unpin + 'a>) -> Self {
        Self {
            reader,
            piece: 0,
            partial: BytesMut::new(),
            at_end: false,
            read: 0,
            checksum: Crc32c::default(),
            dropped: 0,
            dropped_checksum: Crc32c::default(),
            kept: VecDeque::new(),
            sent: 0,
        }
    }

    /// Forgets the pieces that are whole within the first `length` bytes.
    fn forget(&mut self, length: u64) {
        while let Some(piece) = self.kept.pop_front_if(|piece| piece.end() <= length) {
            self.dropped = piece.end();
            self.dropped_checksum = piece.behind(self.dropped_checksum);
            self.sent = self.sent.saturating_sub(1);
        }
    }
}

impl Source for Reader<'_> {
    async fn resume(&mut self, length: u64, checksum: Crc32c, piece: usize) -> Result<(), Error> {
        self.forget(length);
        if length < self.dropped || length > self.read {
            return Err(Error::CannotRewind { offset: length });
        }
        let mut found = self.dropped_checksum;
        if let Some(first) = self.kept.pop_front() {
            // The server may have made a piece durable in part.
            let mut sent = first.data;
            let unsent = sent.split_off((length - self.dropped) as usize);
            found = found.update(&sent);
            self.kept.push_front(Piece::new(length, unsent));
        }
        // A server that was restarted may take smaller pieces than before.
        let kept = std::mem::take(&mut self.kept).into_iter();
        self.kept = kept.flat_map(|kept| kept.cut(piece)).collect();
        if found != checksum {
            return Err(Error::CannotRewind { offset: 0 });
        }
        self.dropped = length;
        self.dropped_checksum = found;
        self.piece = piece;
        self.sent = 0;
        Ok(())
    }

    async fn next(&mut self) -> Result<Option<Piece>, Error> {
        if let Some(again) = self.kept.get(self.sent) {
            self.sent += 1;
            return Ok(Some(again.clone()));
        }
        if self.read - self.dropped >= MOST_KEPT {
            // Until the server has more of it durable, when this is asked again.
            return future::pending().await;
        }
        while !self.at_end && self.partial.len() < self.piece {
            let missing = self.piece - self.partial.len();
            self.partial.reserve(missing);
            let mut room = (&mut self.partial).limit(missing);
            let got = self.reader.read_buf(&mut room).await;
            self.at_end = 0
                == got.map_err(|source| Error::Stream {
                    operation: "read the input",
                    source,
                })?;
        }
        if self.partial.is_empty() {
            return Ok(None);
        }
        let length = self.partial.len().min(self.piece);
        let piece = Piece::new(self.read, self.partial.split_to(length).freeze());
        self.read = piece.end();
        self.checksum = piece.behind(self.checksum);
        self.kept.push_back(piece.clone());
        self.sent += 1;
        Ok(Some(piece))
    }

    async fn finish(&mut self) -> Result<(u64, Crc32c), Error> {
        Ok((self.read, self.checksum))
    }

    fn durable(&mut self, length: u64) {
        self.forget(length);
    }

    fn next_id(&self, _id: &str, _etag: &str) -> String {
        random_id()
    }
}

/// An id for what no other run can continue.
pub(super) fn random_id() -> String {
    Uuid::new_v4().to_string()
}
