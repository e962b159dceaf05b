//! An upload that is being received: what has come is written behind the receiver's back, and made
//! durable from time to time, while more comes.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    task::{JoinHandle, spawn_blocking},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{Store, joined};
use crate::{
    checksum::Crc32c,
    files::{error::Error, local, upload::Progress, version::Version},
};

/// How much is gathered for the next write, in bytes. While that is under way, as much again may
/// come.
const BATCH_BYTES: usize = 1024 * 1024;

/// What a chunk takes beside its bytes, about. Counted, so that many small ones are bounded too.
const CHUNK_OVERHEAD: usize = 128;

/// How long what has come may wait for a checkpoint.
const CHECKPOINT_AFTER: Duration = Duration::from_secs(1);

/// A piece of a file on its way in.
#[derive(Debug)]
pub(crate) struct Chunk {
    /// In bytes from the start of the file.
    pub(crate) offset: u64,
    /// Of the bytes, as far as the client knows it.
    pub(crate) crc32c: Option<Crc32c>,
    pub(crate) bytes: Bytes,
}

/// An upload in the hands of one stream.
pub(crate) struct Upload {
    store: Store,
    upload: Arc<local::UploadHandle>,
    superseded: CancellationToken,
    /// What has come and is not being written yet.
    batch: Vec<Chunk>,
    batch_bytes: usize,
    writing: Option<JoinHandle<Result<(), Error>>>,
    checkpoint: Option<JoinHandle<Result<Progress, Error>>>,
    /// Why a checkpoint failed. It fails, too, after a chunk has made the upload impossible; so it
    /// is told only when what is being written turns out to be right.
    failed: Option<Error>,
    /// How many bytes have come to this stream.
    received: u64,
    /// How many of them had, when the batch that is being written was taken.
    taken: u64,
    /// How many of them are written.
    written: u64,
    /// How many of them were, when the last checkpoint began.
    syncing: u64,
    /// When the next checkpoint is due, if something has come.
    due: Option<Instant>,
}

impl Upload {
    pub(super) fn new(
        store: Store,
        upload: local::UploadHandle,
        superseded: CancellationToken,
    ) -> Self {
        Self {
            store,
            upload: Arc::new(upload),
            superseded,
            batch: Vec::new(),
            batch_bytes: 0,
            writing: None,
            checkpoint: None,
            failed: None,
            received: 0,
            taken: 0,
            written: 0,
            syncing: 0,
            due: None,
        }
    }

    /// Whether another chunk may be pushed. If not, [`Upload::advanced`] makes room.
    pub(crate) fn has_room(&self) -> bool {
        self.batch_bytes < BATCH_BYTES
    }

    /// Takes a chunk in, to be written by [`Upload::advanced`]. Whether it fits, and is what it should
    /// be, shows then.
    pub(crate) fn push(&mut self, chunk: Chunk) {
        self.batch_bytes += chunk.bytes.len() + CHUNK_OVERHEAD;
        self.received += chunk.bytes.len() as u64;
        self.due
            .get_or_insert_with(|| Instant::now() + CHECKPOINT_AFTER);
        self.batch.push(chunk);
    }

    /// Drives the writing. Completes when something has been written, without progress; at the end
    /// of a checkpoint, with it; and when something has failed. May be dropped and called again at
    /// any time.
    pub(crate) async fn advanced(&mut self) -> Result<Option<Progress>, Error> {
        loop {
            if self.writing.is_none()
                && let Some(error) = self.failed.take()
            {
                return Err(error);
            }
            self.write();
            if self.lags() {
                self.sync();
            }
            let due = self.due.filter(|_| self.checkpoint.is_none());
            tokio::select! {
                () = self.superseded.cancelled() => return Err(Error::Superseded),
                written = running(&mut self.writing) => {
                    return self.wrote(written).map(|()| None);
                }
                progress = running(&mut self.checkpoint) => {
                    if let Some(progress) = self.synced(progress) {
                        return Ok(Some(progress));
                    }
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => self.sync(),
            }
        }
    }

    /// Makes durable all that has come.
    pub(crate) async fn pause(&mut self) -> Result<Progress, Error> {
        self.settle().await?;
        let upload = Arc::clone(&self.upload);
        joined(spawn_blocking(move || upload.checkpoint())).await
    }

    /// Makes durable what can be, after something has failed. Fails if something is wrong with what
    /// came before that.
    pub(crate) async fn keep(&mut self) -> Result<(), Error> {
        let settled = self.settle().await;
        // If this fails too, the first failure is the one that counts.
        let _ = self.pause().await;
        settled
    }

    /// Puts the file in its place, if it is what the client says it is.
    pub(crate) async fn finish(
        &mut self,
        size: u64,
        crc32c: Option<Crc32c>,
    ) -> Result<Version, Error> {
        self.settle().await?;
        let upload = Arc::clone(&self.upload);
        self.store
            .blocking(move |local| local.finish_upload(&upload, size, crc32c))
            .await
    }

    /// Whether enough has been written for a checkpoint.
    fn lags(&self) -> bool {
        self.written - self.syncing >= self.store.checkpoint_bytes
    }

    /// Begins to write what has come, unless something is being written, or a checkpoint is under
    /// way and enough for the next has been: else a disk that is slow to sync would fall behind
    /// without bound.
    fn write(&mut self) {
        let held_up = self.checkpoint.is_some() && self.lags();
        if self.batch.is_empty() || self.writing.is_some() || self.failed.is_some() || held_up {
            return;
        }
        self.taken = self.received;
        let batch = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        let upload = Arc::clone(&self.upload);
        self.writing = Some(spawn_blocking(move || {
            batch
                .into_iter()
                .try_for_each(|chunk| upload.append(chunk.offset, chunk.crc32c, &chunk.bytes))
        }));
    }

    /// Begins a checkpoint, unless one is under way.
    fn sync(&mut self) {
        if self.checkpoint.is_none() {
            self.syncing = self.written;
            // What is still on its way to the disk waits for the one after.
            let rest = self.received > self.written;
            self.due = rest.then(|| Instant::now() + CHECKPOINT_AFTER);
            let upload = Arc::clone(&self.upload);
            self.checkpoint = Some(spawn_blocking(move || upload.checkpoint()));
        }
    }

    /// Waits until all that has come is written and no checkpoint is under way.
    async fn settle(&mut self) -> Result<(), Error> {
        loop {
            if self.checkpoint.is_some() {
                let progress = running(&mut self.checkpoint).await;
                self.synced(progress);
            }
            self.write();
            if self.writing.is_none() {
                return self.failed.take().map_or(Ok(()), Err);
            }
            let written = running(&mut self.writing).await;
            self.wrote(written)?;
        }
    }

    fn synced(&mut self, result: Result<Progress, Error>) -> Option<Progress> {
        self.checkpoint = None;
        result.map_err(|error| self.failed = Some(error)).ok()
    }

    fn wrote(&mut self, result: Result<(), Error>) -> Result<(), Error> {
        self.writing = None;
        match &result {
            Ok(()) => self.written = self.taken,
            // What came behind the chunk that failed does not count.
            Err(_) => {
                self.batch.clear();
                self.batch_bytes = 0;
            }
        }
        result
    }
}

/// The result of work under way; never, if there is none.
async fn running<T>(work: &mut Option<JoinHandle<Result<T, Error>>>) -> Result<T, Error> {
    match work {
        Some(work) => joined(work).await,
        None => std::future::pending().await,
    }
}
