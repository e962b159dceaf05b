//! A call before it gets to its handler: whether it is gRPC, who calls, and whether there is room.

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Waker},
};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use h2::{RecvStream, server::SendResponse};
use http::{HeaderMap, Method, Request, StatusCode, header, request::Parts};
use tokio::time::Instant;
use tonic::{Code, Status};

use super::{
    Calls,
    record::Record,
    refusal,
    request::{self, Rules},
    response::{Call, Ending},
    room::Place,
    timeout,
};
use crate::server::{
    auth::Caller,
    config::Limits,
    metrics::Limit,
    wait::{Wait, after},
};

/// What gRPC says that it is.
const GRPC: &[u8] = b"application/grpc";

/// The encodings of messages, as they travel and as a client takes them.
const GRPC_ENCODING: &str = "grpc-encoding";
const GRPC_ACCEPT_ENCODING: &str = "grpc-accept-encoding";

/// A call of which the headers have come, and nothing else was looked at.
pub(super) struct Arrival {
    /// The number of its method.
    method: usize,
    head: Parts,
    stream: RecvStream,
    respond: SendResponse<Bytes>,
    record: Record,
    /// When it has to be over, by the word of its client.
    until: Result<Option<Deadline>, Status>,
}

/// When a call has to be over, by the word of its client or of the server.
#[derive(Clone, Copy)]
struct Deadline {
    time: Instant,
    /// The server's, if it is that.
    limit: Option<Limit>,
}

/// Why a call gets to its handler.
struct Admitted {
    caller: Option<Arc<Caller>>,
    place: Option<Place>,
}

/// Why a call does not get to its handler.
enum Refused {
    /// It is no gRPC.
    Http(StatusCode),
    Grpc(Status),
    /// Not before the keys have been read again.
    Yet(BoxFuture<'static, ()>),
}

impl Arrival {
    pub(super) fn new(
        calls: &Arc<Calls>,
        request: Request<RecvStream>,
        respond: SendResponse<Bytes>,
    ) -> Self {
        let (head, stream) = request.into_parts();
        let method = calls.methods.number(head.uri.path());
        Self {
            method,
            record: Record::new(calls, method, &head),
            until: until(&head.headers, &calls.limits),
            head,
            stream,
            respond,
        }
    }

    /// Lets the call begin, and gives what brings it to its end; None where it has come to it.
    pub(super) fn begin(mut self) -> Option<BoxFuture<'static, ()>> {
        match self.admit() {
            Err(Refused::Yet(keys)) => Some(self.wait(keys).boxed()),
            admitted => self.settle(admitted),
        }
    }

    /// The same once the keys have been read again, for which neither the client nor its deadline
    /// waits.
    async fn wait(mut self, keys: BoxFuture<'static, ()>) {
        let until = self.until.as_ref().ok().copied().flatten();
        let mut ending = ending(until, None);
        let admitted = tokio::select! {
            () = keys => self.admit(),
            () = poll_fn(|cx| ending.time.poll(cx)) => {
                if let Some(limit) = ending.limit {
                    self.record.refused(limit);
                }
                Err((ending.why)().into())
            }
            _ = poll_fn(|cx| self.respond.poll_reset(cx)) => return,
        };
        if let Some(call) = self.settle(admitted) {
            call.await;
        }
    }

