//! The request half of a call.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use http_body::{Body, Frame};
use parking_lot::Mutex;
use tonic::Status;
use tower::BoxError;

use super::{framing::MessageScanner, methods::RequestKind, status, telemetry::InboundCounter};
use crate::server::{metrics::Limit, timer::LazyTimeout};

/// Frames below this size are copied. h2 returns slices of its read buffer, and a slice that waits for the
/// handler would hold the whole buffer. Most clients cut frames to this size.
const COPY_THRESHOLD: usize = 16 * 1024;

/// Size at which copied frames become a chunk of their own, in bytes.
const COPIED_CHUNK_BYTES: usize = 16 * 1024;

/// The limits on a request, and the counter of its messages.
pub(super) struct RequestLimits {
    pub(super) kind: RequestKind,
    pub(super) max_message_bytes: u64,
    /// Time to wait for the next bytes, except for an idle stream.
    pub(super) idle_timeout: Duration,
    pub(super) counter: Option<InboundCounter>,
}

/// Receives the request body from h2 as it arrives and buffers it for the handler. Flow-control capacity is
/// released only as the handler reads, so a client is never more than one stream window ahead.
pub(super) struct RequestReceiver(Arc<Mutex<RecvBuffer>>);

/// The body of a request, as its handler reads it. A request beyond its limits ends with an error, which is
/// the status for the client.
struct RequestBody {
    buffer: Arc<Mutex<RecvBuffer>>,
    limits: RequestLimits,
    scanner: MessageScanner,
    // Armed only while the handler waits for bytes.
    idle: LazyTimeout,
    has_failed: bool,
}

/// The bytes that were received and not read.
struct RecvBuffer {
    stream: RecvStream,
    /// Whether no more bytes will come.
    is_closed: bool,
    /// Why, if not by the end of the request.
    error: Option<BoxError>,
    chunks: VecDeque<Bytes>,
    /// Copied frames, which follow the chunks.
    copied: BytesMut,
    handler: Option<Waker>,
    bytes_read: u64,
}

/// Returns the two ends of a request: one for the call's task, one for the handler.
pub(super) fn channel(
    stream: RecvStream,
    limits: RequestLimits,
) -> (
    RequestReceiver,
    impl Body<Data = Bytes, Error = BoxError> + Send + 'static,
) {
    let buffer = Arc::new(Mutex::new(RecvBuffer {
        is_closed: stream.is_end_stream(),
        stream,
        error: None,
        chunks: VecDeque::new(),
        copied: BytesMut::new(),
        handler: None,
        bytes_read: 0,
    }));
    let body = RequestBody {
        buffer: Arc::clone(&buffer),
        limits,
        scanner: MessageScanner::default(),
        idle: LazyTimeout::default(),
        has_failed: false,
    };
    (RequestReceiver(buffer), body)
}

impl RequestReceiver {
    /// Receives what has arrived. Must be called whenever the call's task is woken, before the handler is
    /// polled.
    pub(super) fn poll(&self, cx: &mut Context<'_>) {
        let mut buffer = self.0.lock();
        if buffer.fill(cx)
            && let Some(handler) = buffer.handler.take_if(|it| !it.will_wake(cx.waker()))
        {
            drop(buffer);
            handler.wake();
        }
    }

    /// The number of bytes that the handler has read.
    pub(super) fn bytes_read(&self) -> u64 {
        self.0.lock().bytes_read
    }

    /// Ends the request early. A handler that reads on gets `status`.
    pub(super) fn close(&self, status: Status) {
        let mut buffer = self.0.lock();
        if !buffer.is_closed {
            buffer.is_closed = true;
            buffer.error = Some(status.into());
        }
        let handler = buffer.handler.take();
        drop(buffer);
        if let Some(handler) = handler {
            handler.wake();
        }
    }
}

impl Drop for RequestReceiver {
    fn drop(&mut self) {
        self.close(Status::cancelled("the call has ended"));
    }
}

impl RecvBuffer {
    /// Receives what has arrived. True if anything has.
    fn fill(&mut self, cx: &mut Context<'_>) -> bool {
        let mut has_news = false;
        while !self.is_closed
            && let Poll::Ready(next) = self.stream.poll_data(cx)
        {
            has_news = true;
            match next {
                Some(Ok(bytes)) => self.push(bytes),
                Some(Err(error)) => {
                    self.error = Some(error.into());
                    self.is_closed = true;
                }
                // gRPC requests have no trailers.
                None => self.is_closed = true,
            }
        }
        has_news
    }

    fn push(&mut self, bytes: Bytes) {
        // A request has one last frame only, so leaving it uncopied holds at most one read buffer.
        if bytes.len() < COPY_THRESHOLD && !self.stream.is_end_stream() {
            self.copied.extend_from_slice(&bytes);
            if self.copied.len() >= COPIED_CHUNK_BYTES {
                self.chunks.push_back(self.copied.split().freeze());
            }
            return;
        }
        if !self.copied.is_empty() {
            self.chunks.push_back(self.copied.split().freeze());
        }
        self.chunks.push_back(bytes);
    }

    /// Returns the next bytes, and releases their flow-control capacity.
    fn pop(&mut self) -> Option<Bytes> {
        let copied = &mut self.copied;
        let chunk = self.chunks.pop_front();
        let chunk = chunk.or_else(|| (!copied.is_empty()).then(|| copied.split().freeze()))?;
        self.bytes_read += chunk.len() as u64;
        // It fails when the stream is closed, and then there is no more to receive.
        let _ = self.stream.flow_control().release_capacity(chunk.len());
        Some(chunk)
    }

