//! The calls of transfers, with the checks that every user of them needs.

use std::future;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::{error::Error, session::Session};
use crate::{
    checksum::Crc32c,
    pb::{
        self, read_stream_response::Event, write_stream_request::Step, write_stream_response::State,
    },
};

/// The capacity of the request channel: with one request ready, HTTP/2 never waits for the next.
const REQUEST_CAPACITY: usize = 1;

/// A WriteStream call. Dropping it resets the call, unless it has ended.
pub(super) struct WriteCall {
    /// Dropped before the other fields: the server treats a request stream that ends as a pause.
    _reset: ResetOnDrop,
    pub(super) requests: RequestSender,
    pub(super) responses: ResponseReceiver,
}

impl WriteCall {
    pub(super) async fn open(session: &mut Session, open: pb::OpenUpload) -> Result<Self, Error> {
        let (requests, outgoing) = mpsc::channel(REQUEST_CAPACITY);
        let mut request = session.build_request(ReceiverStream::new(outgoing)).await?;
        let handle = request.cancellation_handle();
        let reset = ResetOnDrop(Some(Box::new(|| handle.cancel())));
        // Cannot fail: the channel is empty.
        let step = Some(Step::Open(open));
        let _ = requests.try_send(pb::WriteStreamRequest { step });
        let responses = session.files().write_stream(request).await?.into_inner();
        Ok(Self {
            _reset: reset,
            requests: RequestSender(Some(requests)),
            responses: ResponseReceiver(responses),
        })
    }
}

pub(super) struct RequestSender(Option<mpsc::Sender<pb::WriteStreamRequest>>);

/// The step that was sent.
pub(super) enum SentStep {
    /// A chunk that ends at this offset.
    Chunk(u64),
    /// The last step.
    Finish,
}

impl RequestSender {
    /// Takes and sends `next` when the channel has capacity. Cancel safe. Never completes once the call has
    /// ended: the responses have the reason.
    pub(super) async fn send(&mut self, next: &mut Option<Step>) -> SentStep {
        let Some(requests) = &self.0 else {
            return future::pending().await;
        };
        let Ok(permit) = requests.reserve().await else {
            return future::pending().await;
        };
        let step = next.take();
        let sent = match &step {
            Some(Step::Chunk(chunk)) => SentStep::Chunk(chunk.offset + chunk.data.len() as u64),
            _ => SentStep::Finish,
        };
        permit.send(pb::WriteStreamRequest { step });
        if matches!(sent, SentStep::Finish) {
            self.0 = None;
        }
        sent
    }
}

pub(super) struct ResponseReceiver(Streaming<pb::WriteStreamResponse>);

impl ResponseReceiver {
    /// Receives the next response. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<State, Error> {
        match self.0.message().await? {
            Some(pb::WriteStreamResponse { state: Some(state) }) => Ok(state),
            Some(_) => Err(Status::internal("an empty answer").into()),
            None => {
                Err(Status::unavailable("the call ended before the upload was finished").into())
            }
        }
    }

    /// Waits for the end of a call whose last response has been received.
    pub(super) async fn end(&mut self) {
        let _ = self.0.message().await;
    }
}

/// Ends both halves of a call at once. Without it the requests would end first, which means a pause, or
/// HTTP/2 would keep the request stream, and with it the call, open.
///
/// HTTP/2 notices the cancellation at the next request that it takes, so a call that waits for flow-control
/// capacity is reset once the server grants some.
struct ResetOnDrop(Option<Box<dyn FnOnce() + Send + Sync>>);

impl Drop for ResetOnDrop {
    fn drop(&mut self) {
        if let Some(reset) = self.0.take() {
            reset();
        }
    }
}

/// A ReadStream call to the end of the file. Dropping it resets the call, unless it has ended.
pub(super) struct ReadCall {
    pub(super) info: pb::FileInfo,
    /// The offset at which the next chunk must start.
    offset: u64,
    responses: Streaming<pb::ReadStreamResponse>,
}

impl ReadCall {
    /// Reads `filename` from `offset` on. Unless `etag` is empty, only that version is read.
    pub(super) async fn open(
        session: &mut Session,
        filename: &str,
        offset: u64,
        etag: &str,
    ) -> Result<Self, Error> {
        let request = pb::ReadStreamRequest {
            filename: filename.to_owned(),
            offset,
            if_etag: etag.to_owned(),
            ..Default::default()
        };
        let request = session.build_request(request).await?;
        let mut responses = session.files().read_stream(request).await?.into_inner();
        let info = match responses.message().await?.and_then(|first| first.event) {
            Some(Event::Info(info)) => info,
            _ => return Err(corrupt("the stream does not begin with the file's size", 0)),
        };
        if !etag.is_empty() && info.etag != etag {
            return Err(Error::RemoteChanged);
        }
        Ok(Self {
            info,
            offset,
            responses,
        })
    }

    /// Receives and checks the next chunk, `None` at the end of the file. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let Some(response) = self.responses.message().await? else {
            return match self.offset == self.info.size {
                true => Ok(None),
                false => Err(corrupt("the stream ended before the file did", self.offset)),
            };
        };
        let Some(Event::Chunk(chunk)) = response.event else {
            return Err(corrupt("something other than a chunk arrived", self.offset));
        };
        if chunk.offset != self.offset {
            return Err(corrupt("a chunk of another place arrived", self.offset));
        }
        match chunk.crc32c {
            None => return Err(corrupt("a chunk without a checksum arrived", self.offset)),
            Some(sent) if sent != Crc32c::of(&chunk.data).value() => {
                return Err(corrupt("a damaged chunk arrived", self.offset));
            }
            Some(_) => {}
        }
        let end = self.offset + chunk.data.len() as u64;
        if end > self.info.size {
            return Err(corrupt("more than the file arrived", self.offset));
        }
        self.offset = end;
        Ok(Some(chunk.data))
    }
}

/// Describes the remote `filename`.
pub(super) async fn stat(session: &mut Session, filename: &str) -> Result<pb::FileInfo, Error> {
    let filename = filename.to_owned();
    let request = session.build_request(pb::StatRequest { filename }).await?;
    Ok(session.files().stat(request).await?.into_inner())
}

fn corrupt(problem: &'static str, offset: u64) -> Error {
    Error::Corrupt { problem, offset }
}
