//! WriteStream: receives the steps of an upload, and sends its progress and result.
//!
//! The steps are received by a task that outlives the call: after a client disconnects, the received chunks
//! are still made durable. The end of the steps has no meaning of its own, as it looks the same for a client
//! that pauses, one that cancels, and one whose connection broke.

use bytes::Bytes;
use futures::{FutureExt, Stream, StreamExt, stream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Code, Status, Streaming};
use tracing::Instrument;

use super::{
    failure::{RETRY_AFTER, log_io_error},
    file_info::file_info,
    limits::MAX_CHUNK_BYTES,
};
use crate::{
    checksum::Crc32c,
    commit_point::{CommitPoint, EndOnDrop},
    failure::{BAD_REQUEST, Failure},
    files::{
        error::Error,
        path::FilePath,
        principal::Principal,
        store::{Chunk, OpenOutcome, Store, UploadWriter},
        upload::{Precondition, Progress, UploadId, UploadSpec},
        version::Version,
    },
    pb::{self, write_stream_request::Step, write_stream_response::State},
};

/// The number of progress responses that are queued for a slow client. More are dropped: later ones supersede
/// them.
const PROGRESS_CAPACITY: usize = 4;

/// The capacity reserved for final responses, which are never dropped: the result, and the error for a step
/// after `finish`.
const FINAL_ANSWERS: usize = 2;

/// Chunks below this size are copied out of their message.
///
/// A chunk that is not copied keeps its whole message in memory. For a large chunk that costs little; a small
/// one could keep 4 MiB of unknown fields.
const COPY_THRESHOLD_BYTES: usize = 256 * 1024;

const STEP_AFTER_FINISH: &str = "a step follows finish, which is the last one";

/// One WriteStream call.
pub(super) struct UploadStream {
    store: Store,
    principal: Principal,
    /// Ended when the client no longer waits for responses.
    point: CommitPoint,
    requests: Streaming<pb::WriteStreamRequest>,
    responses: mpsc::Sender<Result<pb::WriteStreamResponse, Status>>,
    /// Cancelled when the server stops waiting for uploads.
    stop: CancellationToken,
    /// Whether the client has sent `finish`.
    finished: bool,
}

/// Why a stream ends early.
enum StreamError {
    /// An error of the files.
    File(Error),
    /// The request violates the contract.
    BadRequest(&'static str),
    /// The connection broke, or a message could not be decoded.
    Transport(Status),
    /// The server is shutting down.
    Draining,
}

impl UploadStream {
    /// Receives the steps of a call in a task of `tasks`, and returns its responses. Does not wait, so the
    /// client gets its headers at once.
    pub(super) fn spawn(
        store: Store,
        principal: Principal,
        point: CommitPoint,
        requests: Streaming<pb::WriteStreamRequest>,
        stop: CancellationToken,
        tasks: &TaskTracker,
    ) -> impl Stream<Item = Result<pb::WriteStreamResponse, Status>> + use<> {
        let (responses, outgoing) = mpsc::channel(PROGRESS_CAPACITY + FINAL_ANSWERS);
        let end = EndOnDrop(point.clone());
        let mut upload = Self {
            store,
            principal,
            point,
            requests,
            responses,
            stop,
            finished: false,
        };
        let task = async move {
            let result = upload.run().await;
            upload.send(result.map_err(Status::from));
            if upload.finished && upload.try_recv().is_some() {
                upload.send(Err(StreamError::BadRequest(STEP_AFTER_FINISH).into()));
            }
        };
        let task = tasks.spawn(task.in_current_span());
        // A panic closes the channel without a result, which must not look like a pause.
        let ended = async move {
            let _end = end;
            task.await
        };
        let panicked = stream::once(ended).filter_map(async |ended| {
            let failure = Failure::new(Code::Internal, "IO");
            ended
                .err()
                .map(|_| Err(failure.status("the server failed because of an internal error")))
        });
        ReceiverStream::new(outgoing).chain(panicked)
    }

    /// Receives all steps, and returns the final state of the upload.
    async fn run(&mut self) -> Result<State, StreamError> {
        let open = self.recv_open().await?;
        let spec = upload_spec(open, &self.principal)?;
        let (path, id) = (spec.path.clone(), spec.id.clone());
        let opened = self.store.open_upload(spec, self.point.clone()).await;
        let mut upload = match opened.inspect_err(|error| log_io_error(&path, error))? {
            OpenOutcome::Committed(version) => return Ok(committed_state(&path, version)),
            OpenOutcome::Unfinished(upload, progress) => {
                self.send(Ok(progress_state(&id, progress)));
                upload
            }
        };
        let ended = self.recv_chunks(&mut upload, &path, &id).await;
        let Err(failure) = ended else { return ended };
        // An error of earlier chunks came first, so it is the one to report.
        let failure = match (upload.salvage().await, failure) {
            (_, StreamError::File(error)) | (Err(error), _) => {
                log_io_error(&path, &error);
                StreamError::File(error)
            }
            (Ok(()), failure) => failure,
        };
        Err(failure)
    }

