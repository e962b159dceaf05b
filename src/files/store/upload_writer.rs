//! Writes an upload while it is received: chunks are gathered into batches, which are written and
//! checkpointed on blocking threads while more chunks are received.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::blocking::Pool;
use crate::{
    checksum::Crc32c,
    commit_point::CommitPoint,
    files::{
        error::Error,
        local::{Local, UploadHandle},
        path::FilePath,
        upload::Progress,
        version::Version,
    },
};

/// The size of a batch. While it is written, the next one may grow to the same size.
const MAX_BATCH_BYTES: usize = 1024 * 1024;

/// The approximate memory of a chunk in addition to its bytes. Counting it bounds the number of small chunks.
const CHUNK_OVERHEAD_BYTES: usize = 128;

/// The maximum time from the receipt of a chunk to the start of its checkpoint.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(1);

/// A received part of a file.
#[derive(Debug)]
pub(crate) struct Chunk {
    /// In bytes from the start of the file.
    pub(crate) offset: u64,
    /// The checksum of the bytes, if the client sent one.
    pub(crate) crc32c: Option<Crc32c>,
    pub(crate) bytes: Bytes,
}

/// The call that an upload's stream belongs to, and the file that it is about to replace.
pub(super) struct UploadCall {
    pub(super) path: FilePath,
    pub(super) point: CommitPoint,
}

/// Work on one of the store's threads.
type Work<T> = BoxFuture<'static, Result<T, Error>>;

/// Writes an upload that one stream owns.
pub(crate) struct UploadWriter {
    local: Arc<Local>,
    writes: Pool,
    checkpoint_bytes: u64,
    call: UploadCall,
    upload: Arc<UploadHandle>,
    superseded: CancellationToken,
    /// The chunks that are not being written yet.
    batch: Vec<Chunk>,
    batch_bytes: usize,
    write: Option<Work<()>>,
    checkpoint: Option<Work<Progress>>,
    /// The failure of a checkpoint, reported only after the current write succeeds: a chunk that makes the
    /// upload impossible fails the checkpoint as well, and the chunk's failure is the cause.
    checkpoint_error: Option<Error>,
    /// The bytes received by this stream.
    received: u64,
    /// The value of `received` when the current write started.
    writing: u64,
    /// The bytes that are written.
    written: u64,
    /// The value of `written` when the last checkpoint started.
    checkpointed: u64,
    /// When the next checkpoint starts. None if there is nothing to make durable.
    due: Option<Instant>,
}

impl UploadWriter {
    pub(super) fn new(
        local: Arc<Local>,
        writes: Pool,
        checkpoint_bytes: u64,
        call: UploadCall,
        upload: UploadHandle,
        superseded: CancellationToken,
    ) -> Self {
        Self {
            local,
            writes,
            checkpoint_bytes,
            call,
            upload: Arc::new(upload),
            superseded,
            batch: Vec::new(),
            batch_bytes: 0,
            write: None,
            checkpoint: None,
            checkpoint_error: None,
            received: 0,
            writing: 0,
            written: 0,
            checkpointed: 0,
            due: None,
        }
    }

    /// Whether another chunk may be pushed. [`UploadWriter::progress`] frees capacity.
    pub(crate) fn has_capacity(&self) -> bool {
        self.batch_bytes < MAX_BATCH_BYTES
    }

    /// Adds a chunk to the batch. [`UploadWriter::progress`] writes it, and reports a wrong offset or
    /// checksum.
    pub(crate) fn push(&mut self, chunk: Chunk) {
        self.batch_bytes += chunk.bytes.len() + CHUNK_OVERHEAD_BYTES;
        self.received += chunk.bytes.len() as u64;
        self.due
            .get_or_insert_with(|| Instant::now() + CHECKPOINT_INTERVAL);
        self.batch.push(chunk);
    }

    /// Drives writes and checkpoints. Cancel safe.
    ///
    /// Completes after a write with None, after a checkpoint with its progress, and after a failure with the
    /// error.
    pub(crate) async fn progress(&mut self) -> Result<Option<Progress>, Error> {
        loop {
            if self.write.is_none()
                && let Some(error) = self.checkpoint_error.take()
            {
                return Err(error);
            }
            self.start_write();
            if self.checkpoint_due() {
                self.start_checkpoint();
            }
            let due = self.due.filter(|_| self.checkpoint.is_none());
            tokio::select! {
                () = self.superseded.cancelled() => return Err(Error::Superseded),
                written = join_or_pending(&mut self.write) => {
                    return self.on_written(written).map(|()| None);
                }
                progress = join_or_pending(&mut self.checkpoint) => {
                    if let Some(progress) = self.on_checkpoint(progress) {
                        return Ok(Some(progress));
                    }
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.start_checkpoint();
                }
            }
        }
    }

