//! A call before its handler: whether it is gRPC, whether its caller may make it, and whether there is room.

use std::{
    future::{poll_fn, ready},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    task::{Context, Waker},
};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use h2::{RecvStream, server::SendResponse};
use http::{HeaderMap, Method, Request, StatusCode, header, request::Parts};
use tokio::time::Instant;
use tonic::{Code, Status, body::Body};

use super::{
    call_limit::CallPermit,
    context::CallContext,
    expiry::Expiry,
    grpc_timeout::grpc_timeout,
    request::{self, RequestLimits},
    response::ActiveCall,
    status,
    telemetry::CallTelemetry,
};
use crate::{
    commit_point::CommitPoint,
    server::{
        auth::Identity,
        limits::Limits,
        metrics::Limit,
        timer::{LazyTimeout, deadline_after},
    },
};

/// The content type of gRPC.
const GRPC_CONTENT_TYPE: &[u8] = b"application/grpc";

const GRPC_ENCODING: &str = "grpc-encoding";
const GRPC_ACCEPT_ENCODING: &str = "grpc-accept-encoding";

/// A call whose headers have been received.
pub(super) struct PendingCall {
    method_id: usize,
    head: Parts,
    stream: RecvStream,
    respond: SendResponse<Bytes>,
    telemetry: CallTelemetry,
    deadline: Result<Option<Deadline>, Status>,
}

/// The deadline that the client or the server sets.
#[derive(Clone, Copy)]
struct Deadline {
    instant: Instant,
    /// The limit that sets it, if it is the server's.
    limit: Option<Limit>,
}

/// What an accepted call holds.
struct Admitted {
    identity: Option<Arc<Identity>>,
    permit: Option<CallPermit>,
}

/// Why a call does not reach its handler.
enum Rejected {
    /// It is not gRPC.
    Http(StatusCode),
    Grpc(Status),
    /// Its token is to be checked again when the future, a refresh of the keys, completes.
    AwaitKeys(BoxFuture<'static, ()>),
}

impl PendingCall {
    pub(super) fn new(
        context: &Arc<CallContext>,
        request: Request<RecvStream>,
        respond: SendResponse<Bytes>,
    ) -> Self {
        let (head, stream) = request.into_parts();
        let method_id = context.methods.id(head.uri.path());
        Self {
            method_id,
            telemetry: CallTelemetry::new(context, context.methods.counter_id(method_id), &head),
            deadline: parse_deadline(&head.headers, &context.limits),
            head,
            stream,
            respond,
        }
    }

    /// Begins the call. Returns the future that runs it to its end; None if the call has ended already.
    pub(super) fn begin(mut self) -> Option<BoxFuture<'static, ()>> {
        match self.admit() {
            Err(Rejected::AwaitKeys(keys)) => Some(self.begin_after(keys).boxed()),
            admitted => self.respond(admitted),
        }
    }

    /// Begins the call after a refresh of the keys, unless the client or the deadline ends it before.
    async fn begin_after(mut self, keys: BoxFuture<'static, ()>) {
        let deadline = self.deadline.as_ref().ok().copied().flatten();
        let mut expiry = effective_expiry(deadline, None);
        let admitted = tokio::select! {
            () = keys => self.admit(),
            () = poll_fn(|cx| expiry.poll(cx)) => {
                if let Some(limit) = expiry.limit {
                    self.telemetry.hit(limit);
                }
                Err(expiry.status().into())
            }
            _ = poll_fn(|cx| self.respond.poll_reset(cx)) => return,
        };
        if let Some(call) = self.respond(admitted) {
            call.await;
        }
    }

