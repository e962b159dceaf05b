//! WriteStream: the steps of a client in, what became of them out.
//!
//! A task of its own takes the steps, because it outlives the call: when the client is gone, what
//! has come is still made durable. Nothing is concluded from the end of the steps, which looks the
//! same for a client that pauses, one that cancels, and one whose connection broke.

use bytes::Bytes;
use futures::{FutureExt, Stream, StreamExt, stream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, Streaming};
use tracing::Instrument;

use super::{FileService, MAX_CHUNK_BYTES, RETRY_AFTER, file_info, log, principal};
use crate::{
    checksum::Crc32c,
    failure::{BAD_REQUEST, Failure},
    files::{
        Error, FilePath, Principal, Version,
        store::{Chunk, Opened, Upload},
        upload::{Precondition, Progress, UploadId, UploadSpec},
    },
    pb::{self, write_stream_request::Step, write_stream_response::State},
};

/// How many answers wait for a client that does not read. Beyond that, progress is not told: later
/// progress says more.
const ANSWERS: usize = 4;

/// How many more there is room for, so that the last words never wait: what became of the upload,
/// and that something came after `finish`.
const LAST_WORDS: usize = 2;

/// A chunk that is larger keeps the whole message in memory that it came in. That costs nothing
/// when the message holds little else; one that is smaller could be a single byte in 4 MiB of
/// fields that nobody knows.
const COPIED_BELOW: usize = 256 * 1024;

const AFTER_FINISH: &str = "nothing comes after finish";

impl FileService {
    /// Takes the steps of one stream. Returns at once, so that the client has its headers.
    pub(super) fn write_stream(
        &self,
        request: Request<Streaming<pb::WriteStreamRequest>>,
    ) -> impl Stream<Item = Result<pb::WriteStreamResponse, Status>> + use<> {
        let (answers, outgoing) = mpsc::channel(ANSWERS + LAST_WORDS);
        let mut call = Call {
            files: self.clone(),
            principal: principal(&request),
            steps: request.into_inner(),
            answers,
            finished: false,
        };
        let task = async move {
            let last = call.take().await;
            call.say(last.map_err(Status::from));
            if call.finished && call.has_more() {
                call.say(Err(StreamError::BadRequest(AFTER_FINISH).into()));
            }
        };
        let task = self.tasks.spawn(task.in_current_span());
        // If the task panics it says nothing any more, and that shall not look like a pause.
        let panicked = stream::once(task).filter_map(async |ended| {
            let cause = Failure::new(Code::Internal, "IO");
            ended.err().map(|_| Err(cause.status("the server failed")))
        });
        ReceiverStream::new(outgoing).chain(panicked)
    }
}

/// One stream: where the steps come from, and where the answers go.
struct Call {
    files: FileService,
    principal: Principal,
    steps: Streaming<pb::WriteStreamRequest>,
    answers: mpsc::Sender<Result<pb::WriteStreamResponse, Status>>,
    /// Whether the client has finished the upload on this stream.
    finished: bool,
}

/// Why a stream ends early.
enum StreamError {
    /// The domain's reason.
    FileService(Error),
    /// What came breaks the contract.
    BadRequest(&'static str),
    /// The connection broke, or what came is no step.
    Transport(Status),
    /// The server stops.
    Draining,
}

impl Call {
    /// Takes the steps to their end, and says what became of the upload.
    async fn take(&mut self) -> Result<State, StreamError> {
        let open = self.first_step().await?;
        let plan = plan(open, &self.principal)?;
        let (path, id) = (plan.path.clone(), plan.id.clone());
        let opened = self.files.store.open_upload(plan).await;
        let mut upload = match opened.inspect_err(|error| log(&path, error))? {
            Opened::Committed(version) => return Ok(committed(&path, version)),
            Opened::Unfinished(upload, so_far) => {
                self.say(Ok(progress(&id, so_far)));
                upload
            }
        };
        let ended = self.take_chunks(&mut upload, &path, &id).await;
        let Err(failure) = ended else { return ended };
        // What is wrong with the chunks that came before is what was wrong first.
        let failure = match (upload.keep().await, failure) {
            (_, StreamError::FileService(error)) | (Err(error), _) => {
                log(&path, &error);
                StreamError::FileService(error)
            }
            (Ok(()), failure) => failure,
        };
        Err(failure)
    }

