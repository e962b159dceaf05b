//! Lets the handler of Write refuse messages over the size limit, with a reason.
//!
//! Tonic refuses such a message before the handler is called, with a status that cannot name the alternative.
//! This wrapper reads the length in the message prefix, drops a message over the limit, and calls the handler
//! with an empty message and [`Oversize`].

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

/// The maximum number of bytes of a message that are received and dropped before the response. A client that
/// gets the response while it sends may see a broken connection instead.
const MAX_DROPPED_BYTES: u64 = 64 * 1024 * 1024;

/// The extension of a request whose message exceeded the limit and was dropped.
#[derive(Clone, Copy, Debug)]
pub(super) struct Oversize {
    /// The size of the message in bytes, with the filename and the keys and lengths of the fields.
    pub(super) size: u64,
}

/// Drops messages over a size limit to one method of a service.
#[derive(Clone, Debug)]
pub(crate) struct DropOversize<S> {
    inner: S,
    method: &'static str,
    limit: u64,
}

impl<S> DropOversize<S> {
    /// Wraps a service. `method` is the path of the method, `limit` is in bytes.
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
        // The instance that was polled ready must be the one that is called.
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

/// Returns the body unchanged, or an empty message and the size of the dropped one.
async fn drop_oversize(body: Body, limit: u64) -> (Body, Option<Oversize>) {
    let mut frames = BodyStream::new(body);
    let mut seen = Vec::new();
    let mut prefix = Vec::with_capacity(MESSAGE_PREFIX_LEN);
    while prefix.len() < MESSAGE_PREFIX_LEN {
        match frames.next().await {
            // Empty frames are not kept: a client may send any number of them.
            Some(Ok(frame)) if frame.data_ref().is_some_and(Bytes::is_empty) => {}
            Some(Ok(frame)) => {
                let data = frame.data_ref().into_iter().flatten();
                prefix.extend(data.take(MESSAGE_PREFIX_LEN - prefix.len()));
                seen.push(Ok(frame));
            }
            // A failed body returns its error forever, so it is not polled again.
            Some(Err(status)) => {
                seen.push(Err(status));
                return (Body::new(StreamBody::new(tokio_stream::iter(seen))), None);
            }
            None => break,
        }
    }
    // The service refuses a body that is shorter than a message prefix.
    let size = match prefix[..] {
        [_compressed, a, b, c, d] => u32::from_be_bytes([a, b, c, d]).into(),
        _ => 0,
    };
    if size <= limit {
        let whole = tokio_stream::iter(seen).chain(frames);
        return (Body::new(StreamBody::new(whole)), None);
    }
    let mut dropped = 0;
    while dropped < size.min(MAX_DROPPED_BYTES)
        && let Some(Ok(frame)) = frames.next().await
    {
        dropped += frame.data_ref().map_or(0, |data| data.len() as u64);
    }
    let empty_message = Full::new(Bytes::from_static(&[0; MESSAGE_PREFIX_LEN]));
    (Body::new(empty_message), Some(Oversize { size }))
}
