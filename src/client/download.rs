//! Downloads, every byte of them checked, over as many attempts as necessary.

use std::{future::IntoFuture, path::PathBuf, pin::Pin};

use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::{
    call::ReadCall,
    error::Error,
    event::{Event, EventSink},
    local::PartialFile,
    retry::Attempts,
};
use crate::pb;

/// The error reasons of a file that is no longer the version being received.
const REMOTE_CHANGED_REASONS: [&str; 3] = ["ETAG_MISMATCH", "OFFSET_BEYOND_END", "FILE_CHANGED"];

/// A download that starts when it is awaited, and returns the remote file's description.
///
/// A download to a file receives into `NAME.part` beside the target; `NAME.part.json` describes its content.
/// The target does not change until the file is complete and durable. Then it is replaced in one step, and
/// both are removed. A file of one of these names that no download made fails with [`Error::NotOurs`].
///
/// The target is treated as `cp` treats it. A symbolic link stays, and what it leads to is replaced. An existing
/// file keeps its permissions without set-user-id and set-group-id, and its owner as far as the caller may set it; a
/// new one has the permissions of new files. A target that the caller cannot write, that is not a regular file, or
/// that is a link to nothing fails before anything is received.
///
/// # Errors
///
/// See [`Error`]. After a failed download to a file, the same download continues where this one ended.
#[must_use = "nothing is received until it is awaited"]
pub struct Download<'a> {
    attempts: Attempts,
    filename: String,
    target: Target<'a>,
    events: EventSink<'a>,
}

enum Target<'a> {
    File(PathBuf),
    Writer(Box<dyn AsyncWrite + Send + Unpin + 'a>),
}

impl<'a> Download<'a> {
    pub(super) fn to_file(attempts: Attempts, filename: String, path: PathBuf) -> Self {
        Self::new(attempts, filename, Target::File(path))
    }

    pub(super) fn to_writer(
        attempts: Attempts,
        filename: String,
        writer: Box<dyn AsyncWrite + Send + Unpin + 'a>,
    ) -> Self {
        Self::new(attempts, filename, Target::Writer(writer))
    }

    fn new(attempts: Attempts, filename: String, target: Target<'a>) -> Self {
        Self {
            attempts,
            filename,
            target,
            events: EventSink::default(),
        }
    }

    /// Calls `watch` for each event. The transfer waits for its return, so it should be quick.
    pub fn on_event(mut self, watch: impl FnMut(Event) + Send + 'a) -> Self {
        self.events = EventSink::new(watch);
        self
    }

    async fn run(self) -> Result<pb::FileInfo, Error> {
        let run = DownloadRun {
            attempts: self.attempts,
            filename: self.filename,
            events: self.events,
        };
        match self.target {
            Target::File(path) => run.into_file(path).await,
            Target::Writer(writer) => run.into_writer(writer).await,
        }
    }
}

impl<'a> IntoFuture for Download<'a> {
    type Output = Result<pb::FileInfo, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

/// A download in progress.
struct DownloadRun<'a> {
    filename: String,
    events: EventSink<'a>,
    attempts: Attempts,
}

impl DownloadRun<'_> {
    async fn into_file(mut self, target: PathBuf) -> Result<pb::FileInfo, Error> {
        let (mut part, damaged) = PartialFile::open(target, &self.filename).await?;
        if let Some(reason) = damaged {
            self.events.emit(Event::StartedOver { reason });
        }
        loop {
            let next = match self.receive(&mut part).await {
                Ok(info) => {
                    part.finish().await?;
                    return Ok(info);
                }
                Err(error) if has_remote_changed(&error) => {
                    let next = self.attempts.start_over(error, &mut self.events);
                    part.clear().await?;
                    next
                }
                Err(error) => self.attempts.wait_to_retry(error, &mut self.events).await,
            };
            if let Err(error) = next {
                // For the next run. The error to report is the transfer's, not that of saving its state.
                let _ = part.keep().await;
                return Err(error);
            }
        }
    }

    /// Receives the rest of the file and writes it in the background.
    async fn receive(&mut self, part: &mut PartialFile) -> Result<pb::FileInfo, Error> {
        let offset = part.received();
        let mut call = self.open(offset, part.etag()).await?;
        part.begin(&call.info);
        let mut all_received = false;
        while !all_received || part.is_busy() {
            tokio::select! {
                chunk = call.next(), if !all_received && part.has_capacity() => match chunk? {
                    Some(data) => {
                        part.push(data);
                        self.report_progress(part.received(), part.durable());
                    }
                    None => all_received = true,
                },
                step = part.step(), if part.is_busy() => step?,
            }
        }
        Ok(call.info)
    }

    async fn into_writer(
        mut self,
        mut writer: Box<dyn AsyncWrite + Send + Unpin + '_>,
    ) -> Result<pb::FileInfo, Error> {
        // The number of bytes written, and the version that they are of.
        let (mut written, mut etag) = (0, String::new());
        loop {
            match self.forward(&mut writer, &mut written, &mut etag).await {
                Ok(info) => return Ok(info),
                Err(error) if has_remote_changed(&error) && written > 0 => return Err(error),
                Err(error) if has_remote_changed(&error) => {
                    etag.clear();
                    self.attempts.start_over(error, &mut self.events)?;
                }
                Err(error) => self.attempts.wait_to_retry(error, &mut self.events).await?,
            }
        }
    }

    /// Receives the rest of the file, and writes each chunk before it reads the next.
    async fn forward(
        &mut self,
        writer: &mut (dyn AsyncWrite + Send + Unpin),
        written: &mut u64,
        etag: &mut String,
    ) -> Result<pb::FileInfo, Error> {
        let cannot = |source| Error::Stream {
            operation: "write the output",
            source,
        };
        let mut call = self.open(*written, etag).await?;
        etag.clone_from(&call.info.etag);
        while let Some(data) = call.next().await? {
            writer.write_all(&data).await.map_err(cannot)?;
            *written += data.len() as u64;
            self.report_progress(*written, *written);
        }
        writer.flush().await.map_err(cannot)?;
        Ok(call.info)
    }

    async fn open(&mut self, offset: u64, etag: &str) -> Result<ReadCall, Error> {
        let call = ReadCall::open(&mut self.attempts.session, &self.filename, offset, etag).await?;
        let size = Some(call.info.size);
        self.events.emit(Event::Opened { offset, size });
        Ok(call)
    }

    fn report_progress(&mut self, transferred: u64, durable: u64) {
        self.attempts.record_progress(transferred);
        self.events.emit(Event::Advanced {
            transferred,
            durable,
        });
    }
}

/// Whether the received bytes are of a version that the server no longer has.
fn has_remote_changed(error: &Error) -> bool {
    matches!(error, Error::RemoteChanged) || error.has_reason(&REMOTE_CHANGED_REASONS)
}
