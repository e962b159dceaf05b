//! The response half of a call, and with it the call's whole life.

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
    super::{metrics::Limit, wait::Wait},
    record::{Record, code},
    refusal,
    request::Intake,
    room::Place,
};
use crate::failure::trailers;

/// How long after its deadline a call may take to get the word through to its client that it is
/// over.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// One call under way: where its request comes in, where its response goes, and when it is over.
pub(super) struct Call {
    pub(super) intake: Intake,
    pub(super) ending: Ending,
    pub(super) respond: SendResponse<Bytes>,
    pub(super) record: Record,
    pub(super) _place: Option<Place>,
}

impl Drop for Call {
    fn drop(&mut self) {
        self.record.received = self.intake.taken();
    }
}

/// When a call is over, whatever its handler does, and what its client is told then.
pub(super) struct Ending {
    pub(super) time: Wait,
    pub(super) why: fn() -> Status,
    /// The limit that says so, if it is the server's.
    pub(super) limit: Option<Limit>,
}

/// What comes next of a response.
enum Next {
    Data(Bytes),
    Trailers(HeaderMap),
    End,
    /// The handler failed, or panicked.
    Failed(Status),
    TimePassed,
    ClientGone,
}

impl Call {
    /// Brings a call to its end, with what its handler answers: or without, if that takes too long,
    /// panics, or the client has gone.
    pub(super) async fn answer<E>(
        mut self,
        answer: impl Future<Output = Result<Response<Body>, E>> + Unpin,
    ) {
        let response = {
            let mut answer = AssertUnwindSafe(answer).catch_unwind();
            let answered = poll_fn(|cx| {
                self.intake.poll(cx);
                if self.ending.time.is_over() {
                    return Poll::Ready(Some(self.too_late().into_http()));
                }
                let span = self.record.span();
                if let Poll::Ready(answer) = span.in_scope(|| answer.poll_unpin(cx)) {
                    return Poll::Ready(Some(match answer {
                        Ok(Ok(response)) => response,
                        _ => refusal::panicked().into_http(),
                    }));
                }
                if self.respond.poll_reset(cx).is_ready() {
                    return Poll::Ready(None);
                }
                let late = self.ending.time.poll(cx);
                late.map(|()| Some(self.too_late().into_http()))
            });
            answered.await
        };
        if let Some(response) = response {
            self.send(response).await;
        }
    }

    /// What the client is told when the time is over.
    fn too_late(&self) -> Status {
        if let Some(limit) = self.ending.limit {
            self.record.refused(limit);
        }
        (self.ending.why)()
    }

    async fn send(&mut self, response: Response<Body>) {
        if self.ending.time.is_over() {
            self.intake.close((self.ending.why)());
        }
        let (mut head, body) = response.into_parts();
        let ended = body.is_end_stream();
        let code = ended.then(|| code(&head.headers));
        self.record.name(&mut head.headers, code);
        let head = Response::from_parts(head, ());
        // It fails when the client has gone.
        let Ok(stream) = self.respond.send_response(head, ended) else {
            return;
        };
        match code {
            Some(code) => self.record.ended(code),
            None => self.send_body(stream, body).await,
        }
    }

    async fn send_body(&mut self, mut stream: SendStream<Bytes>, mut body: Body) {
        let mut trailers = loop {
            match poll_fn(|cx| self.poll_next(&mut stream, &mut body, cx)).await {
                Next::Data(bytes) => {
                    let sent = self.record.sending(&bytes);
                    if stream.send_data(bytes, false).is_err() {
                        return;
                    }
                    self.record.sent(sent);
                }
                Next::End => {
                    if stream.send_data(Bytes::new(), true).is_ok() {
                        self.record.ended(Code::Unknown);
                    }
                    return;
                }
                Next::Trailers(trailers) => break trailers,
                Next::Failed(status) => break trailers(&status),
                Next::TimePassed => {
                    let why = self.too_late();
                    // What the handler holds is not kept for a client that does not read.
                    drop(body);
                    self.intake.close(why.clone());
                    if stream.send_trailers(trailers(&why)).is_ok() {
                        self.record.ended(why.code());
                    }
                    return last_words(stream).await;
                }
                Next::ClientGone => return,
            }
        };
        let code = code(&trailers);
        self.record.name(&mut trailers, Some(code));
        // It fails when the client has gone.
        if stream.send_trailers(trailers).is_ok() {
            self.record.ended(code);
        }
    }

    fn poll_next(
        &mut self,
        stream: &mut SendStream<Bytes>,
        body: &mut Body,
        cx: &mut Context<'_>,
    ) -> Poll<Next> {
        self.intake.poll(cx);
        // However much there is to send.
        if self.ending.time.is_over() {
            return Poll::Ready(Next::TimePassed);
        }
        match poll_room(stream, cx) {
            Poll::Ready(true) => {
                let span = self.record.span();
                let frame = catch_unwind(AssertUnwindSafe(|| {
                    span.in_scope(|| Pin::new(body).poll_frame(cx))
                }));
                match frame {
                    Ok(Poll::Ready(frame)) => return Poll::Ready(next(frame)),
                    Ok(Poll::Pending) => {}
                    Err(_) => return Poll::Ready(Next::Failed(refusal::panicked())),
                }
                if stream.poll_reset(cx).is_ready() {
                    return Poll::Ready(Next::ClientGone);
                }
            }
            Poll::Ready(false) => return Poll::Ready(Next::ClientGone),
            Poll::Pending => {}
        }
        self.ending.time.poll(cx).map(|()| Next::TimePassed)
    }
}

/// Waits a moment for the client to take the word that the time is over, which stands behind what it
/// has not taken.
async fn last_words(mut stream: SendStream<Bytes>) {
    let gone = poll_fn(|cx| stream.poll_reset(cx));
    let _ = timeout(LAST_WORDS, gone).await;
    stream.send_reset(Reason::CANCEL);
}

/// Waits until the client takes more; false when it takes nothing any more.
fn poll_room(stream: &mut SendStream<Bytes>, cx: &mut Context<'_>) -> Poll<bool> {
    // How much there is to send nobody knows yet; that there is room for some is enough.
    stream.reserve_capacity(1);
    while stream.capacity() == 0 {
        match std::task::ready!(stream.poll_capacity(cx)) {
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return Poll::Ready(false),
        }
    }
    Poll::Ready(true)
}

fn next(frame: Option<Result<Frame<Bytes>, Status>>) -> Next {
    match frame {
        None => Next::End,
        Some(Err(status)) => Next::Failed(status),
        Some(Ok(frame)) => match frame.into_data() {
            Ok(bytes) => Next::Data(bytes),
            Err(frame) => Next::Trailers(frame.into_trailers().unwrap_or_default()),
        },
    }
}
