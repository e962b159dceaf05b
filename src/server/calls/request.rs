//! The request half of a call, watched on its way to the handler.

use std::{
    error::Error,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use hyper::body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tonic::Status;

use super::{super::wait::Wait, methods::Requests, refusal};

/// In front of each message: a byte that says whether it is compressed, and its length in four.
const HEAD_BYTES: usize = 5;

/// What a request may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub(super) requests: Requests,
    /// The largest message, in bytes.
    pub(super) max_message_bytes: u64,
    /// How long the server waits for the next bytes, unless they may come at leisure.
    pub(super) idle_timeout: Duration,
}

pin_project! {
    /// The body of a request. It fails, with the status for the client, where it breaks the rules or
    /// its time is over.
    pub(super) struct RequestBody<B> {
        #[pin]
        inner: B,
        rules: Rules,
        messages: Messages,
        deadline: Wait,
        // Only what the handler waits for is waited for: this begins when it asks in vain.
        idle: Wait,
        failed: bool,
    }
}

impl<B> RequestBody<B> {
    pub(super) fn new(inner: B, rules: Rules, deadline: Wait) -> Self {
        Self {
            inner,
            rules,
            messages: Messages::default(),
            deadline,
            idle: Wait::default(),
            failed: false,
        }
    }
}

impl<B> Body for RequestBody<B>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>>,
{
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.project();
        if *this.failed {
            return Poll::Ready(None);
        }
        let next = match this.deadline.is_over() {
            // However much there is to take.
            true => Poll::Pending,
            false => this.inner.poll_frame(cx),
        };
        let checked = match next {
            Poll::Ready(next) => {
                this.idle.end();
                let checked = match &next {
                    Some(Ok(frame)) => frame
                        .data_ref()
                        .map_or(Ok(()), |data| this.messages.pass(data, this.rules)),
                    Some(Err(_)) => Ok(()),
                    None => this.messages.end(this.rules),
                };
                checked.map(|()| next)
            }
            Poll::Pending => {
                if this.rules.requests != Requests::AtLeisure {
                    this.idle.begin(this.rules.idle_timeout);
                }
                if this.deadline.poll(cx).is_ready() {
                    Err(refusal::deadline())
                } else {
                    ready!(this.idle.poll(cx));
                    Err(refusal::idle())
                }
            }
        };
        Poll::Ready(match checked {
            Ok(next) => next.map(|frame| frame.map_err(Into::into)),
            Err(status) => {
                *this.failed = true;
                Some(Err(status.into()))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        // Else nobody would ask, and miss that the one message is not there.
        self.inner.is_end_stream() && self.messages.end(&self.rules).is_ok()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Counts messages by the heads in front of them.
#[derive(Debug, Default)]
struct Messages {
    begun: u64,
    head: [u8; HEAD_BYTES],
    /// How much of the next head is there.
    head_bytes: usize,
    /// How much of the message under way is not, in bytes.
    rest: u64,
}

impl Messages {
    /// Follows the next bytes, and says what is wrong with them.
    fn pass(&mut self, mut data: &[u8], rules: &Rules) -> Result<(), Status> {
        while !data.is_empty() {
            if self.rest > 0 {
                let passed = self.rest.min(data.len() as u64);
                self.rest -= passed;
                data.advance(passed as usize);
                continue;
            }
            if rules.requests == Requests::One && self.begun == 1 {
                return Err(refusal::not_one_message());
            }
            let taken = data.len().min(HEAD_BYTES - self.head_bytes);
            data.copy_to_slice(&mut self.head[self.head_bytes..][..taken]);
            self.head_bytes += taken;
            if self.head_bytes == HEAD_BYTES {
                self.head_bytes = 0;
                self.begun += 1;
                let [_compressed, a, b, c, d] = self.head;
                self.rest = u32::from_be_bytes([a, b, c, d]).into();
                if self.rest > rules.max_message_bytes {
                    return Err(refusal::too_large(rules.max_message_bytes, self.rest));
                }
            }
        }
        Ok(())
    }

    /// Whether they may end here. A message that is cut off is refused where it is decoded.
    fn end(&self, rules: &Rules) -> Result<(), Status> {
        match rules.requests {
            Requests::One if self.begun == 0 && self.head_bytes == 0 => {
                Err(refusal::not_one_message())
            }
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
        }
    }

    /// What becomes of a body that comes in pieces of `size` bytes.
    fn outcome(requests: Requests, body: &[u8], size: usize) -> Result<(), Code> {
        let mut messages = Messages::default();
        let rules = rules(requests);
        body.chunks(size)
            .try_for_each(|piece| messages.pass(piece, &rules))
            .and_then(|()| messages.end(&rules))
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