    /// Makes all received chunks durable.
    pub(crate) async fn pause(&mut self) -> Result<Progress, Error> {
        self.flush().await?;
        let upload = Arc::clone(&self.upload);
        self.run(move || upload.checkpoint()).await
    }

    /// Makes durable what is valid after a failure. Fails if a chunk received before the failure is invalid.
    pub(crate) async fn salvage(&mut self) -> Result<(), Error> {
        let flushed = self.flush().await;
        // A failure of the checkpoint is not reported: the first failure counts.
        let _ = self.pause().await;
        flushed
    }

    /// Commits the file if its size and checksum match.
    pub(crate) async fn finish(
        &mut self,
        size: u64,
        crc32c: Option<Crc32c>,
    ) -> Result<Version, Error> {
        let target = self.local.target(self.call.path.clone());
        let turn = self.local.next_turn(self.call.point.clone());
        while self.write.is_some() || self.checkpoint.is_some() {
            self.settle().await?;
        }
        self.checkpoint_error.take().map_or(Ok(()), Err)?;
        // A small file takes one thread to its end.
        let batch = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        let (local, upload) = (Arc::clone(&self.local), Arc::clone(&self.upload));
        self.run(move || {
            append_all(&upload, batch)?;
            local.finish_upload(&upload, (&target, &turn), size, crc32c)
        })
        .await
    }

    fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Work<T> {
        Box::pin(self.writes.clone().run(work))
    }

    /// Whether enough bytes are written for a checkpoint.
    fn checkpoint_due(&self) -> bool {
        self.written - self.checkpointed >= self.checkpoint_bytes
    }

    /// Starts to write the batch, unless a write is running or the current checkpoint falls behind: without
    /// this backpressure, a disk that syncs slowly would accumulate unsynced bytes without bound.
    fn start_write(&mut self) {
        let checkpoint_lags = self.checkpoint.is_some() && self.checkpoint_due();
        if self.batch.is_empty()
            || self.write.is_some()
            || self.checkpoint_error.is_some()
            || checkpoint_lags
        {
            return;
        }
        self.writing = self.received;
        let batch = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        let upload = Arc::clone(&self.upload);
        self.write = Some(self.run(move || append_all(&upload, batch)));
    }

    /// Starts a checkpoint, unless one is running.
    fn start_checkpoint(&mut self) {
        if self.checkpoint.is_none() {
            self.checkpointed = self.written;
            // Chunks that are not written yet are part of the next checkpoint.
            let has_rest = self.received > self.written;
            self.due = has_rest.then(|| Instant::now() + CHECKPOINT_INTERVAL);
            let upload = Arc::clone(&self.upload);
            self.checkpoint = Some(self.run(move || upload.checkpoint()));
        }
    }

    /// Waits until all chunks are written and no checkpoint is running.
    async fn flush(&mut self) -> Result<(), Error> {
        loop {
            if self.checkpoint.is_none() {
                self.start_write();
            }
            if self.write.is_none() && self.checkpoint.is_none() {
                return self.checkpoint_error.take().map_or(Ok(()), Err);
            }
            self.settle().await?;
        }
    }

    /// Waits for the checkpoint that is running, or else for the write.
    async fn settle(&mut self) -> Result<(), Error> {
        if self.checkpoint.is_some() {
            let progress = join_or_pending(&mut self.checkpoint).await;
            self.on_checkpoint(progress);
            return Ok(());
        }
        let written = join_or_pending(&mut self.write).await;
        self.on_written(written)
    }

    fn on_checkpoint(&mut self, result: Result<Progress, Error>) -> Option<Progress> {
        self.checkpoint = None;
        result
            .map_err(|error| self.checkpoint_error = Some(error))
            .ok()
    }

    fn on_written(&mut self, result: Result<(), Error>) -> Result<(), Error> {
        self.write = None;
        match &result {
            Ok(()) => self.written = self.writing,
            // Chunks behind the failed one are dropped.
            Err(_) => {
                self.batch.clear();
                self.batch_bytes = 0;
            }
        }
        result
    }
}

/// Waits for the result of a running task. Never completes without one.
async fn join_or_pending<T>(work: &mut Option<Work<T>>) -> Result<T, Error> {
    match work {
        Some(work) => work.await,
        None => std::future::pending().await,
    }
}

fn append_all(upload: &UploadHandle, batch: Vec<Chunk>) -> Result<(), Error> {
    batch
        .into_iter()
        .try_for_each(|chunk| upload.append(chunk.offset, chunk.crc32c, &chunk.bytes))
}
