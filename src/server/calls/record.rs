//! What is known of one call, from its first byte to its end, for whoever watches the server.

use std::{
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderName, HeaderValue, request::Parts};
use tonic::{Code, Status};
use tracing::{Level, Span};

use super::{Calls, messages::Messages};
use crate::server::{
    auth::{Caller, Flaw},
    metrics::{Limit, Meters},
};

/// Under what calls are logged.
const TARGET: &str = "muxs::call";

/// What a call is known by, to its client and in the log. A client may choose it.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

const LONGEST_ID: usize = 128;

/// One call. Dropped, it tells how the call ended; if nobody said so, its client has gone, or its
/// connection was cut.
pub(super) struct Record {
    calls: Arc<Calls>,
    /// The number of its method.
    method: usize,
    /// None where nobody asks how long it took: a look at the clock takes a hundredth of a small call.
    begun: Option<Instant>,
    id: Option<HeaderValue>,
    /// Whether its client has been told.
    named: bool,
    /// In which its handler works, so that what that logs belongs to the call.
    span: Span,
    #[cfg(feature = "otel")]
    trace: Option<super::trace::Trace>,
    caller: Option<Arc<Caller>>,
    flaw: Option<Flaw>,
    code: Code,
    /// Whether that is so, and nothing comes after it.
    has_ended: bool,
    /// After how long.
    took: Option<Duration>,
    /// In bytes.
    pub(super) received: u64,
    sent: u64,
    messages: Messages,
}

/// What is sent at a time. Its messages are counted only where somebody asks.
pub(super) struct Sent {
    bytes: u64,
    messages: u64,
}

/// Counts the messages of one request as they come.
pub(super) struct Received {
    calls: Arc<Calls>,
    method: usize,
}

impl Record {
    /// A call that begins.
    pub(super) fn new(calls: &Arc<Calls>, method: usize, head: &Parts) -> Self {
        if let Some(meters) = &calls.meters {
            meters.of(method).started.add(1);
        }
        let mut record = Self {
            calls: Arc::clone(calls),
            method,
            begun: calls.meters.is_some().then(Instant::now),
            id: head.headers.get(REQUEST_ID).filter(|id| is_id(id)).cloned(),
            named: false,
            span: Span::none(),
            #[cfg(feature = "otel")]
            trace: None,
            caller: None,
            flaw: None,
            code: Code::Cancelled,
            has_ended: false,
            took: None,
            received: 0,
            sent: 0,
            messages: Messages::default(),
        };
        if tracing::enabled!(target: TARGET, Level::DEBUG) {
            let id = record.known_id().to_str().ok();
            let span = tracing::debug_span!(target: TARGET, "call", request_id = id);
            record.span = span;
            record.begun.get_or_insert_with(Instant::now);
        }
        #[cfg(feature = "otel")]
        record.trace(head);
        record
    }

    #[cfg(feature = "otel")]
    fn trace(&mut self, head: &Parts) {
        if let Some(tracer) = &self.calls.tracer {
            let (headers, authority) = (&head.headers, head.uri.authority());
            let method = (self.method > 0).then(|| self.calls.methods.method(self.method));
            let peer = self.calls.peer;
            let trace = super::trace::Trace::begin(tracer, method, headers, authority, peer);
            self.trace = Some(trace);
            self.known_id();
        }
    }

    /// What is known of all of them.
    pub(super) fn calls(&self) -> &Arc<Calls> {
        &self.calls
    }

    /// Notes who calls.
    pub(super) fn is_of(&mut self, caller: &Arc<Caller>) {
        self.caller = Some(Arc::clone(caller));
        self.flaw = None;
    }

    /// Notes what is wrong with the token of who calls, if that is it.
    pub(super) fn has_flaw(&mut self, flaw: Option<Flaw>) {
        self.flaw = flaw;
    }

    /// In which the work on the call is done.
    pub(super) fn span(&self) -> &Span {
        &self.span
    }

    /// For the messages of its request, if they are counted.
    pub(super) fn of_request(&self) -> Option<Received> {
        self.calls.meters.is_some().then(|| Received {
            calls: Arc::clone(&self.calls),
            method: self.method,
        })
    }

    /// Adds to `headers`, or to trailers, what the client may know the call by, if it is known by
    /// anything or is going to be.
    pub(super) fn name(&mut self, headers: &mut HeaderMap, code: Option<Code>) {
        if self.id.is_none() && code.is_some_and(is_ours) {
            self.known_id();
        }
        if let Some(id) = &self.id
            && !std::mem::replace(&mut self.named, true)
        {
            headers.insert(REQUEST_ID, id.clone());
        }
    }

