//! Uploads, from opening to commit, over as many attempts as necessary.

use std::{future::IntoFuture, path::PathBuf, pin::Pin, time::Duration};

use bytes::Bytes;
use tokio::{
    io::AsyncRead,
    time::{Instant, sleep_until},
};
use tonic::Code;

use super::{
    call::{SentStep, WriteCall, stat},
    error::Error,
    event::{Event, EventSink},
    local::FileSource,
    reader_source::{ReaderSource, random_upload_id},
    retry::Attempts,
    source::{SourceChunk, UploadSource},
};
use crate::{
    checksum::{Crc32c, Prefix},
    pb::{self, write_stream_request::Step, write_stream_response::State},
};

/// The largest chunk to send, in bytes, even if the server accepts larger ones.
const MAX_CHUNK: u32 = 1024 * 1024;

/// The chunk size, in bytes, for a server that does not name its limit.
const DEFAULT_CHUNK: u32 = 256 * 1024;

/// The longest wait for calls whose result does not matter: aborting an upload, ending a stream.
const CLEANUP_TIMEOUT: Duration = Duration::from_secs(5);

/// The time without a chunk from the source after which an empty one is sent. Servers end an upload that
/// is idle for about a minute.
const UPLOAD_KEEPALIVE: Duration = Duration::from_secs(15);

/// An upload that starts when it is awaited, and returns the committed file's description.
///
/// # Errors
///
/// See [`Error`]. After [`Error::SourceChanged`], or the failure of a reader, the server discards the
/// upload. After any other failure of a file's upload, the same upload continues where this one ended, for
/// as long as the server keeps it.
#[must_use = "nothing is sent until it is awaited"]
pub struct Upload<'a> {
    attempts: Attempts,
    origin: Origin<'a>,
    filename: String,
    if_etag: Option<String>,
    events: EventSink<'a>,
}

enum Origin<'a> {
    File(PathBuf),
    Reader(Box<dyn AsyncRead + Send + Unpin + 'a>),
}

impl<'a> Upload<'a> {
    pub(super) fn from_file(attempts: Attempts, path: PathBuf, filename: String) -> Self {
        Self::new(attempts, Origin::File(path), filename)
    }

    pub(super) fn from_reader(
        attempts: Attempts,
        reader: Box<dyn AsyncRead + Send + Unpin + 'a>,
        filename: String,
    ) -> Self {
        Self::new(attempts, Origin::Reader(reader), filename)
    }

    fn new(attempts: Attempts, origin: Origin<'a>, filename: String) -> Self {
        Self {
            attempts,
            origin,
            filename,
            if_etag: None,
            events: EventSink::default(),
        }
    }

    /// Fails with ALREADY_EXISTS, instead of replacing it, if the server has a file of that name.
    pub fn create_only(self) -> Self {
        self.if_etag("")
    }

    /// Replaces only the version with this etag; fails with FAILED_PRECONDITION, reason
    /// `ETAG_MISMATCH`, if the server has another version or none.
    pub fn if_etag(mut self, etag: impl Into<String>) -> Self {
        self.if_etag = Some(etag.into());
        self
    }

    /// Calls `watch` for each event. The transfer waits for its return, so it should be quick.
    pub fn on_event(mut self, watch: impl FnMut(Event) + Send + 'a) -> Self {
        self.events = EventSink::new(watch);
        self
    }

    async fn run(self) -> Result<pb::FileInfo, Error> {
        let mut open = pb::OpenUpload {
            filename: self.filename,
            if_etag: self.if_etag,
            ..Default::default()
        };
        match self.origin {
            Origin::File(path) => {
                let file = FileSource::open(path).await?;
                if !file.has_size() {
                    let reader = Box::new(file.into_reader());
                    return Self::run_reader(self.attempts, open, reader, self.events).await;
                }
                open.upload_id = file.upload_id(&open.filename, open.if_etag.as_deref());
                open.size = Some(file.size());
                UploadRun::new(self.attempts, open, file, self.events)
                    .run()
                    .await
            }
            Origin::Reader(reader) => {
                Self::run_reader(self.attempts, open, reader, self.events).await
            }
        }
    }

    async fn run_reader(
        attempts: Attempts,
        mut open: pb::OpenUpload,
        reader: Box<dyn AsyncRead + Send + Unpin + 'a>,
        events: EventSink<'a>,
    ) -> Result<pb::FileInfo, Error> {
        open.upload_id = random_upload_id();
        let reader = ReaderSource::new(reader);
        UploadRun::new(attempts, open, reader, events).run().await
    }
}

impl<'a> IntoFuture for Upload<'a> {
    type Output = Result<pb::FileInfo, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

/// An upload in progress.
struct UploadRun<'a, S> {
    open: pb::OpenUpload,
    source: S,
    events: EventSink<'a>,
    attempts: Attempts,
    /// Whether this run has sent `finish`, so that the file may have been committed by it.
    finish_sent: bool,
}

impl<'a, S: UploadSource> UploadRun<'a, S> {
    fn new(attempts: Attempts, open: pb::OpenUpload, source: S, events: EventSink<'a>) -> Self {
        Self {
            attempts,
            open,
            source,
            events,
            finish_sent: false,
        }
    }

