//! The log line, the counters, the request id and the span of a call.

use std::{
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderName, HeaderValue, request::Parts};
use tonic::Code;
use tracing::{Level, Span};

use super::{
    context::CallContext,
    framing::MessageScanner,
    status::{is_server_fault, log_name},
};
use crate::server::{
    auth::{Identity, InvalidToken},
    metrics::{Limit, WorkerCounters},
};

/// The target of log lines about calls.
const LOG_TARGET: &str = "muxs::call";

/// The header with the id of a call. A client may choose it.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

const MAX_REQUEST_ID_BYTES: usize = 128;

/// The record of one call. Dropping it logs the call; without a recorded end, as cancelled, since the client or
/// the connection is gone.
pub(super) struct CallTelemetry {
    context: Arc<CallContext>,
    method_id: usize,
    /// None where no latency is recorded: reading the clock takes a hundredth of a small call.
    started_at: Option<Instant>,
    request_id: Option<HeaderValue>,
    is_request_id_sent: bool,
    /// The handler runs in this span, so that its log lines carry the request id.
    span: Span,
    #[cfg(feature = "otel")]
    call_span: Option<super::span::CallSpan>,
    identity: Option<Arc<Identity>>,
    auth_error: Option<InvalidToken>,
    code: Code,
    /// Whether the code is final.
    is_finished: bool,
    latency: Option<Duration>,
    pub(super) received_bytes: u64,
    sent_bytes: u64,
    scanner: MessageScanner,
}

/// The size of response data. Messages are counted only where counters are exported.
pub(super) struct OutboundData {
    bytes: u64,
    messages: u64,
}

/// Counts the messages of one request as they arrive.
pub(super) struct InboundCounter {
    context: Arc<CallContext>,
    method_id: usize,
}

impl CallTelemetry {
    /// Counts a call that begins.
    pub(super) fn new(context: &Arc<CallContext>, method_id: usize, head: &Parts) -> Self {
        if let Some(counters) = &context.counters {
            counters.method(method_id).started.add(1);
        }
        let request_id = head.headers.get(REQUEST_ID);
        let mut telemetry = Self {
            context: Arc::clone(context),
            method_id,
            started_at: context.counters.is_some().then(Instant::now),
            request_id: request_id.filter(|id| is_valid_request_id(id)).cloned(),
            is_request_id_sent: false,
            span: Span::none(),
            #[cfg(feature = "otel")]
            call_span: None,
            identity: None,
            auth_error: None,
            code: Code::Cancelled,
            is_finished: false,
            latency: None,
            received_bytes: 0,
            sent_bytes: 0,
            scanner: MessageScanner::default(),
        };
        if tracing::enabled!(target: LOG_TARGET, Level::DEBUG) {
            let id = telemetry.request_id().to_str().ok();
            let span = tracing::debug_span!(target: LOG_TARGET, "call", request_id = id);
            telemetry.span = span;
            telemetry.started_at.get_or_insert_with(Instant::now);
        }
        #[cfg(feature = "otel")]
        telemetry.begin_call_span(head);
        telemetry
    }

    #[cfg(feature = "otel")]
    fn begin_call_span(&mut self, head: &Parts) {
        if let Some(tracer) = &self.context.tracer {
            let (headers, authority) = (&head.headers, head.uri.authority());
            let method = self.context.methods.method(self.method_id);
            let peer = self.context.peer;
            let span = super::span::CallSpan::begin(tracer, method, headers, authority, peer);
            self.call_span = Some(span);
            self.request_id();
        }
    }

    pub(super) fn context(&self) -> &Arc<CallContext> {
        &self.context
    }

    pub(super) fn set_caller(&mut self, identity: &Arc<Identity>) {
        self.identity = Some(Arc::clone(identity));
        self.auth_error = None;
    }

    /// Records what is wrong with the caller's token, if the token is the problem.
    pub(super) fn set_auth_error(&mut self, auth_error: Option<InvalidToken>) {
        self.auth_error = auth_error;
    }

    /// The span to run the handler in.
    pub(super) fn span(&self) -> &Span {
        &self.span
    }

    /// Returns a counter for the request's messages, if counters are exported.
    pub(super) fn inbound_counter(&self) -> Option<InboundCounter> {
        self.context.counters.is_some().then(|| InboundCounter {
            context: Arc::clone(&self.context),
            method_id: self.method_id,
        })
    }

    /// Adds the request id to headers or trailers, at most once. Generates one if the server is at fault.
    pub(super) fn attach_request_id(&mut self, headers: &mut HeaderMap, code: Option<Code>) {
        if self.request_id.is_none() && code.is_some_and(is_server_fault) {
            self.request_id();
        }
        if let Some(id) = &self.request_id
            && !std::mem::replace(&mut self.is_request_id_sent, true)
        {
            headers.insert(REQUEST_ID, id.clone());
        }
    }

