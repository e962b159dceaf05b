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
    session::Session,
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

/// The longest wait for the answer to an abort that was asked for: the server removes gigabytes for it.
const ABORT_TIMEOUT: Duration = Duration::from_secs(60);

/// The number of times that an upload discards what earlier runs have left, at no cost. The second time it takes
/// an id that no run has used.
const MAX_LEFTOVERS: usize = 2;

/// The time without a chunk from the source after which an empty one is sent. Servers end an upload that
/// is idle for about a minute.
const UPLOAD_KEEPALIVE: Duration = Duration::from_secs(15);

/// An upload that starts when it is awaited, and returns the committed file's description.
///
/// # Errors
///
/// See [`Error`]. After [`Error::SourceChanged`], or the failure of a reader, the server discards the
/// upload. After any other failure of a file's upload, the same upload continues where this one ended, for
/// as long as the server keeps it and the file has the same bytes, whatever its times say.
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

    /// Discards the unfinished upload that this one would continue, instead of sending the file.
    ///
    /// Its id is derived from the names of machine, file and target and from the precondition, so the local file need
    /// not exist any more. A run that is sending the upload fails with ABORTED, reason `SUPERSEDED`.
    ///
    /// # Errors
    ///
    /// [`Error::Call`] with NOT_FOUND: the server has no such unfinished upload. That is the failure of an upload from
    /// a reader, too, since no other run can continue one. [`Error::Local`]: the directory of the file cannot be found.
    /// [`Error::Call`], [`Error::Token`], [`Error::RetriesExhausted`].
    pub async fn abort(mut self) -> Result<(), Error> {
        let upload_id = match self.origin {
            Origin::File(path) => {
                FileSource::upload_id_of(path, &self.filename, self.if_etag.as_deref()).await?
            }
            Origin::Reader(_) => random_upload_id(),
        };
        let (attempts, events) = (&mut self.attempts, &mut self.events);
        abort_upload(attempts, events, &self.filename, &upload_id).await
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
    /// Whether the server has accepted bytes of this run's source.
    has_begun: bool,
    /// How often this run has discarded what earlier runs left on the server.
    leftovers: usize,
    /// What this run has sent `finish` for, so that the file may have been committed by it.
    finished: Option<Prefix>,
}

impl<'a, S: UploadSource> UploadRun<'a, S> {
    fn new(attempts: Attempts, open: pb::OpenUpload, source: S, events: EventSink<'a>) -> Self {
        Self {
            attempts,
            open,
            source,
            events,
            has_begun: false,
            leftovers: 0,
            finished: None,
        }
    }