    fn is_empty(&self) -> bool {
        self.chunks.is_empty() && self.copied.is_empty()
    }
}

impl RequestBody {
    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BoxError>>> {
        let mut buffer = self.buffer.lock();
        if let Some(bytes) = buffer.pop() {
            return Poll::Ready(Some(Ok(bytes)));
        }
        if buffer.is_closed {
            return Poll::Ready(buffer.error.take().map(Err));
        }
        buffer.handler = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Like [`RequestBody::poll_bytes`], within the limits.
    fn poll_limited(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BoxError>>> {
        let next = self.poll_bytes(cx);
        if next.is_pending() {
            if self.limits.kind != RequestKind::IdleStream {
                self.idle.arm(self.limits.idle_timeout);
            }
            ready!(self.idle.poll(cx));
            self.limits.hit(Limit::IdleTimeout);
            return Poll::Ready(Some(Err(status::idle().into())));
        }
        self.idle.disarm();
        next.map(|next| match next {
            Some(Ok(bytes)) => match self.scan(&bytes) {
                Ok(()) => Some(Ok(bytes)),
                Err(status) => Some(Err(status.into())),
            },
            Some(Err(error)) => Some(Err(error)),
            None => self
                .limits
                .check_end(&self.scanner)
                .err()
                .map(|status| Err(status.into())),
        })
    }

    /// Checks the messages in the next bytes, and counts those that the handler gets.
    fn scan(&mut self, bytes: &[u8]) -> Result<(), Status> {
        let before = self.scanner.started;
        self.limits.scan(&mut self.scanner, bytes)?;
        if let Some(counter) = &self.limits.counter {
            counter.add_messages(self.scanner.started - before);
        }
        Ok(())
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.has_failed {
            return Poll::Ready(None);
        }
        let next = ready!(self.poll_limited(cx));
        self.has_failed = matches!(next, Some(Err(_)));
        Poll::Ready(next.map(|bytes| bytes.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        let buffer = self.buffer.lock();
        let is_end = buffer.is_closed && buffer.error.is_none() && buffer.is_empty();
        // A missing message has to be reported by a poll.
        is_end && self.limits.check_end(&self.scanner).is_ok()
    }
}

impl RequestLimits {
    /// Checks the number and length of the messages in the next bytes.
    fn scan(&self, scanner: &mut MessageScanner, data: &[u8]) -> Result<(), Status> {
        scanner.scan(
            data,
            |started| match self.kind == RequestKind::Unary && started == 1 {
                true => Err(status::cardinality_violation()),
                false => Ok(()),
            },
            |length| match length > self.max_message_bytes {
                true => {
                    self.hit(Limit::MessageBytes);
                    Err(status::too_large(self.max_message_bytes, length))
                }
                false => Ok(()),
            },
        )
    }

    /// Checks that the request may end here. A message that is cut off fails to decode.
    fn check_end(&self, scanner: &MessageScanner) -> Result<(), Status> {
        match self.kind {
            RequestKind::Unary if scanner.is_empty() => Err(status::cardinality_violation()),
            _ => Ok(()),
        }
    }

    fn hit(&self, limit: Limit) {
        if let Some(counter) = &self.counter {
            counter.hit(limit);
        }
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    fn limits(kind: RequestKind) -> RequestLimits {
        RequestLimits {
            kind,
            max_message_bytes: 3,
            idle_timeout: Duration::ZERO,
            counter: None,
        }
    }

    /// The outcome of a body that arrives in frames of `size` bytes.
    fn outcome(kind: RequestKind, body: &[u8], size: usize) -> Result<(), Code> {
        let mut scanner = MessageScanner::default();
        let limits = limits(kind);
        body.chunks(size)
            .try_for_each(|frame| limits.scan(&mut scanner, frame))
            .and_then(|()| limits.check_end(&scanner))
            .map_err(|status| status.code())
    }

    #[track_caller]
    fn assert_outcome(kind: RequestKind, body: &[u8], expected: Result<(), Code>) {
        for size in 1..=body.len().max(1) {
            assert_eq!(outcome(kind, body, size), expected, "in frames of {size}");
        }
    }

    #[test]
    fn unary_request_has_one_message_in_any_framing() {
        let one = b"\0\0\0\0\x03abc";
        let empty = b"\0\0\0\0\0";
        assert_outcome(RequestKind::Unary, one, Ok(()));
        assert_outcome(RequestKind::Unary, empty, Ok(()));
        assert_outcome(RequestKind::Unary, b"", Err(Code::Unimplemented));
        for two in [&one[..], empty].map(|first| [first, one].concat()) {
            assert_outcome(RequestKind::Unary, &two, Err(Code::Unimplemented));
            assert_outcome(RequestKind::ActiveStream, &two, Ok(()));
        }
        assert_outcome(RequestKind::IdleStream, b"", Ok(()));
    }

    #[test]
    fn length_is_checked_before_the_message() {
        for kind in [
            RequestKind::Unary,
            RequestKind::ActiveStream,
            RequestKind::IdleStream,
        ] {
            assert_outcome(kind, b"\0\0\0\0\x04", Err(Code::ResourceExhausted));
            assert_outcome(kind, b"\x01\xff\xff\xff\xff", Err(Code::ResourceExhausted));
        }
        let second = b"\0\0\0\0\x01a\0\0\0\0\x04";
        assert_outcome(
            RequestKind::ActiveStream,
            second,
            Err(Code::ResourceExhausted),
        );
    }
}