    /// Measures data that is about to be sent.
    pub(super) fn measure(&mut self, data: &[u8]) -> OutboundData {
        let before = self.scanner.started;
        if self.context.counters.is_some() {
            // The callbacks never fail.
            let _ = self.scanner.scan(data, |_| Ok(()), |_| Ok(()));
        }
        OutboundData {
            bytes: data.len() as u64,
            messages: self.scanner.started - before,
        }
    }

    /// Counts data that h2 has accepted.
    pub(super) fn count_sent(&mut self, data: OutboundData) {
        self.sent_bytes += data.bytes;
        if let Some(counters) = &self.context.counters {
            let method = counters.method(self.method_id);
            method.messages_sent.add(data.messages);
        }
    }

    /// Records the end of the call, when h2 has accepted its status. The first end counts.
    pub(super) fn finish(&mut self, code: Code) {
        if std::mem::replace(&mut self.is_finished, true) {
            return;
        }
        self.code = code;
        self.latency = self.started_at.map(|started_at| started_at.elapsed());
        if let (Some(counters), Some(latency)) = (&self.context.counters, self.latency) {
            counters.method(self.method_id).finish(code, latency);
        }
    }

    /// Counts that a limit rejected or ended the call.
    pub(super) fn hit(&self, limit: Limit) {
        if let Some(counters) = &self.context.counters {
            counters.hit(limit);
        }
    }

    /// Returns the request id, and generates one if there is none.
    fn request_id(&mut self) -> &HeaderValue {
        self.request_id.get_or_insert_with(random_request_id)
    }

    fn log(&self) {
        let (id, trace_id) = (self.request_id.as_ref(), self.trace_id());
        let request_id = id.and_then(|id| id.to_str().ok());
        let call = self.context.methods.method(self.method_id).full_name();
        let subject = self.identity.as_ref().map(|identity| identity.subject());
        let (peer, code) = (self.context.peer, log_name(self.code));
        if is_server_fault(self.code) {
            tracing::warn!(target: LOG_TARGET, call, request_id, trace_id, %peer, subject, code, "failed");
        }
        tracing::debug!(
            target: LOG_TARGET,
            call,
            request_id,
            trace_id,
            %peer,
            subject,
            code,
            auth_error = self.auth_error.map(tracing::field::debug),
            duration_ms = self.latency.unwrap_or_default().as_micros() as f64 / 1000.0,
            received_bytes = self.received_bytes,
            sent_bytes = self.sent_bytes,
            "ended"
        );
    }

    #[cfg(feature = "otel")]
    fn trace_id(&self) -> Option<String> {
        self.call_span.as_ref().map(super::span::CallSpan::trace_id)
    }

    #[cfg(not(feature = "otel"))]
    fn trace_id(&self) -> Option<String> {
        None
    }
}

impl Drop for CallTelemetry {
    fn drop(&mut self) {
        self.finish(Code::Cancelled);
        // The fields are formatted only if the line may be written.
        if is_server_fault(self.code) || !self.span.is_disabled() {
            self.log();
        }
        #[cfg(feature = "otel")]
        if let Some(mut span) = self.call_span.take() {
            if let Some(id) = self.request_id.as_ref().and_then(|id| id.to_str().ok()) {
                span.set_attribute("muxs.request_id", id.to_owned());
            }
            span.end(self.code);
        }
    }
}

impl InboundCounter {
    pub(super) fn add_messages(&self, count: u64) {
        if let Some(counters) = self.counters() {
            counters.method(self.method_id).messages_received.add(count);
        }
    }

    /// Counts that a limit ended the request.
    pub(super) fn hit(&self, limit: Limit) {
        if let Some(counters) = self.counters() {
            counters.hit(limit);
        }
    }

    fn counters(&self) -> Option<&WorkerCounters> {
        self.context.counters.as_deref()
    }
}

/// Whether a client may choose this id.
fn is_valid_request_id(id: &HeaderValue) -> bool {
    let id = id.as_bytes();
    (1..=MAX_REQUEST_ID_BYTES).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
}

/// Returns a unique id: a random number of this process, then the number of the call.
fn random_request_id() -> HeaderValue {
    static SERVER: OnceLock<u64> = OnceLock::new();
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let server = SERVER.get_or_init(|| RandomState::new().hash_one(()));
    let id = format!("{server:016x}-{:x}", NEXT.fetch_add(1, Ordering::Relaxed));
    HeaderValue::try_from(id).expect("hexadecimal digits")
}
