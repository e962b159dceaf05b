//! The request half of a call, on its way to the handler.

use std::{
    collections::VecDeque,
    error::Error,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use http_body::{Body, Frame};
use tonic::Status;

use super::{
    super::{metrics::Limit, wait::Wait},
    messages::Messages,
    methods::Requests,
    record::Received,
    refusal,
};

/// A frame that is smaller, in bytes, is copied. HTTP/2 gives a part of a larger buffer, and while
/// one byte of it waits for the handler, all of it would be kept. It is the size that most clients
/// cut frames to.
const COPIED_BELOW: usize = 16 * 1024;

/// How much of what is copied goes into one piece, in bytes.
const PIECE_BYTES: usize = 16 * 1024;

/// What a request may be, and who counts what it is.
pub(super) struct Rules {
    pub(super) requests: Requests,
    /// The largest message, in bytes.
    pub(super) max_message_bytes: u64,
    /// How long the server waits for the next bytes, unless they may come at leisure.
    pub(super) idle_timeout: Duration,
    pub(super) received: Option<Received>,
}

/// Where the bytes of a request come in. It takes them from HTTP/2 as they come, for the handler to
/// take when it likes; the client may send more only as the handler takes what is there.
pub(super) struct Intake(Arc<Mutex<Waiting>>);

/// The body of a request. It fails, with the status for the client, where it breaks the rules.
pub(in crate::server) struct RequestBody {
    waiting: Arc<Mutex<Waiting>>,
    rules: Rules,
    messages: Messages,
    // Only what the handler waits for is waited for: this begins when it asks in vain.
    idle: Wait,
    failed: bool,
}

/// What has come and was not taken.
struct Waiting {
    stream: RecvStream,
    /// Whether nothing more comes of it.
    ended: bool,
    /// Why, if it is not the end.
    failed: Option<Box<dyn Error + Send + Sync>>,
    pieces: VecDeque<Bytes>,
    /// Behind them, what was copied.
    copied: BytesMut,
    handler: Option<Waker>,
    /// How much of it the handler has taken, in bytes.
    taken: u64,
}

/// The two ends of a request.
pub(super) fn request(stream: RecvStream, rules: Rules) -> (Intake, RequestBody) {
    let waiting = Arc::new(Mutex::new(Waiting {
        ended: stream.is_end_stream(),
        stream,
        failed: None,
        pieces: VecDeque::new(),
        copied: BytesMut::new(),
        handler: None,
        taken: 0,
    }));
    let body = RequestBody {
        waiting: Arc::clone(&waiting),
        rules,
        messages: Messages::default(),
        idle: Wait::default(),
        failed: false,
    };
    (Intake(waiting), body)
}

impl Intake {
    /// Takes what has come. To be called whenever the task of the call is woken, before its handler
    /// is asked.
    pub(super) fn poll(&self, cx: &mut Context<'_>) {
        let mut waiting = locked(&self.0);
        if waiting.take_in(cx)
            && let Some(handler) = waiting.handler.take_if(|it| !it.will_wake(cx.waker()))
        {
            drop(waiting);
            handler.wake();
        }
    }

    /// How much of the request the handler has taken, in bytes.
    pub(super) fn taken(&self) -> u64 {
        locked(&self.0).taken
    }

    /// Ends the request, whatever is still to come of it. A handler that goes on hears why.
    pub(super) fn close(&self, why: Status) {
        let mut waiting = locked(&self.0);
        if !waiting.ended {
            waiting.ended = true;
            waiting.failed = Some(why.into());
        }
        let handler = waiting.handler.take();
        drop(waiting);
        if let Some(handler) = handler {
            handler.wake();
        }
    }
}

impl Drop for Intake {
    fn drop(&mut self) {
        self.close(Status::cancelled("the call is over"));
    }
}

impl Waiting {
    /// Whether anything has come.
    fn take_in(&mut self, cx: &mut Context<'_>) -> bool {
        let mut news = false;
        while !self.ended
            && let Poll::Ready(next) = self.stream.poll_data(cx)
        {
            news = true;
            match next {
                Some(Ok(bytes)) => self.push(bytes),
                Some(Err(error)) => {
                    self.failed = Some(error.into());
                    self.ended = true;
                }
                // Nobody asks for the trailers of a request.
                None => self.ended = true,
            }
        }
        news
    }

    fn push(&mut self, bytes: Bytes) {
        // The last piece of a request is one, however small.
        if bytes.len() < COPIED_BELOW && !self.stream.is_end_stream() {
            self.copied.extend_from_slice(&bytes);
            if self.copied.len() >= PIECE_BYTES {
                self.pieces.push_back(self.copied.split().freeze());
            }
            return;
        }
        if !self.copied.is_empty() {
            self.pieces.push_back(self.copied.split().freeze());
        }
        self.pieces.push_back(bytes);
    }

    /// Gives the next bytes away, and lets the client send as many.
    fn pop(&mut self) -> Option<Bytes> {
        let copied = &mut self.copied;
        let piece = self.pieces.pop_front();
        let piece = piece.or_else(|| (!copied.is_empty()).then(|| copied.split().freeze()))?;
        self.taken += piece.len() as u64;
        // It fails when the stream is over, and then nothing more is sent.
        let _ = self.stream.flow_control().release_capacity(piece.len());
        Some(piece)
    }

    fn is_empty(&self) -> bool {
        self.pieces.is_empty() && self.copied.is_empty()
    }
}

fn locked(waiting: &Mutex<Waiting>) -> MutexGuard<'_, Waiting> {
    // Nothing that panics leaves it half changed.
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RequestBody {
    /// The next bytes; the end; or why there are none.
    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BoxError>>> {
        let mut waiting = locked(&self.waiting);
        if let Some(bytes) = waiting.pop() {
            return Poll::Ready(Some(Ok(bytes)));
        }
        if waiting.ended {
            return Poll::Ready(waiting.failed.take().map(Err));
        }
        waiting.handler = Some(cx.waker().clone());
        Poll::Pending
    }

    /// The same, as far as it keeps the rules.
    fn poll_checked(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BoxError>>> {
        let next = self.poll_bytes(cx);
        if next.is_pending() {
            if self.rules.requests != Requests::AtLeisure {
                self.idle.begin(self.rules.idle_timeout);
            }
            ready!(self.idle.poll(cx));
            self.rules.refused(Limit::IdleTimeout);
            return Poll::Ready(Some(Err(refusal::idle().into())));
        }
        self.idle.end();
        next.map(|next| match next {
            Some(Ok(bytes)) => match self.pass(&bytes) {
                Ok(()) => Some(Ok(bytes)),
                Err(status) => Some(Err(status.into())),
            },
            Some(failed) => Some(failed),
            None => self
                .rules
                .end(&self.messages)
                .err()
                .map(|status| Err(status.into())),
        })
    }

    /// Follows the messages in the next bytes, and says what is wrong with them. Those that the
    /// handler gets are counted.
    fn pass(&mut self, bytes: &[u8]) -> Result<(), Status> {
        let before = self.messages.begun;
        self.rules.pass(&mut self.messages, bytes)?;
        if let Some(received) = &self.rules.received {
            received.messages(self.messages.begun - before);
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
        if self.failed {
            return Poll::Ready(None);
        }
        let next = ready!(self.poll_checked(cx));
        self.failed = matches!(next, Some(Err(_)));
        Poll::Ready(next.map(|bytes| bytes.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        let waiting = locked(&self.waiting);
        let ended = waiting.ended && waiting.failed.is_none() && waiting.is_empty();
        // Else nobody would ask, and miss that the one message is not there.
        ended && self.rules.end(&self.messages).is_ok()
    }
}

type BoxError = Box<dyn Error + Send + Sync>;

impl Rules {
    /// What is wrong with the next bytes of a request.
    fn pass(&self, messages: &mut Messages, data: &[u8]) -> Result<(), Status> {
        messages.pass(
            data,
            |begun| match self.requests == Requests::One && begun == 1 {
                true => Err(refusal::not_one_message()),
                false => Ok(()),
            },
            |size| match size > self.max_message_bytes {
                true => {
                    self.refused(Limit::MessageBytes);
                    Err(refusal::too_large(self.max_message_bytes, size))
                }
                false => Ok(()),
            },
        )
    }

    fn refused(&self, limit: Limit) {
        if let Some(received) = &self.received {
            received.refused(limit);
        }
    }

    /// Whether they may end here. A message that is cut off is refused where it is decoded.
    fn end(&self, messages: &Messages) -> Result<(), Status> {
        match self.requests {
            Requests::One if messages.is_empty() => Err(refusal::not_one_message()),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    fn rules(requests: Requests) -> Rules {
        Rules {
            requests,
            max_message_bytes: 3,
            idle_timeout: Duration::ZERO,
            received: None,
        }
    }

    /// What becomes of a body that comes in pieces of `size` bytes.
    fn outcome(requests: Requests, body: &[u8], size: usize) -> Result<(), Code> {
        let mut messages = Messages::default();
        let rules = rules(requests);
        body.chunks(size)
            .try_for_each(|piece| rules.pass(&mut messages, piece))
            .and_then(|()| rules.end(&messages))
            .map_err(|status| status.code())
    }

    #[track_caller]
    fn assert_outcome(requests: Requests, body: &[u8], expected: Result<(), Code>) {
        for size in 1..=body.len().max(1) {
            assert_eq!(
                outcome(requests, body, size),
                expected,
                "in pieces of {size}"
            );
        }
    }

    #[test]
    fn one_message_is_one_however_it_comes() {
        let one = b"\0\0\0\0\x03abc";
        let empty = b"\0\0\0\0\0";
        assert_outcome(Requests::One, one, Ok(()));
        assert_outcome(Requests::One, empty, Ok(()));
        assert_outcome(Requests::One, b"", Err(Code::Unimplemented));
        for two in [&one[..], empty].map(|first| [first, one].concat()) {
            assert_outcome(Requests::One, &two, Err(Code::Unimplemented));
            assert_outcome(Requests::Steady, &two, Ok(()));
        }
        assert_outcome(Requests::AtLeisure, b"", Ok(()));
    }

    #[test]
    fn the_length_is_looked_at_before_the_message_comes() {
        for requests in [Requests::One, Requests::Steady, Requests::AtLeisure] {
            assert_outcome(requests, b"\0\0\0\0\x04", Err(Code::ResourceExhausted));
            assert_outcome(
                requests,
                b"\x01\xff\xff\xff\xff",
                Err(Code::ResourceExhausted),
            );
        }
        let second = b"\0\0\0\0\x01a\0\0\0\0\x04";
        assert_outcome(Requests::Steady, second, Err(Code::ResourceExhausted));
    }
}
