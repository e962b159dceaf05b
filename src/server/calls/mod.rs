//! What holds for every call, whatever it calls: it is gRPC, there is room for it, its messages are
//! as many and as large as they may be, it ends in time, and a handler that panics takes nobody
//! along.

mod methods;
mod refusal;
mod request;
mod response;
mod room;
#[cfg(test)]
mod tests;
mod timeout;

use std::{
    convert::Infallible,
    future::{Ready, ready},
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures::{
    FutureExt,
    future::{CatchUnwind, Either},
};
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use hyper::{body::Incoming, service::Service};
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tonic::{Status, service::Routes};
use tower::Service as _;

pub(super) use self::response::ResponseBody;
use self::{
    methods::Methods,
    request::{RequestBody, Rules},
    room::{Place, Room},
};
use super::{
    config::Limits,
    task,
    wait::{Wait, after},
};

/// What gRPC says that it is.
const GRPC: &[u8] = b"application/grpc";

/// The encodings of messages, as they travel and as a client takes them.
const GRPC_ENCODING: &str = "grpc-encoding";
const GRPC_ACCEPT_ENCODING: &str = "grpc-accept-encoding";

/// The largest message that gRPC servers take unless told otherwise, in bytes.
const MAX_MESSAGE_BYTES: u64 = 4 * 1024 * 1024;

/// What is served, and what is said of it.
pub(super) struct Served {
    pub(super) routes: Routes,
    /// Serialized `google.protobuf.FileDescriptorSet`s of the methods of `routes`.
    pub(super) descriptors: &'static [&'static [u8]],
    /// Paths of methods with streams of requests that always have something to say.
    pub(super) steady: &'static [&'static str],
    /// Paths of methods that look after the size of their messages themselves.
    pub(super) any_size: &'static [&'static str],
    /// Paths of methods that are served however busy the server is.
    pub(super) always: &'static [&'static str],
}

/// The calls of a server. Clones count together.
#[derive(Clone)]
pub(super) struct Calls {
    routes: Routes,
    methods: Arc<Methods>,
    any_size: &'static [&'static str],
    always: &'static [&'static str],
    room: Room,
    limits: Arc<Limits>,
}

impl Calls {
    pub(super) fn new(served: Served, limits: Arc<Limits>) -> Self {
        Self {
            routes: served.routes,
            methods: Arc::new(Methods::new(served.descriptors, served.steady)),
            any_size: served.any_size,
            always: served.always,
            room: Room::new(limits.max_calls),
            limits,
        }
    }

    /// The same, but that there is room for none.
    pub(super) fn refused(mut self) -> Self {
        self.room = Room::new(0);
        self.always = &[];
        self
    }

    fn begin(&self, request: Request<Incoming>) -> Result<Call, Refused> {
        if request.method() != Method::POST {
            return Err(Refused::Http(StatusCode::METHOD_NOT_ALLOWED));
        }
        if !is_grpc(request.headers()) {
            return Err(Refused::Http(StatusCode::UNSUPPORTED_MEDIA_TYPE));
        }
        let (mut parts, body) = request.into_parts();
        let path = parts.uri.path();
        let until = self.until(&parts.headers)?;
        let place = match self.always.contains(&path) {
            true => None,
            false => Some(self.room.take().ok_or_else(refusal::busy)?),
        };
        let rules = Rules {
            requests: self.methods.requests(path),
            max_message_bytes: match self.any_size.contains(&path) {
                true => u64::MAX,
                false => MAX_MESSAGE_BYTES,
            },
            idle_timeout: self.limits.idle_timeout,
        };
        answer_in_kind(&mut parts.headers);
        let body = RequestBody::new(body, rules, wait(until));
        let answer = self.routes.clone().call(Request::from_parts(parts, body));
        Ok(Call {
            answer: AssertUnwindSafe(answer).catch_unwind(),
            deadline: wait(until),
            until,
            place,
        })
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

impl Service<Request<Incoming>> for Calls {
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = Either<Call, Ready<Result<Self::Response, Infallible>>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        match self.begin(request) {
            Ok(call) => Either::Left(call),
            Err(refused) => Either::Right(ready(Ok(refused.into_response()))),
        }
    }
}

/// What a handler says.
type Answer = <Routes as tower::Service<Request<RequestBody<Incoming>>>>::Future;

/// Why a call does not get to its handler.
enum Refused {
    /// It is no gRPC.
    Http(StatusCode),
    Grpc(Status),
}

impl Refused {
    fn into_response(self) -> Response<ResponseBody> {
        match self {
            Self::Http(code) => refusal::http(code),
            Self::Grpc(status) => status.into_http(),
        }
    }
}

impl From<Status> for Refused {
    fn from(status: Status) -> Self {
        Self::Grpc(status)
    }
}

pin_project! {
    /// A call that waits for its handler's answer.
    pub(super) struct Call {
        #[pin]
        answer: CatchUnwind<AssertUnwindSafe<Answer>>,
        deadline: Wait,
        until: Option<Instant>,
        place: Option<Place>,
    }
}

impl Future for Call {
    type Output = Result<Response<ResponseBody>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Some(until) = this.until.take() {
            task::end_at(until);
        }
        let answered = match this.deadline.is_over() {
            true => Poll::Pending,
            false => this.answer.poll(cx),
        };
        Poll::Ready(Ok(match answered {
            Poll::Ready(Ok(Ok(response))) => {
                let (deadline, place) = (std::mem::take(this.deadline), this.place.take());
                response.map(|body| ResponseBody::new(body, deadline, place))
            }
            Poll::Ready(Err(panic)) => response::panicked(panic).into_http(),
            Poll::Pending => {
                std::task::ready!(this.deadline.poll(cx));
                refusal::deadline().into_http()
            }
        }))
    }
}

fn wait(until: Option<Instant>) -> Wait {
    until.map(Wait::until).unwrap_or_default()
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
fn answer_in_kind(headers: &mut HeaderMap) {
    let compresses = headers
        .get(GRPC_ENCODING)
        .is_some_and(|encoding| encoding != "identity");
    if !compresses {
        headers.remove(GRPC_ACCEPT_ENCODING);
    }
}
