//! Uploads: from open to committed, over as many attempts as it takes.

use std::{future::IntoFuture, path::PathBuf, pin::Pin, time::Duration};

use bytes::Bytes;
use tokio::{
    io::AsyncRead,
    time::{Instant, sleep_until},
};
use tonic::Code;

use super::{
    Client,
    call::{Sent, WriteCall, stat},
    error::Error,
    event::{Event, Watcher},
    local::LocalFile,
    reader_source::{Reader, random_id},
    retry::Attempts,
    source::{Piece, Source},
};
use crate::{
    checksum::Crc32c,
    pb::{self, write_stream_request::Step, write_stream_response::State},
};

/// The largest piece that is sent, in bytes, however much the server takes.
const LARGEST_PIECE: u32 = 1024 * 1024;

/// The size of a piece for a server that does not say what it takes.
const USUAL_PIECE: u32 = 256 * 1024;

/// How long the server may take for what is only a courtesy to it.
const COURTESY: Duration = Duration::from_secs(5);

/// How long nothing is sent, because the source has nothing, until an empty chunk says that somebody
/// is there. Servers end an upload of which nothing comes for a minute or so.
const STILL_HERE: Duration = Duration::from_secs(15);

/// An upload that is about to start. Awaiting it gives the file as it is on the server.
///
/// # Errors
///
/// See [`Error`]. After [`Error::SourceChanged`], or when a reader fails, the server keeps nothing
/// of it; after every other failure of the upload of a file the same upload continues where this
/// one ended, for as long as the server keeps it.
#[must_use = "nothing is sent until it is awaited"]
pub struct Upload<'a> {
    client: Client,
    origin: Origin<'a>,
    filename: String,
    if_etag: Option<String>,
    watcher: Watcher<'a>,
}

enum Origin<'a> {
    File(PathBuf),
    Reader(Box<dyn AsyncRead + Send + Unpin + 'a>),
}

impl<'a> Upload<'a> {
    pub(super) fn of_file(client: Client, path: PathBuf, filename: String) -> Self {
        Self::new(client, Origin::File(path), filename)
    }

    pub(super) fn of_reader(
        client: Client,
        reader: Box<dyn AsyncRead + Send + Unpin + 'a>,
        filename: String,
    ) -> Self {
        Self::new(client, Origin::Reader(reader), filename)
    }

    fn new(client: Client, origin: Origin<'a>, filename: String) -> Self {
        Self {
            client,
            origin,
            filename,
            if_etag: None,
            watcher: Watcher::default(),
        }
    }

    /// Fails with ALREADY_EXISTS if the server has a file of that name, instead of replacing it.
    pub fn create_only(self) -> Self {
        self.if_etag("")
    }

    /// Replaces only the version with this etag; fails with FAILED_PRECONDITION, reason
    /// `ETAG_MISMATCH`, if the server has another or none.
    pub fn if_etag(mut self, etag: impl Into<String>) -> Self {
        self.if_etag = Some(etag.into());
        self
    }

    /// Tells what happens. Called between sending and receiving, so it had better be quick.
    pub fn on_event(mut self, watch: impl FnMut(Event) + Send + 'a) -> Self {
        self.watcher = Watcher::new(watch);
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
                let file = LocalFile::open(path).await?;
                open.upload_id = file.upload_id(&open.filename, open.if_etag.as_deref());
                open.size = Some(file.size());
                Run::new(&self.client, open, file, self.watcher).run().await
            }
            Origin::Reader(reader) => {
                open.upload_id = random_id();
                let reader = Reader::new(reader);
                Run::new(&self.client, open, reader, self.watcher)
                    .run()
                    .await
            }
        }
    }
}

impl<'a> IntoFuture for Upload<'a> {
    type Output = Result<pb::FileInfo, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

/// An upload that goes on.
struct Run<'a, S> {
    open: pb::OpenUpload,
    source: S,
    watcher: Watcher<'a>,
    attempts: Attempts,
    /// Whether the file may have been committed by this run.
    has_finished: bool,
}

impl<'a, S: Source> Run<'a, S> {
    fn new(client: &Client, open: pb::OpenUpload, source: S, watcher: Watcher<'a>) -> Self {
        Self {
            attempts: client.attempts(),
            open,
            source,
            watcher,
            has_finished: false,
        }
    }

    async fn run(mut self) -> Result<pb::FileInfo, Error> {
        loop {
            let error = match self.attempt().await {
                Ok(info) => return Ok(info),
                Err(error) => error,
            };
            match error {
                Error::Replaced => self.attempts.start_over(error, &mut self.watcher)?,
                Error::PrefixDiffers { .. } => self.start_over(error).await?,
                _ if error.has_reason(&["UPLOAD_MISMATCH"]) => self.start_over(error).await?,
                // By then the server has discarded it.
                _ if self.open.size.is_some()
                    && error.has_reason(&["SIZE_MISMATCH", "CHECKSUM_MISMATCH"]) =>
                {
                    self.attempts.start_over(error, &mut self.watcher)?;
                }
                Error::SourceChanged(_) | Error::Stream { .. } | Error::CannotRewind { .. } => {
                    self.abort().await;
                    return Err(error);
                }
                _ => self.attempts.failed(error, &mut self.watcher).await?,
            }
        }
    }