    async fn run(mut self) -> Result<pb::FileInfo, Error> {
        loop {
            let error = match self.attempt().await {
                Ok(info) => return Ok(info),
                Err(error) => error,
            };
            match error {
                Error::Replaced => self.attempts.start_over(error, &mut self.events)?,
                Error::PrefixDiffers { .. } => self.start_over(error).await?,
                _ if error.has_reason(&["UPLOAD_MISMATCH"]) => self.start_over(error).await?,
                // The server has discarded the upload with this failure.
                _ if self.open.size.is_some()
                    && error.has_reason(&["SIZE_MISMATCH", "CHECKSUM_MISMATCH"]) =>
                {
                    self.attempts.start_over(error, &mut self.events)?;
                }
                Error::SourceChanged(_) | Error::Stream { .. } | Error::CannotRewind { .. } => {
                    self.abort().await;
                    return Err(error);
                }
                _ => self.attempts.wait_to_retry(error, &mut self.events).await?,
            }
        }
    }

    /// Runs one attempt, from opening to commit.
    async fn attempt(&mut self) -> Result<pb::FileInfo, Error> {
        let mut call = WriteCall::open(&mut self.attempts.session, self.open.clone()).await?;
        let progress = match call.responses.next().await? {
            State::Progress(progress) => progress,
            State::Committed(info) => return self.check_committed(info).await,
        };
        let chunk_len = match progress.max_chunk_bytes {
            0 => DEFAULT_CHUNK,
            limit => limit.min(MAX_CHUNK),
        };
        let offset = progress.persisted_size;
        let persisted = Prefix {
            len: offset,
            crc32c: progress.persisted_crc32c.into(),
        };
        self.source.resume(persisted, chunk_len as usize).await?;
        self.source.release(offset);
        self.attempts.record_progress(offset);
        let size = self.open.size;
        self.events.emit(Event::Opened { offset, size });
        self.send(call, offset).await
    }

    /// Sends the rest of the source and reads the responses; one that fails ends it at once.
    async fn send(&mut self, mut call: WriteCall, offset: u64) -> Result<pb::FileInfo, Error> {
        let (mut transferred, mut durable) = (offset, offset);
        let mut next: Option<Step> = None;
        let mut all_read = false;
        let mut last_sent = Instant::now();
        loop {
            tokio::select! {
                biased;
                response = call.responses.next() => match response? {
                    State::Progress(progress) => {
                        durable = durable.max(progress.persisted_size);
                        self.source.release(durable);
                        self.attempts.record_progress(durable);
                        self.events.emit(Event::Advanced { transferred, durable });
                    }
                    State::Committed(info) => {
                        // The call's status no longer matters: the file is in place.
                        let _ = tokio::time::timeout(CLEANUP_TIMEOUT, call.responses.end()).await;
                        return Ok(info);
                    }
                },
                sent = call.requests.send(&mut next), if next.is_some() => match sent {
                    SentStep::Chunk(end) => {
                        transferred = end;
                        last_sent = Instant::now();
                        self.events.emit(Event::Advanced { transferred, durable });
                    }
                    SentStep::Finish => self.finish_sent = true,
                },
                chunk = self.source.next_chunk(), if next.is_none() && !all_read => {
                    next = Some(match chunk? {
                        Some(chunk) => Step::Chunk(chunk.into()),
                        None => {
                            all_read = true;
                            let whole = self.source.finish().await?;
                            Step::Finish(pb::FinishUpload {
                                size: whole.len,
                                crc32c: Some(whole.crc32c.value()),
                            })
                        }
                    });
                }
                () = sleep_until(last_sent + UPLOAD_KEEPALIVE), if next.is_none() && !all_read => {
                    next = Some(Step::Chunk(keepalive_chunk(transferred)));
                }
            }
        }
    }

    /// Handles an upload that was finished before this attempt.
    ///
    /// Either an earlier attempt finished it and its response was lost, or an earlier run did, and the file may
    /// have been replaced since.
    async fn check_committed(&mut self, info: pb::FileInfo) -> Result<pb::FileInfo, Error> {
        if self.finish_sent {
            return Ok(info);
        }
        let found = match stat(&mut self.attempts.session, &self.open.filename).await {
            Ok(found) => Some(found),
            Err(error) if error.code() == Some(Code::NotFound) => None,
            Err(error) => return Err(error),
        };
        if found.is_some_and(|found| found.etag == info.etag) {
            self.events.emit(Event::AlreadyUploaded);
            return Ok(info);
        }
        self.open.upload_id = self.source.next_upload_id(&self.open.upload_id, &info.etag);
        Err(Error::Replaced)
    }

    async fn start_over(&mut self, reason: Error) -> Result<(), Error> {
        self.attempts.start_over(reason, &mut self.events)?;
        self.abort().await;
        Ok(())
    }

    /// Aborts the upload on the server. If that fails, the upload expires.
    async fn abort(&mut self) {
        let message = pb::AbortUploadRequest {
            filename: self.open.filename.clone(),
            upload_id: self.open.upload_id.clone(),
        };
        let session = &mut self.attempts.session;
        let abort = async {
            let mut request = session.build_request(message).await?;
            request.set_timeout(CLEANUP_TIMEOUT);
            session.files().abort_upload(request).await?;
            Ok::<_, Error>(())
        };
        // The request's own timeout does not cover the wait for a token.
        let _ = tokio::time::timeout(CLEANUP_TIMEOUT, abort).await;
    }
}

fn keepalive_chunk(offset: u64) -> pb::Chunk {
    pb::Chunk {
        offset,
        crc32c: Some(Crc32c::of(&[]).value()),
        data: Bytes::new(),
    }
}

impl From<SourceChunk> for pb::Chunk {
    fn from(chunk: SourceChunk) -> Self {
        Self {
            offset: chunk.offset,
            crc32c: Some(chunk.crc32c.value()),
            data: chunk.data,
        }
    }
}