    /// Looks at what is about to be sent, and says what that is.
    pub(super) fn sending(&mut self, data: &[u8]) -> Sent {
        let before = self.messages.begun;
        if self.calls.meters.is_some() {
            // Nothing is refused here.
            let _ = self.messages.pass(data, |_| Ok(()), |_| Ok(()));
        }
        Sent {
            bytes: data.len() as u64,
            messages: self.messages.begun - before,
        }
    }

    /// Notes what HTTP/2 has taken to send.
    pub(super) fn sent(&mut self, sent: Sent) {
        self.sent += sent.bytes;
        if let Some(meters) = &self.calls.meters {
            meters.of(self.method).sent.add(sent.messages);
        }
    }

    /// Notes how the call has ended, when HTTP/2 has taken the word for it. The first word counts.
    pub(super) fn ended(&mut self, code: Code) {
        if std::mem::replace(&mut self.has_ended, true) {
            return;
        }
        self.code = code;
        self.took = self.begun.map(|begun| begun.elapsed());
        if let (Some(meters), Some(took)) = (&self.calls.meters, self.took) {
            meters.of(self.method).ended(code, took);
        }
    }

    /// Notes that a limit has refused or cut the call.
    pub(super) fn refused(&self, limit: Limit) {
        if let Some(meters) = &self.calls.meters {
            meters.refused(limit);
        }
    }

    /// What the call is known by, from now on at the latest.
    fn known_id(&mut self) -> &HeaderValue {
        self.id.get_or_insert_with(random_id)
    }

    fn log(&self) {
        let (id, trace_id) = (self.id.as_ref(), self.trace_id());
        let request_id = id.and_then(|id| id.to_str().ok());
        let call = self.calls.methods.method(self.method).full_name();
        let subject = self.caller.as_ref().map(|caller| &*caller.subject);
        let (peer, code) = (self.calls.peer, name_of(self.code));
        if is_ours(self.code) {
            tracing::warn!(target: TARGET, call, request_id, trace_id, %peer, subject, code, "failed");
        }
        tracing::debug!(
            target: TARGET,
            call,
            request_id,
            trace_id,
            %peer,
            subject,
            code,
            flaw = self.flaw.map(tracing::field::debug),
            duration_ms = self.took.unwrap_or_default().as_micros() as f64 / 1000.0,
            received_bytes = self.received,
            sent_bytes = self.sent,
            "ended"
        );
    }

    #[cfg(feature = "otel")]
    fn trace_id(&self) -> Option<String> {
        self.trace.as_ref().map(super::trace::Trace::id)
    }

    #[cfg(not(feature = "otel"))]
    fn trace_id(&self) -> Option<String> {
        None
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.ended(Code::Cancelled);
        // What is put together for it is not for nothing.
        if is_ours(self.code) || !self.span.is_disabled() {
            self.log();
        }
        #[cfg(feature = "otel")]
        if let Some(mut trace) = self.trace.take() {
            if let Some(id) = self.id.as_ref().and_then(|id| id.to_str().ok()) {
                trace.set("muxs.request_id", id.to_owned());
            }
            trace.end(self.code);
        }
    }
}

impl Received {
    pub(super) fn messages(&self, count: u64) {
        if let Some(meters) = self.meters() {
            meters.of(self.method).received.add(count);
        }
    }

    /// Notes that a limit has refused what came, or did not come.
    pub(super) fn refused(&self, limit: Limit) {
        if let Some(meters) = self.meters() {
            meters.refused(limit);
        }
    }

    fn meters(&self) -> Option<&Meters> {
        self.calls.meters.as_deref()
    }
}

/// How headers, or trailers, say that a call ends.
pub(super) fn code(headers: &HeaderMap) -> Code {
    match headers.get(Status::GRPC_STATUS) {
        Some(status) => Code::from_bytes(status.as_bytes()),
        None => Code::Unknown,
    }
}

/// As gRPC spells it.
pub(super) fn name_of(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// Whether the server is to blame, as far as the code can tell.
fn is_ours(code: Code) -> bool {
    matches!(code, Code::Unknown | Code::Internal | Code::DataLoss)
}

/// Whether a client may choose it.
fn is_id(id: &HeaderValue) -> bool {
    let id = id.as_bytes();
    (1..=LONGEST_ID).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
}

/// Another for each call of this server, and of others.
fn random_id() -> HeaderValue {
    static SERVER: OnceLock<u64> = OnceLock::new();
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let server = SERVER.get_or_init(|| RandomState::new().hash_one(()));
    let id = format!("{server:016x}-{:x}", NEXT.fetch_add(1, Ordering::Relaxed));
    HeaderValue::try_from(id).expect("hexadecimal digits")
}
