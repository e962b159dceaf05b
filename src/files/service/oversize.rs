//! Answers a Write that is too large as Write answers everything: with a reason.
//!
//! gRPC refuses a message over the limit before a handler sees it, with a status that cannot say
//! what to do instead. So this looks at the length that stands in front of the message, drops what
//! is too long, unread, and hands the call on with [`Oversize`] in its place.

use std::{
    error::Error,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::future::{BoxFuture, Either};
use http::Request;
use http_body_util::{BodyStream, Full, StreamBody};
use tokio_stream::StreamExt;
use tonic::{body::Body, server::NamedService};
use tower::Service;

use crate::codec::MESSAGE_PREFIX_LEN;

/// How much of a message is waited for before it is answered. A client that is answered while it
/// still sends may take that for a broken connection and never see the answer.
const MAX_DROPPED: u64 = 64 * 1024 * 1024;

/// In the extensions of a request: its message was larger than the limit and has been dropped.
#[derive(Clone, Copy, Debug)]
pub(super) struct Oversize {
    /// In bytes, the filename and the framing of the fields included.
    pub(super) size: u64,
}

/// Drops messages over a limit on their way to one method of a service.
#[derive(Clone, Debug)]
pub(crate) struct DropOversize<S> {
    inner: S,
    method: &'static str,
    limit: u64,
}

impl<S> DropOversize<S> {
    /// For calls of the method with the path `method`; `limit` in bytes.
    pub(super) fn new(inner: S, method: &'static str, limit: u64) -> Self {
        Self {
            inner,
            method,
            limit,
        }
    }
}

impl<S: NamedService> NamedService for DropOversize<S> {
    const NAME: &'static str = S::NAME;
}

impl<S, B> Service<Request<B>> for DropOversize<S>
where
    S: Service<Request<Body>> + Clone + Send + 'static,
    S::Future: Send,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Either<S::Future, BoxFuture<'static, Result<S::Response, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let request = request.map(Body::new);
        if request.uri().path() != self.method {
            return Either::Left(self.inner.call(request));
        }
        let limit = self.limit;
        // The service that was polled ready is the one to call; its clone takes its place.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        Either::Right(Box::pin(async move {
            let (mut parts, body) = request.into_parts();
            let (body, oversize) = drop_oversize(body, limit).await;
            if let Some(oversize) = oversize {
                parts.extensions.insert(oversize);
            }
            inner.call(Request::from_parts(parts, body)).await
        }))
    }
}

/// The body as it was, or an empty message and what it stands for.
async fn drop_oversize(body: Body, limit: u64) -> (Body, Option<Oversize>) {
    let mut frames = BodyStream::new(body);
    let mut seen = Vec::new();
    let mut head = Vec::with_capacity(MESSAGE_PREFIX_LEN);
    while head.len() < MESSAGE_PREFIX_LEN {
        match frames.next().await {
            // Nothing; and there could be any number of these.
            Some(Ok(frame)) if frame.data_ref().is_some_and(Bytes::is_empty) => {}
            Some(Ok(frame)) => {
                let data = frame.data_ref().into_iter().flatten();
                head.extend(data.take(MESSAGE_PREFIX_LEN - head.len()));
                seen.push(Ok(frame));
            }
            // A body that has failed fails again, for ever: it is not asked twice.
            Some(Err(status)) => {
                seen.push(Err(status));
                return (Body::new(StreamBody::new(tokio_stream::iter(seen))), None);
            }
            None => break,
        }
    }
    // What is too short for a head is for the service to refuse.
    let size = match head[..] {
        [_compressed, a, b, c, d] => u32::from_be_bytes([a, b, c, d]).into(),
        _ => 0,
    };
    if size <= limit {
        let whole = tokio_stream::iter(seen).chain(frames);
        return (Body::new(StreamBody::new(whole)), None);
    }
    let mut dropped = 0;
    while dropped < size.min(MAX_DROPPED)
        && let Some(Ok(frame)) = frames.next().await
    {
        dropped += frame.data_ref().map_or(0, |data| data.len() as u64);
    }
    let empty_message = Full::new(Bytes::from_static(&[0; MESSAGE_PREFIX_LEN]));
    (Body::new(empty_message), Some(Oversize { size }))
}