    fn settle(mut self, admitted: Result<Admitted, Refused>) -> Option<BoxFuture<'static, ()>> {
        let grpc = |status: Status| (status.code(), status.into_http());
        let (code, mut refused) = match admitted {
            Ok(admitted) => return self.go(admitted),
            // Like a method that is not there: UNKNOWN, which a client of gRPC makes of it, would put the
            // blame on the server.
            Err(Refused::Http(code)) => (Code::Unimplemented, refusal::http(code)),
            Err(Refused::Grpc(status)) => grpc(status),
            Err(Refused::Yet(_)) => grpc(refusal::unauthenticated()),
        };
        self.record.name(refused.headers_mut(), Some(code));
        // It fails when the client has gone.
        if self.respond.send_response(refused, true).is_ok() {
            self.record.ended(code);
        }
        None
    }

    /// Calls the handler. A call that is over at once, as a small one is that has come whole, takes
    /// no task, and is done while all of it is in the processor's cache.
    fn go(mut self, admitted: Admitted) -> Option<BoxFuture<'static, ()>> {
        let calls = self.record.calls();
        let method = calls.methods.method(self.method);
        let rules = Rules {
            requests: method.requests,
            max_message_bytes: method.max_message_bytes,
            idle_timeout: calls.limits.idle_timeout,
            received: self.record.of_request(),
        };
        let (intake, body) = request::request(self.stream, rules);
        let until = self.until.unwrap_or_default();
        if let Some(caller) = &admitted.caller
            && method.is_of_files()
        {
            self.head.extensions.insert(caller.files.clone());
        }
        let request = Request::from_parts(answered_in_kind(self.head), body);
        let answer = calls.routes.call(request);
        let call = Call {
            intake,
            ending: ending(until, admitted.caller.as_deref()),
            respond: self.respond,
            record: self.record,
            _place: admitted.place,
        };
        let mut call = call.answer(answer).boxed();
        // Whoever takes it asks it again, and is woken then.
        let mut nobody = Context::from_waker(Waker::noop());
        call.as_mut().poll(&mut nobody).is_pending().then_some(call)
    }

    fn admit(&mut self) -> Result<Admitted, Refused> {
        if self.head.method != Method::POST {
            return Err(Refused::Http(StatusCode::METHOD_NOT_ALLOWED));
        }
        if !is_grpc(&self.head.headers) {
            return Err(Refused::Http(StatusCode::UNSUPPORTED_MEDIA_TYPE));
        }
        self.until.as_ref().map_err(Status::clone)?;
        if self.record.calls().refused {
            return Err(refusal::busy().into());
        }
        let caller = self.caller()?;
        if let Some(caller) = &caller {
            self.record.is_of(caller);
        }
        let calls = self.record.calls();
        let place = match calls.methods.method(self.method).always {
            true => None,
            false => Some(calls.room.take().ok_or_else(|| {
                self.record.refused(Limit::MaxCalls);
                refusal::busy()
            })?),
        };
        Ok(Admitted { caller, place })
    }

    /// Who calls, where that is asked.
    fn caller(&mut self) -> Result<Option<Arc<Caller>>, Refused> {
        let calls = self.record.calls();
        let Some(gate) = &calls.gate else {
            return Ok(None);
        };
        let access = calls.methods.method(self.method).access;
        let (flaw, refused) = match gate.admit(&self.head.headers, access) {
            Ok(caller) => return Ok(caller),
            Err(denied) => match gate.ask(&denied) {
                Some(keys) => (denied.flaw(), Refused::Yet(keys.boxed())),
                None => (denied.flaw(), refusal::denied(&denied, gate).into()),
            },
        };
        self.record.has_flaw(flaw);
        Err(refused)
    }
}

/// When a call has to be over, by the word of its client or of its token, whichever comes first.
fn ending(until: Option<Deadline>, caller: Option<&Caller>) -> Ending {
    match (until, caller.map(|caller| caller.until)) {
        (until, Some(expiry)) if until.as_ref().is_none_or(|until| expiry < until.time) => Ending {
            time: Wait::until(expiry),
            why: refusal::unauthenticated,
            limit: None,
        },
        (until, _) => Ending {
            limit: until.as_ref().and_then(|until| until.limit),
            time: until.map(|it| Wait::until(it.time)).unwrap_or_default(),
            why: refusal::deadline,
        },
    }
}

/// When a call has to be over.
fn until(headers: &HeaderMap, limits: &Limits) -> Result<Option<Deadline>, Status> {
    let wanted = timeout::timeout(headers).map_err(|_| refusal::malformed_timeout())?;
    let (timeout, limit) = match (wanted, limits.max_deadline) {
        (Some(wanted), Some(most)) if most < wanted => (most, Some(Limit::MaxDeadline)),
        (Some(wanted), _) => (wanted, None),
        (None, Some(most)) => (most, Some(Limit::MaxDeadline)),
        (None, None) => return Ok(None),
    };
    let time = after(timeout);
    Ok(Some(Deadline { time, limit }))
}

impl From<Status> for Refused {
    fn from(status: Status) -> Self {
        Self::Grpc(status)
    }
}

/// Whether the content is what gRPC calls its own, in protobuf.
fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(content_type) = headers.get(header::CONTENT_TYPE) else {
        return false;
    };
    match content_type.as_bytes().strip_prefix(GRPC) {
        Some(rest) => {
            let rest = rest.strip_prefix(b"+proto").unwrap_or(rest);
            rest.is_empty() || rest.starts_with(b";")
        }
        None => false,
    }
}

/// A client that compresses is answered in kind. One that only could is not: most say so always, and
/// what is small grows by being compressed.
fn answered_in_kind(mut head: Parts) -> Parts {
    let compresses = head
        .headers
        .get(GRPC_ENCODING)
        .is_some_and(|encoding| encoding != "identity");
    if !compresses {
        head.headers.remove(GRPC_ACCEPT_ENCODING);
    }
    head
}