    /// Waits for the step `open`.
    async fn recv_open(&mut self) -> Result<pb::OpenUpload, StreamError> {
        let first = tokio::select! {
            first = self.requests.next() => first,
            () = self.stop.cancelled() => return Err(StreamError::Draining),
        };
        match first {
            Some(Ok(pb::WriteStreamRequest {
                step: Some(Step::Open(open)),
            })) => Ok(open),
            Some(Err(status)) => Err(StreamError::Transport(status)),
            Some(Ok(_)) | None => Err(StreamError::BadRequest("the first step is not open")),
        }
    }

    /// Receives chunks until `finish`, or until the end of the steps, which pauses the upload.
    async fn recv_chunks(
        &mut self,
        upload: &mut UploadWriter,
        path: &FilePath,
        id: &UploadId,
    ) -> Result<State, StreamError> {
        loop {
            let step = tokio::select! {
                biased;
                () = self.stop.cancelled() => return Err(StreamError::Draining),
                // Chunks that are already here come before writes, for large batches.
                step = self.requests.next(), if upload.has_capacity() => step,
                progress = upload.progress() => {
                    if let Some(progress) = progress?
                        && self.responses.capacity() > FINAL_ANSWERS
                    {
                        self.send(Ok(progress_state(id, progress)));
                    }
                    continue;
                }
            };
            let Some(step) = step else {
                return Ok(progress_state(id, upload.pause().await?));
            };
            match step.map_err(StreamError::Transport)?.step {
                Some(Step::Chunk(chunk)) => upload.push(self.check_chunk(chunk)?),
                Some(Step::Finish(_)) if self.try_recv().is_some() => {
                    return Err(StreamError::BadRequest(STEP_AFTER_FINISH));
                }
                Some(Step::Finish(pb::FinishUpload { size, crc32c })) => {
                    self.finished = true;
                    let version = upload.finish(size, crc32c.map(Crc32c::from)).await?;
                    return Ok(committed_state(path, version));
                }
                Some(Step::Open(_)) => {
                    return Err(StreamError::BadRequest("open is the first step only"));
                }
                None => return Err(StreamError::BadRequest("the request has no step")),
            }
        }
    }

    fn check_chunk(&self, chunk: pb::Chunk) -> Result<Chunk, StreamError> {
        if chunk.data.len() > MAX_CHUNK_BYTES as usize {
            self.store.stats().chunks_too_large.add(1);
            return Err(StreamError::BadRequest(
                "the chunk is larger than max_chunk_bytes",
            ));
        }
        let bytes = match chunk.data.len() < COPY_THRESHOLD_BYTES {
            true => Bytes::copy_from_slice(&chunk.data),
            false => chunk.data,
        };
        Ok(Chunk {
            offset: chunk.offset,
            crc32c: chunk.crc32c.map(Crc32c::from),
            bytes,
        })
    }

    /// Receives a step that has already arrived.
    fn try_recv(&mut self) -> Option<pb::WriteStreamRequest> {
        self.requests.next().now_or_never()??.ok()
    }

    fn send(&self, state: Result<State, Status>) {
        let response = state.map(|state| pb::WriteStreamResponse { state: Some(state) });
        // There is capacity. An error means that the client is gone.
        let _ = self.responses.try_send(response);
    }
}

fn upload_spec(open: pb::OpenUpload, principal: &Principal) -> Result<UploadSpec, StreamError> {
    Ok(UploadSpec {
        path: principal.parse_path(&open.filename)?,
        owner: principal.owner.clone(),
        id: match open.upload_id.as_str() {
            "" => UploadId::random(),
            id => id.parse().map_err(Error::from)?,
        },
        precondition: Precondition::from_if_etag(open.if_etag),
        size: open.size,
    })
}

fn progress_state(id: &UploadId, progress: Progress) -> State {
    State::Progress(pb::UploadProgress {
        upload_id: id.as_str().to_owned(),
        persisted_size: progress.persisted.len,
        persisted_crc32c: progress.persisted.crc32c.value(),
        expires_at: Some(progress.expires_at.into()),
        max_chunk_bytes: MAX_CHUNK_BYTES,
    })
}

fn committed_state(path: &FilePath, version: Version) -> State {
    State::Committed(file_info(path, version))
}

impl From<Error> for StreamError {
    fn from(error: Error) -> Self {
        Self::File(error)
    }
}

impl From<StreamError> for Status {
    fn from(failure: StreamError) -> Self {
        match failure {
            StreamError::File(error) => error.into(),
            StreamError::BadRequest(message) => {
                Failure::new(Code::InvalidArgument, BAD_REQUEST).status(message)
            }
            StreamError::Transport(status) => status,
            StreamError::Draining => Failure::new(Code::Unavailable, "DRAINING").retry_after(
                RETRY_AFTER,
                "the server is stopping: open the upload again to resume it",
            ),
        }
    }
}