    /// Waits for `open`.
    async fn first_step(&mut self) -> Result<pb::OpenUpload, StreamError> {
        let first = tokio::select! {
            first = self.steps.next() => first,
            () = self.files.ending.cancelled() => return Err(StreamError::Draining),
        };
        match first {
            Some(Ok(pb::WriteStreamRequest {
                step: Some(Step::Open(open)),
            })) => Ok(open),
            Some(Err(status)) => Err(StreamError::Transport(status)),
            Some(Ok(_)) | None => Err(StreamError::BadRequest("the first step has to be open")),
        }
    }

    /// Takes chunks to `finish`, or to the end of the steps, which is no more than a pause.
    async fn take_chunks(
        &mut self,
        upload: &mut Upload,
        path: &FilePath,
        id: &UploadId,
    ) -> Result<State, StreamError> {
        loop {
            let step = tokio::select! {
                biased;
                () = self.files.ending.cancelled() => return Err(StreamError::Draining),
                // First all that is there: the more is written at once, the better.
                step = self.steps.next(), if upload.has_room() => step,
                advanced = upload.advanced() => {
                    if let Some(so_far) = advanced?
                        && self.answers.capacity() > LAST_WORDS
                    {
                        self.say(Ok(progress(id, so_far)));
                    }
                    continue;
                }
            };
            let Some(step) = step else {
                return Ok(progress(id, upload.pause().await?));
            };
            match step.map_err(StreamError::Transport)?.step {
                Some(Step::Chunk(next)) => upload.push(self.chunk(next)?),
                Some(Step::Finish(_)) if self.has_more() => {
                    return Err(StreamError::BadRequest(AFTER_FINISH));
                }
                Some(Step::Finish(pb::FinishUpload { size, crc32c })) => {
                    self.finished = true;
                    let version = upload.finish(size, crc32c.map(Crc32c::from)).await?;
                    return Ok(committed(path, version));
                }
                Some(Step::Open(_)) => return Err(StreamError::BadRequest("open comes once")),
                None => return Err(StreamError::BadRequest("a step has to be set")),
            }
        }
    }

    fn chunk(&self, chunk: pb::Chunk) -> Result<Chunk, StreamError> {
        if chunk.data.len() > MAX_CHUNK_BYTES as usize {
            self.files.store.stats().chunks_too_large.add(1);
            return Err(StreamError::BadRequest(
                "the chunk is larger than max_chunk_bytes",
            ));
        }
        let bytes = match chunk.data.len() < COPIED_BELOW {
            true => Bytes::copy_from_slice(&chunk.data),
            false => chunk.data,
        };
        Ok(Chunk {
            offset: chunk.offset,
            crc32c: chunk.crc32c.map(Crc32c::from),
            bytes,
        })
    }

    /// Whether the client has sent another step already.
    fn has_more(&mut self) -> bool {
        matches!(self.steps.next().now_or_never(), Some(Some(Ok(_))))
    }

    fn say(&self, answer: Result<State, Status>) {
        // There is room, but the client may be gone.
        let _ = self.answers.try_send(answer.map(response));
    }
}

/// The domain's words for `open`.
fn plan(open: pb::OpenUpload, principal: &Principal) -> Result<UploadSpec, StreamError> {
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

fn progress(id: &UploadId, so_far: Progress) -> State {
    State::Progress(pb::UploadProgress {
        upload_id: id.as_str().to_owned(),
        persisted_size: so_far.persisted.len,
        persisted_crc32c: so_far.persisted.crc32c.value(),
        expires_at: Some(so_far.expires_at.into()),
        max_chunk_bytes: MAX_CHUNK_BYTES,
    })
}

fn committed(path: &FilePath, version: Version) -> State {
    State::Committed(file_info(path, version))
}

fn response(state: State) -> pb::WriteStreamResponse {
    pb::WriteStreamResponse { state: Some(state) }
}

impl From<Error> for StreamError {
    fn from(error: Error) -> Self {
        Self::FileService(error)
    }
}

impl From<StreamError> for Status {
    fn from(failure: StreamError) -> Self {
        match failure {
            StreamError::FileService(error) => error.into(),
            StreamError::BadRequest(message) => {
                Failure::new(Code::InvalidArgument, BAD_REQUEST).status(message)
            }
            StreamError::Transport(status) => status,
            StreamError::Draining => Failure::new(Code::Unavailable, "DRAINING")
                .retry_after(RETRY_AFTER, "the server stops"),
        }
    }
}
