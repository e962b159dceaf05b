//! The response half of a call, and what a call holds as long as it lasts.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use hyper::body::{Body, Frame, SizeHint};
use tonic::Status;

use super::{super::wait::Wait, refusal, room::Place};

/// The body of a response. When its time is over, or its handler panics, it lets go of the handler
/// and ends with the status for the client.
#[derive(Default)]
pub(in crate::server) struct ResponseBody {
    inner: Option<tonic::body::Body>,
    deadline: Wait,
    _place: Option<Place>,
}

impl ResponseBody {
    pub(super) fn new(inner: tonic::body::Body, deadline: Wait, place: Option<Place>) -> Self {
        Self {
            inner: Some(inner),
            deadline,
            _place: place,
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let Some(inner) = &mut this.inner else {
            return Poll::Ready(None);
        };
        let next = match this.deadline.is_over() {
            // However much there is to send.
            true => Ok(Poll::Pending),
            false => catch_unwind(AssertUnwindSafe(|| Pin::new(inner).poll_frame(cx))),
        };
        let status = match next {
            Err(panic) => panicked(panic),
            Ok(Poll::Ready(next)) => return Poll::Ready(next),
            Ok(Poll::Pending) => {
                ready!(this.deadline.poll(cx));
                refusal::deadline()
            }
        };
        this.inner = None;
        let mut trailers = HeaderMap::new();
        Poll::Ready(Some(
            status
                .add_header(&mut trailers)
                .map(|()| Frame::trailers(trailers)),
        ))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner
            .as_ref()
            .map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}

/// The status for a handler that panicked. The panic itself has been told where all are.
pub(super) fn panicked(_panic: Box<dyn Any + Send>) -> Status {
    refusal::panicked()
}