    fn respond(mut self, admitted: Result<Admitted, Rejected>) -> Option<BoxFuture<'static, ()>> {
        let grpc = |status: Status| (status.code(), status.into_http());
        let (code, mut response) = match admitted {
            Ok(admitted) => return self.dispatch(admitted),
            // Counted as an unimplemented method: UNKNOWN, as gRPC clients read this response, would look
            // like a fault of the server.
            Err(Rejected::Http(code)) => (Code::Unimplemented, status::http_error(code)),
            Err(Rejected::Grpc(status)) => grpc(status),
            // The refreshed keys do not have the token's either.
            Err(Rejected::AwaitKeys(_)) => grpc(status::unauthenticated()),
        };
        self.telemetry
            .attach_request_id(response.headers_mut(), Some(code));
        // It fails when the client is gone.
        if self.respond.send_response(response, true).is_ok() {
            self.telemetry.finish(code);
        }
        None
    }

    /// Calls the handler, and polls the call once. A call that ends at once, as a small one does whose
    /// request has been received, needs no task, and its data stays in the processor's cache.
    fn dispatch(mut self, admitted: Admitted) -> Option<BoxFuture<'static, ()>> {
        let context = self.telemetry.context();
        let method = context.methods.method(self.method_id);
        let limits = RequestLimits {
            kind: method.request_kind,
            max_message_bytes: method.max_message_bytes,
            idle_timeout: context.limits.idle_timeout,
            counter: self.telemetry.inbound_counter(),
        };
        let commit_point = method.commits.then(CommitPoint::default);
        let (receiver, body) = request::channel(self.stream, limits);
        let deadline = self.deadline.unwrap_or_default();
        if let Some(identity) = &admitted.identity {
            identity.attach_to(&mut self.head.extensions);
        }
        if let Some(commit_point) = &commit_point {
            self.head.extensions.insert(commit_point.clone());
        }
        let request = Request::from_parts(match_client_encoding(self.head), Body::new(body));
        let span = self.telemetry.span();
        // Interceptors and layers run here, before the first poll of the future.
        let called = catch_unwind(AssertUnwindSafe(|| {
            span.in_scope(|| context.routes.call(request))
        }));
        let response = called
            .unwrap_or_else(|_panic| ready(Ok(status::handler_panicked().into_http())).boxed());
        let call = ActiveCall {
            receiver,
            expiry: Expiry {
                commit_point,
                ..effective_expiry(deadline, admitted.identity.as_deref())
            },
            respond: self.respond,
            telemetry: self.telemetry,
            _permit: admitted.permit,
        };
        let mut call = call.run(response).boxed();
        // A task that takes the call over polls it again, and registers its waker then.
        let mut cx = Context::from_waker(Waker::noop());
        call.as_mut().poll(&mut cx).is_pending().then_some(call)
    }

    fn admit(&mut self) -> Result<Admitted, Rejected> {
        if self.head.method != Method::POST {
            return Err(Rejected::Http(StatusCode::METHOD_NOT_ALLOWED));
        }
        if !is_grpc(&self.head.headers) {
            return Err(Rejected::Http(StatusCode::UNSUPPORTED_MEDIA_TYPE));
        }
        self.deadline.as_ref().map_err(Status::clone)?;
        if !self.telemetry.context().is_admitted {
            return Err(status::resource_exhausted().into());
        }
        let identity = self.authenticate()?;
        if let Some(identity) = &identity {
            self.telemetry.set_caller(identity);
        }
        let context = self.telemetry.context();
        let permit = match context.methods.method(self.method_id).is_counted {
            false => None,
            true => Some(context.call_limit.try_acquire().ok_or_else(|| {
                self.telemetry.hit(Limit::MaxCalls);
                status::resource_exhausted()
            })?),
        };
        Ok(Admitted { identity, permit })
    }

    /// Returns the caller's identity, where the method requires one.
    fn authenticate(&mut self) -> Result<Option<Arc<Identity>>, Rejected> {
        let context = self.telemetry.context();
        let Some(authenticator) = &context.authenticator else {
            return Ok(None);
        };
        let access = &context.methods.method(self.method_id).access;
        let denied = match authenticator.authenticate(&self.head.headers, access) {
            Ok(identity) => return Ok(identity),
            Err(denied) => denied,
        };
        let rejected = match authenticator.request_refresh(&denied) {
            Some(keys) => Rejected::AwaitKeys(keys.boxed()),
            None => status::denied(&denied).into(),
        };
        self.telemetry.set_auth_error(denied.invalid_token());
        Err(rejected)
    }
}

/// Returns when a call expires: at its deadline or with its token, whichever is earlier.
fn effective_expiry(deadline: Option<Deadline>, identity: Option<&Identity>) -> Expiry {
    match (deadline, identity.map(Identity::expires_at)) {
        (deadline, Some(expires_at))
            if deadline.is_none_or(|deadline| expires_at < deadline.instant) =>
        {
            Expiry {
                timer: LazyTimeout::at(expires_at),
                status: status::unauthenticated,
                limit: None,
                commit_point: None,
                is_in_grace: false,
            }
        }
        (deadline, _) => Expiry {
            limit: deadline.and_then(|deadline| deadline.limit),
            timer: deadline
                .map(|deadline| LazyTimeout::at(deadline.instant))
                .unwrap_or_default(),
            status: status::deadline_exceeded,
            commit_point: None,
            is_in_grace: false,
        },
    }
}

/// Returns the client's deadline or the server's, whichever is earlier.
fn parse_deadline(headers: &HeaderMap, limits: &Limits) -> Result<Option<Deadline>, Status> {
    let requested = grpc_timeout(headers).map_err(|_| status::invalid_timeout())?;
    let (timeout, limit) = match (requested, limits.max_deadline) {
        (Some(requested), Some(max)) if max < requested => (max, Some(Limit::MaxDeadline)),
        (Some(requested), _) => (requested, None),
        (None, Some(max)) => (max, Some(Limit::MaxDeadline)),
        (None, None) => return Ok(None),
    };
    let instant = deadline_after(timeout);
    Ok(Some(Deadline { instant, limit }))
}

impl From<Status> for Rejected {
    fn from(status: Status) -> Self {
        Self::Grpc(status)
    }
}

/// Whether the content type is gRPC with protobuf messages.
fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(content_type) = headers.get(header::CONTENT_TYPE) else {
        return false;
    };
    match content_type.as_bytes().strip_prefix(GRPC_CONTENT_TYPE) {
        Some(rest) => {
            let rest = rest.strip_prefix(b"+proto").unwrap_or(rest);
            rest.is_empty() || rest.starts_with(b";")
        }
        None => false,
    }
}

/// Allows compressed responses only for a client that compresses its requests. Most clients always announce
/// that they accept compression, and small messages grow by it.
fn match_client_encoding(mut head: Parts) -> Parts {
    let is_compressed = head
        .headers
        .get(GRPC_ENCODING)
        .is_some_and(|encoding| encoding != "identity");
    if !is_compressed {
        head.headers.remove(GRPC_ACCEPT_ENCODING);
    }
    head
}