    async fn run(mut self) -> Result<pb::FileInfo, Error> {
        loop {
            let error = match self.attempt().await {
                Ok(info) => return Ok(info),
                Err(error) => error,
            };
            match error {
                Error::OtherVersion
                | Error::PrefixDiffers { .. }
                | Error::Replaced
                | Error::Unproven => self.start_over(error).await?,
                // The id is derived from everything but the size.
                _ if error.has_reason(&["UPLOAD_MISMATCH"]) => {
                    self.start_over(Error::OtherVersion).await?;
                }
                // The server has discarded the upload with this failure.
                _ if self.open.size.is_some()
                    && error.has_reason(&["SIZE_MISMATCH", "CHECKSUM_MISMATCH"]) =>
                {
                    self.attempts.start_over(error, &mut self.events)?;
                }
                Error::SourceChanged(_) | Error::Stream { .. } | Error::CannotRewind { .. } => {
                    self.abort(self.open.upload_id.clone()).await;
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
        let persisted = prefix(offset, progress.persisted_crc32c);
        self.source.resume(persisted, chunk_len as usize).await?;
        self.source.release(offset);
        self.attempts.record_progress(offset);
        self.has_begun = true;
        let size = self.open.size;
        self.events.emit(Event::Opened { offset, size });
        self.send(call, offset).await
    }

    /// Sends the rest of the source and reads the responses; one that fails ends it at once.
    async fn send(&mut self, mut call: WriteCall, offset: u64) -> Result<pb::FileInfo, Error> {
        let (mut transferred, mut durable) = (offset, offset);
        let mut next: Option<Step> = None;
        let mut whole = None;
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
                        return match self.is_as_finished(&info) {
                            true => Ok(info),
                            false => Err(Error::CommitDiffers),
                        };
                    }
                },
                sent = call.requests.send(&mut next), if next.is_some() => match sent {
                    SentStep::Chunk(end) => {
                        transferred = end;
                        last_sent = Instant::now();
                        self.events.emit(Event::Advanced { transferred, durable });
                    }
                    SentStep::Finish => self.finished = whole,
                },
                chunk = self.source.next_chunk(), if next.is_none() && whole.is_none() => {
                    next = Some(match chunk? {
                        Some(chunk) => Step::Chunk(chunk.into()),
                        None => {
                            let all = self.source.finish().await?;
                            whole = Some(all);
                            Step::Finish(pb::FinishUpload {
                                size: all.len,
                                crc32c: Some(all.crc32c.value()),
                            })
                        }
                    });
                }
                () = sleep_until(last_sent + UPLOAD_KEEPALIVE), if next.is_none() && whole.is_none() => {
                    next = Some(Step::Chunk(keepalive_chunk(transferred)));
                }
            }
        }
    }

    /// Whether this is the file that this run has sent `finish` for. A server that does not tell the checksum has
    /// checked that of `finish`.
    fn is_as_finished(&self, info: &pb::FileInfo) -> bool {
        self.finished.is_some_and(|finished| {
            let crc32c = info.crc32c.unwrap_or(finished.crc32c.value());
            finished == prefix(info.size, crc32c)
        })
    }

    /// Handles an upload that was finished before this attempt.
    ///
    /// Either an earlier attempt finished it and its response was lost, or an earlier run did: then the local file
    /// may be another by now, and the file may have been replaced since.
    async fn check_committed(&mut self, info: pb::FileInfo) -> Result<pb::FileInfo, Error> {
        if self.is_as_finished(&info) {
            return Ok(info);
        }
        let Some(crc32c) = info.crc32c else {
            return Err(Error::Unproven);
        };
        if self.source.whole().await? != Some(prefix(info.size, crc32c)) {
            return Err(Error::OtherVersion);
        }
        if !self.has_version(&info.etag).await? {
            return Err(Error::Replaced);
        }
        self.events.emit(Event::AlreadyUploaded);
        Ok(info)
    }

    /// Whether the file on the server is the version with this etag.
    async fn has_version(&mut self, etag: &str) -> Result<bool, Error> {
        match stat(&mut self.attempts.session, &self.open.filename).await {
            Ok(found) => Ok(found.etag == etag),
            Err(error) => match error.code() {
                Some(Code::NotFound) => Ok(false),
                // The caller may be allowed to write only.
                Some(Code::PermissionDenied) => self.can_replace_version(etag).await,
                _ => Err(error),
            },
        }
    }

    /// Whether an upload that replaces only the version with this etag can be opened.
    async fn can_replace_version(&mut self, etag: &str) -> Result<bool, Error> {
        let open = pb::OpenUpload {
            filename: self.open.filename.clone(),
            upload_id: random_upload_id(),
            if_etag: Some(etag.to_owned()),
            size: None,
        };
        let id = open.upload_id.clone();
        let session = &mut self.attempts.session;
        let opening = async {
            let mut call = WriteCall::open(session, open).await?;
            call.responses.next().await?;
            Ok::<_, Error>(call)
        };
        match opening.await {
            Ok(_call) => {
                self.abort(id).await;
                Ok(true)
            }
            Err(error) if error.has_reason(&["ETAG_MISMATCH"]) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Discards what the server has of this upload. The next attempt begins anew.
    async fn start_over(&mut self, reason: Error) -> Result<(), Error> {
        let is_leftover = !self.has_begun && self.leftovers < MAX_LEFTOVERS;
        if is_leftover {
            self.leftovers += 1;
            self.events.emit(Event::StartedOver { reason });
        } else {
            self.attempts.start_over(reason, &mut self.events)?;
        }
        self.finished = None;
        self.abort(self.open.upload_id.clone()).await;
        if is_leftover && self.leftovers == MAX_LEFTOVERS {
            self.open.upload_id = random_upload_id();
        }
        Ok(())
    }

    /// Discards an upload on the server, or its result. If that fails, it expires.
    async fn abort(&mut self, upload_id: String) {
        let session = &mut self.attempts.session;
        let abort = abort(session, &self.open.filename, &upload_id, CLEANUP_TIMEOUT);
        // The request's own timeout does not cover the wait for a token.
        let _ = tokio::time::timeout(CLEANUP_TIMEOUT, abort).await;
    }
}

/// Discards an unfinished upload, over as many attempts as necessary.
pub(super) async fn abort_upload(
    attempts: &mut Attempts,
    events: &mut EventSink<'_>,
    filename: &str,
    upload_id: &str,
) -> Result<(), Error> {
    let mut may_be_done = false;
    loop {
        match abort(&mut attempts.session, filename, upload_id, ABORT_TIMEOUT).await {
            Ok(()) => return Ok(()),
            // An attempt whose answer was lost may have discarded it.
            Err(error) if may_be_done && error.code() == Some(Code::NotFound) => return Ok(()),
            Err(error) => {
                may_be_done |= error.may_have_had_effect();
                attempts.wait_to_retry(error, events).await?;
            }
        }
    }
}

/// Discards an upload, in one call.
async fn abort(
    session: &mut Session,
    filename: &str,
    upload_id: &str,
    timeout: Duration,
) -> Result<(), Error> {
    let message = pb::AbortUploadRequest {
        filename: filename.to_owned(),
        upload_id: upload_id.to_owned(),
    };
    let mut request = session.build_request(message).await?;
    request.set_timeout(timeout);
    session.files().abort_upload(request).await?;
    Ok(())
}

fn prefix(len: u64, crc32c: u32) -> Prefix {
    let crc32c = crc32c.into();
    Prefix { len, crc32c }
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
