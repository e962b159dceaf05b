//! A reader as the source of an upload, with a replay buffer of the bytes that are not yet durable.

use std::{collections::VecDeque, future};

use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};
use uuid::Uuid;

use super::{
    error::Error,
    source::{SourceChunk, UploadSource},
};
use crate::checksum::Prefix;

/// The size of the replay buffer: four times what a server receives between two checkpoints.
const MAX_REPLAY_BYTES: u64 = 256 * 1024 * 1024;

pub(super) struct ReaderSource<'a> {
    reader: Box<dyn AsyncRead + Send + Unpin + 'a>,
    chunk_len: usize,
    /// The beginning of the next chunk.
    partial: BytesMut,
    at_end: bool,
    /// All that was read as chunks.
    read: Prefix,
    /// The part of `read` that is no longer held.
    released: Prefix,
    /// The chunks between `released` and `read`.
    replay: VecDeque<SourceChunk>,
    /// The number of chunks in `replay` that were returned in this attempt.
    returned: usize,
}

impl<'a> ReaderSource<'a> {
    pub(super) fn new(reader: Box<dyn AsyncRead + Send + Unpin + 'a>) -> Self {
        Self {
            reader,
            chunk_len: 0,
            partial: BytesMut::new(),
            at_end: false,
            read: Prefix::default(),
            released: Prefix::default(),
            replay: VecDeque::new(),
            returned: 0,
        }
    }
}

impl UploadSource for ReaderSource<'_> {
    async fn resume(&mut self, persisted: Prefix, chunk_len: usize) -> Result<(), Error> {
        self.release(persisted.len);
        if persisted.len < self.released.len || persisted.len > self.read.len {
            return Err(Error::CannotRewind {
                offset: persisted.len,
            });
        }
        let mut found = self.released;
        if let Some(first) = self.replay.pop_front() {
            // A checkpoint of the server may lie within a chunk.
            let mut sent = first.data;
            let unsent = sent.split_off((persisted.len - self.released.len) as usize);
            found = found.update(&sent);
            self.replay
                .push_front(SourceChunk::new(persisted.len, unsent));
        }
        // A restarted server may have a smaller limit than before.
        let replay = std::mem::take(&mut self.replay).into_iter();
        self.replay = replay.flat_map(|chunk| chunk.split(chunk_len)).collect();
        if found != persisted {
            return Err(Error::CannotRewind { offset: 0 });
        }
        self.released = found;
        self.chunk_len = chunk_len;
        self.returned = 0;
        Ok(())
    }

    async fn next_chunk(&mut self) -> Result<Option<SourceChunk>, Error> {
        if let Some(chunk) = self.replay.get(self.returned) {
            self.returned += 1;
            return Ok(Some(chunk.clone()));
        }
        if self.read.len - self.released.len >= MAX_REPLAY_BYTES {
            // The caller drops this future at the next progress of the server, and calls again.
            return future::pending().await;
        }
        while !self.at_end && self.partial.len() < self.chunk_len {
            let missing = self.chunk_len - self.partial.len();
            self.partial.reserve(missing);
            let mut buffer = (&mut self.partial).limit(missing);
            let read = self.reader.read_buf(&mut buffer).await;
            self.at_end = 0
                == read.map_err(|source| Error::Stream {
                    operation: "read the input",
                    source,
                })?;
        }
        if self.partial.is_empty() {
            return Ok(None);
        }
        let len = self.partial.len().min(self.chunk_len);
        let chunk = SourceChunk::new(self.read.len, self.partial.split_to(len).freeze());
        self.read = chunk.append_to(self.read);
        self.replay.push_back(chunk.clone());
        self.returned += 1;
        Ok(Some(chunk))
    }

    async fn finish(&mut self) -> Result<Prefix, Error> {
        Ok(self.read)
    }

    async fn whole(&mut self) -> Result<Option<Prefix>, Error> {
        Ok(None)
    }

    fn release(&mut self, len: u64) {
        while let Some(chunk) = self.replay.pop_front_if(|chunk| chunk.end() <= len) {
            self.released = chunk.append_to(self.released);
            self.returned = self.returned.saturating_sub(1);
        }
    }
}

/// Generates the id of an upload that no other run can continue.
pub(super) fn random_upload_id() -> String {
    Uuid::new_v4().to_string()
}