    /// From open to committed, if nothing comes between.
    async fn attempt(&mut self) -> Result<pb::FileInfo, Error> {
        let mut call = WriteCall::open(&mut self.attempts.caller, self.open.clone()).await?;
        let progress = match call.answers.next().await? {
            State::Progress(progress) => progress,
            State::Committed(info) => return self.committed_before(info).await,
        };
        let piece = match progress.max_chunk_bytes {
            0 => USUAL_PIECE,
            most => most.min(LARGEST_PIECE),
        };
        let offset = progress.persisted_size;
        let checksum = progress.persisted_crc32c.into();
        self.source.resume(offset, checksum, piece as usize).await?;
        self.source.durable(offset);
        self.attempts.reached(offset);
        let size = self.open.size;
        self.watcher.tell(Event::Opened { offset, size });
        self.send(call, offset).await
    }

    /// Sends the source from where it stands, reading the answers meanwhile: one that fails ends
    /// the sending at once.
    async fn send(&mut self, mut call: WriteCall, offset: u64) -> Result<pb::FileInfo, Error> {
        let (mut transferred, mut durable) = (offset, offset);
        let mut next: Option<Step> = None;
        let mut all_read = false;
        let mut silent_since = Instant::now();
        loop {
            tokio::select! {
                biased;
                answer = call.answers.next() => match answer? {
                    State::Progress(progress) => {
                        durable = durable.max(progress.persisted_size);
                        self.source.durable(durable);
                        self.attempts.reached(durable);
                        self.watcher.tell(Event::Advanced { transferred, durable });
                    }
                    State::Committed(info) => {
                        // What else the call says changes nothing.
                        let _ = tokio::time::timeout(COURTESY, call.answers.end()).await;
                        return Ok(info);
                    }
                },
                sent = call.requests.send(&mut next), if next.is_some() => match sent {
                    Sent::Chunk(end) => {
                        transferred = end;
                        silent_since = Instant::now();
                        self.watcher.tell(Event::Advanced { transferred, durable });
                    }
                    Sent::Finish => self.has_finished = true,
                },
                piece = self.source.next(), if next.is_none() && !all_read => {
                    next = Some(match piece? {
                        Some(piece) => Step::Chunk(piece.into()),
                        None => {
                            all_read = true;
                            let (size, checksum) = self.source.finish().await?;
                            let crc32c = Some(checksum.value());
                            Step::Finish(pb::FinishUpload { size, crc32c })
                        }
                    });
                }
                () = sleep_until(silent_since + STILL_HERE), if next.is_none() && !all_read => {
                    next = Some(Step::Chunk(nothing_at(transferred)));
                }
            }
        }
    }

    /// The upload had been finished before this attempt: by an earlier attempt whose answer was
    /// lost, or by an earlier run, and then somebody may have replaced the file since.
    async fn committed_before(&mut self, info: pb::FileInfo) -> Result<pb::FileInfo, Error> {
        if self.has_finished {
            return Ok(info);
        }
        let found = match stat(&mut self.attempts.caller, &self.open.filename).await {
            Ok(found) => Some(found),
            Err(error) if error.code() == Some(Code::NotFound) => None,
            Err(error) => return Err(error),
        };
        if found.is_some_and(|found| found.etag == info.etag) {
            self.watcher.tell(Event::AlreadyThere);
            return Ok(info);
        }
        self.open.upload_id = self.source.next_id(&self.open.upload_id, &info.etag);
        Err(Error::Replaced)
    }

    async fn start_over(&mut self, reason: Error) -> Result<(), Error> {
        self.attempts.start_over(reason, &mut self.watcher)?;
        self.abort().await;
        Ok(())
    }

    /// Has the server discard what it has. If that fails, it does so when the upload expires.
    async fn abort(&mut self) {
        let message = pb::AbortUploadRequest {
            filename: self.open.filename.clone(),
            upload_id: self.open.upload_id.clone(),
        };
        let caller = &mut self.attempts.caller;
        let abort = async {
            let mut request = caller.request(message).await?;
            request.set_timeout(COURTESY);
            caller.files().abort_upload(request).await?;
            Ok::<_, Error>(())
        };
        // A token may take longer than it.
        let _ = tokio::time::timeout(COURTESY, abort).await;
    }
}

fn nothing_at(offset: u64) -> pb::Chunk {
    pb::Chunk {
        offset,
        crc32c: Some(Crc32c::of(&[]).value()),
        data: Bytes::new(),
    }
}

impl From<Piece> for pb::Chunk {
    fn from(piece: Piece) -> Self {
        Self {
            offset: piece.offset,
            crc32c: Some(piece.checksum.value()),
            data: piece.data,
        }
    }
}
