//! The response half of a call, which drives the whole call.

use std::{
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::FutureExt;
use h2::{Reason, SendStream, server::SendResponse};
use http::{HeaderMap, Response};
use http_body::{Body as _, Frame};
use tokio::time::timeout;
use tonic::{Code, Status, body::Body};

use super::{
    call_limit::CallPermit,
    expiry::Expiry,
    request::RequestReceiver,
    routes::ResponseFuture,
    status::{self, code_in},
    telemetry::CallTelemetry,
};
use crate::failure::trailers;

/// Time for a client to read the trailers of an expired call, which are queued behind unread data.
const LINGER: Duration = Duration::from_millis(500);

/// A call whose handler is running.
pub(super) struct ActiveCall {
    pub(super) receiver: RequestReceiver,
    pub(super) expiry: Expiry,
    pub(super) respond: SendResponse<Bytes>,
    pub(super) telemetry: CallTelemetry,
    pub(super) _permit: Option<CallPermit>,
}

impl Drop for ActiveCall {
    fn drop(&mut self) {
        // Work that is still queued for the call must not begin, however it ended.
        if let Some(commit_point) = &self.expiry.commit_point {
            commit_point.end();
        }
        self.telemetry.received_bytes = self.receiver.bytes_read();
    }
}

/// What happens next to a response body.
enum BodyEvent {
    Data(Bytes),
    Trailers(HeaderMap),
    End,
    /// The handler has failed or panicked.
    Failed(Status),
    Expired,
    ClientGone,
}

impl ActiveCall {
    /// Runs the call to its end: the handler's response, its panic, the expiry, or the client's reset.
    pub(super) async fn run(mut self, response: ResponseFuture) {
        let response = {
            let mut response = AssertUnwindSafe(response).catch_unwind();
            let responded = poll_fn(|cx| {
                self.receiver.poll(cx);
                if self.expiry.has_elapsed() {
                    return Poll::Ready(Some(self.expire().into_http()));
                }
                let span = self.telemetry.span();
                if let Poll::Ready(response) = span.in_scope(|| response.poll_unpin(cx)) {
                    return Poll::Ready(Some(match response {
                        Ok(Ok(response)) => response,
                        Err(_panic) => status::handler_panicked().into_http(),
                    }));
                }
                if self.respond.poll_reset(cx).is_ready() {
                    return Poll::Ready(None);
                }
                let expired = self.expiry.poll(cx);
                expired.map(|()| Some(self.expire().into_http()))
            });
            responded.await
        };
        if let Some(response) = response {
            self.send(response).await;
        }
    }

    /// Counts the expiry, ends the request, and returns the status of both.
    fn expire(&self) -> Status {
        if let Some(limit) = self.expiry.limit {
            self.telemetry.hit(limit);
        }
        let status = self.expiry.status();
        self.receiver.close(status.clone());
        status
    }

    async fn send(&mut self, response: Response<Body>) {
        let (mut head, body) = response.into_parts();
        let is_end = body.is_end_stream();
        let code = is_end.then(|| code_in(&head.headers));
        self.telemetry.attach_request_id(&mut head.headers, code);
        let head = Response::from_parts(head, ());
        // It fails when the client is gone.
        let Ok(stream) = self.respond.send_response(head, is_end) else {
            return;
        };
        match code {
            Some(code) => self.telemetry.finish(code),
            None => self.send_body(stream, body).await,
        }
    }

    async fn send_body(&mut self, mut stream: SendStream<Bytes>, mut body: Body) {
        let mut trailers = loop {
            match poll_fn(|cx| self.poll_body(&mut stream, &mut body, cx)).await {
                BodyEvent::Data(bytes) => {
                    let data = self.telemetry.measure(&bytes);
                    if stream.send_data(bytes, false).is_err() {
                        return;
                    }
                    self.telemetry.count_sent(data);
                }
                BodyEvent::End => {
                    if stream.send_data(Bytes::new(), true).is_ok() {
                        self.telemetry.finish(Code::Unknown);
                    }
                    return;
                }
                BodyEvent::Trailers(trailers) => break trailers,
                BodyEvent::Failed(status) => break trailers(&status),
                BodyEvent::Expired => {
                    // What the handler holds is released now, even if the client does not read.
                    drop(body);
                    let status = self.expire();
                    if stream.send_trailers(trailers(&status)).is_ok() {
                        self.telemetry.finish(status.code());
                    }
                    return linger(stream).await;
                }
                BodyEvent::ClientGone => return,
            }
        };
        let code = code_in(&trailers);
        self.telemetry.attach_request_id(&mut trailers, Some(code));
        // It fails when the client is gone.
        if stream.send_trailers(trailers).is_ok() {
            self.telemetry.finish(code);
        }
    }

    fn poll_body(
        &mut self,
        stream: &mut SendStream<Bytes>,
        body: &mut Body,
        cx: &mut Context<'_>,
    ) -> Poll<BodyEvent> {
        self.receiver.poll(cx);
        // Checked first: a body that is always ready would never let the timer be polled.
        if self.expiry.has_elapsed() {
            return Poll::Ready(BodyEvent::Expired);
        }
        match poll_capacity(stream, cx) {
            Poll::Ready(true) => {
                let span = self.telemetry.span();
                let frame = catch_unwind(AssertUnwindSafe(|| {
                    span.in_scope(|| Pin::new(body).poll_frame(cx))
                }));
                match frame {
                    Ok(Poll::Ready(frame)) => return Poll::Ready(to_event(frame)),
                    Ok(Poll::Pending) => {}
                    Err(_panic) => {
                        return Poll::Ready(BodyEvent::Failed(status::handler_panicked()));
                    }
                }
                if stream.poll_reset(cx).is_ready() {
                    return Poll::Ready(BodyEvent::ClientGone);
                }
            }
            Poll::Ready(false) => return Poll::Ready(BodyEvent::ClientGone),
            Poll::Pending => {}
        }
        self.expiry.poll(cx).map(|()| BodyEvent::Expired)
    }
}

/// Gives the client [`LINGER`] to read the trailers, then resets the stream.
async fn linger(mut stream: SendStream<Bytes>) {
    let reset = poll_fn(|cx| stream.poll_reset(cx));
    let _ = timeout(LINGER, reset).await;
    stream.send_reset(Reason::CANCEL);
}

/// Waits for flow-control capacity; false when the stream is closed.
fn poll_capacity(stream: &mut SendStream<Bytes>, cx: &mut Context<'_>) -> Poll<bool> {
    // The size of the next frame is unknown; any capacity is enough to ask the handler for it.
    stream.reserve_capacity(1);
    while stream.capacity() == 0 {
        match std::task::ready!(stream.poll_capacity(cx)) {
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return Poll::Ready(false),
        }
    }
    Poll::Ready(true)
}

fn to_event(frame: Option<Result<Frame<Bytes>, Status>>) -> BodyEvent {
    match frame {
        None => BodyEvent::End,
        Some(Err(status)) => BodyEvent::Failed(status),
        Some(Ok(frame)) => match frame.into_data() {
            Ok(bytes) => BodyEvent::Data(bytes),
            Err(frame) => BodyEvent::Trailers(frame.into_trailers().unwrap_or_default()),
        },
    }
}
