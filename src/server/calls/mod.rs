//! What holds for every call, whatever it calls: it is gRPC, there is room for it, its messages are
//! as many and as large as they may be, it ends in time, and a handler that panics takes nobody
//! along.

mod messages;
mod methods;
mod record;
mod refusal;
mod request;
mod response;
mod room;
mod routes;
#[cfg(test)]
mod tests;
mod timeout;

use std::{
    sync::Arc,
    task::{Context, Waker},
};

use bytes::Bytes;
use h2::{RecvStream, server::SendResponse};
use http::{HeaderMap, Request, StatusCode, header, request::Parts};
use tokio::time::Instant;
use tonic::Status;

use self::{
    methods::Method,
    record::Record,
    request::Rules,
    response::{Call, Ending},
    room::Place,
};
pub(super) use self::{
    methods::{Methods, Notes},
    room::Room,
    routes::Routes,
};
use super::{
    config::Limits,
    metrics::Meters,
    wait::{Wait, after},
};

/// What gRPC says that it is.
const GRPC: &[u8] = b"application/grpc";

/// The encodings of messages, as they travel and as a client takes them.
const GRPC_ENCODING: &str = "grpc-encoding";
const GRPC_ACCEPT_ENCODING: &str = "grpc-accept-encoding";

/// The calls of a server. Clones count together.
#[derive(Clone)]
pub(super) struct Calls {
    pub(super) routes: Routes,
    pub(super) methods: Arc<Methods>,
    pub(super) room: Room,
    pub(super) limits: Arc<Limits>,
    /// Where they are counted, if they are.
    pub(super) meters: Option<Arc<Meters>>,
    /// Whether none is taken, however much room there is.
    pub(super) refused: bool,
}

impl Calls {
    /// The same, but that none is taken.
    pub(super) fn refused(mut self) -> Self {
        self.refused = true;
        self
    }

    /// Begins a call, and gives what brings it to its end. None where there is nothing left to do: it
    /// was refused, or is over already, as a small call is that has come whole. So that takes no
    /// task, and is done while all of it is in the processor's cache.
    pub(super) fn begin(
        self: &Arc<Self>,
        request: Request<RecvStream>,
        mut respond: SendResponse<Bytes>,
    ) -> Option<impl Future<Output = ()> + Send + Unpin + use<>> {
        let (head, stream) = request.into_parts();
        let number = self.methods.number(head.uri.path());
        let method = self.methods.method(number);
        let mut record = Record::new(Arc::clone(self), number);
        let refused = match self.admit(&head, method) {
            Ok((until, place)) => {
                let rules = self.rules(method, &record);
                let (intake, body) = request::request(stream, rules);
                let call = Call {
                    intake,
                    ending: Ending {
                        time: until.map(Wait::until).unwrap_or_default(),
                        why: refusal::deadline,
                    },
                    respond,
                    record,
                    _place: place,
                };
                let request = Request::from_parts(answered_in_kind(head), body);
                let mut call = Box::pin(call.answer(self.routes.call(request)));
                // Whoever takes it asks it again, and is woken then.
                let mut nobody = Context::from_waker(Waker::noop());
                return call.as_mut().poll(&mut nobody).is_pending().then_some(call);
            }
            Err(Refused::Http(code)) => refusal::http(code),
            Err(Refused::Grpc(status)) => status.into_http(),
        };
        // It fails when the client has gone.
        let code = record::code(refused.headers());
        if respond.send_response(refused, true).is_ok() {
            record.ends(code);
        }
        None
    }

    /// When the call has to be over, and room for it until then.
    fn admit(
        &self,
        head: &Parts,
        method: &Method,
    ) -> Result<(Option<Instant>, Option<Place>), Refused> {
        if head.method != http::Method::POST {
            return Err(Refused::Http(StatusCode::METHOD_NOT_ALLOWED));
        }
        if !is_grpc(&head.headers) {
            return Err(Refused::Http(StatusCode::UNSUPPORTED_MEDIA_TYPE));
        }
        let until = self.until(&head.headers)?;
        if self.refused {
            return Err(refusal::busy().into());
        }
        let place = match method.always {
            true => None,
            false => Some(self.room.take().ok_or_else(refusal::busy)?),
        };
        Ok((until, place))
    }

    fn rules(&self, method: &Method, record: &Record) -> Rules {
        Rules {
            requests: method.requests,
            max_message_bytes: method.max_message_bytes,
            idle_timeout: self.limits.idle_timeout,
            received: record.of_request(),
        }
    }

    /// When the call has to be over.
    fn until(&self, headers: &HeaderMap) -> Result<Option<Instant>, Status> {
        let wanted = timeout::timeout(headers).map_err(|_| refusal::malformed_timeout())?;
        let timeout = match (wanted, self.limits.max_deadline) {
            (Some(wanted), Some(most)) => Some(wanted.min(most)),
            (wanted, most) => wanted.or(most),
        };
        Ok(timeout.map(after))
    }
}

/// Why a call does not get to its handler.
enum Refused {
    /// It is no gRPC.
    Http(StatusCode),
    Grpc(Status),
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
