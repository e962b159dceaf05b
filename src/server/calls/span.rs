//! The span of a call, by the semantic conventions of OpenTelemetry for RPC (version 1.45, stable).

use http::{HeaderMap, uri::Authority};
use opentelemetry::{
    KeyValue, Value,
    propagation::{Extractor, TextMapPropagator},
    trace::{Span as _, SpanKind, Status, Tracer as _},
};
use opentelemetry_sdk::{
    propagation::TraceContextPropagator,
    trace::{SdkTracer, Span},
};
use tonic::Code;

use super::{methods::Method, status::log_name};
use crate::server::transport::Peer;

/// The method name in spans of unknown methods.
const OTHER: &str = "_OTHER";

/// The span of one call, in the trace of its client or in a new one.
pub(super) struct CallSpan(Span);

impl CallSpan {
    pub(super) fn begin(
        tracer: &SdkTracer,
        method: &Method,
        headers: &HeaderMap,
        authority: Option<&Authority>,
        peer: Peer,
    ) -> Self {
        let parent = TraceContextPropagator::new().extract(&Headers(headers));
        let name = match method.is_known() {
            true => method.full_name(),
            false => OTHER.to_owned(),
        };
        let mut attributes = vec![
            KeyValue::new("rpc.system.name", "grpc"),
            KeyValue::new("rpc.method", name.clone()),
            KeyValue::new("network.protocol.name", "http"),
            KeyValue::new("network.protocol.version", "2"),
        ];
        if let Some(authority) = authority {
            attributes.push(KeyValue::new("server.address", authority.host().to_owned()));
            let port = authority.port_u16();
            attributes.extend(port.map(|port| KeyValue::new("server.port", i64::from(port))));
        }
        match peer {
            Peer::Tcp(address) => {
                let (ip, port) = (address.ip().to_string(), i64::from(address.port()));
                attributes.extend([
                    KeyValue::new("network.transport", "tcp"),
                    KeyValue::new("network.peer.address", ip.clone()),
                    KeyValue::new("network.peer.port", port),
                    KeyValue::new("client.address", ip),
                    KeyValue::new("client.port", port),
                ]);
            }
            Peer::Unix => attributes.push(KeyValue::new("network.transport", "unix")),
        }
        let builder = tracer
            .span_builder(name)
            .with_kind(SpanKind::Server)
            .with_attributes(attributes);
        Self(tracer.build_with_context(builder, &parent))
    }

    /// Returns the trace id in 32 hexadecimal digits.
    pub(super) fn trace_id(&self) -> String {
        self.0.span_context().trace_id().to_string()
    }

    pub(super) fn set_attribute(&mut self, key: &'static str, value: impl Into<Value>) {
        self.0.set_attribute(KeyValue::new(key, value));
    }

    /// Ends the span.
    pub(super) fn end(mut self, code: Code) {
        let name = log_name(code);
        self.set_attribute("rpc.response.status_code", name);
        // The other codes are errors of the client.
        if let Code::Unknown
        | Code::DeadlineExceeded
        | Code::Unimplemented
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss = code
        {
            self.set_attribute("error.type", name);
            self.0.set_status(Status::error(""));
        }
        self.0.end();
    }
}

/// Reads `traceparent` and `tracestate`.
struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}
