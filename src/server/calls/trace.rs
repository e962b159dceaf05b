//! The span of a call, by the conventions of OpenTelemetry for RPC (version 1.45, stable).

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

use super::{methods::Method, record::name_of};
use crate::server::accept::Peer;

/// What stands for a method that is not known.
const OTHER: &str = "_OTHER";

/// One call in a trace: that of its client, or a new one.
pub(super) struct Trace(Span);

impl Trace {
    pub(super) fn begin(
        tracer: &SdkTracer,
        method: Option<&Method>,
        headers: &HeaderMap,
        authority: Option<&Authority>,
        peer: Peer,
    ) -> Self {
        let parent = TraceContextPropagator::new().extract(&Headers(headers));
        let name = method.map_or_else(|| OTHER.to_owned(), Method::full_name);
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

    /// In 32 hexadecimal digits.
    pub(super) fn id(&self) -> String {
        self.0.span_context().trace_id().to_string()
    }

    pub(super) fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        self.0.set_attribute(KeyValue::new(key, value));
    }

    /// Ends the span.
    pub(super) fn end(mut self, code: Code) {
        let name = name_of(code);
        self.set("rpc.response.status_code", name);
        // The others are the client's own doing.
        if let Code::Unknown
        | Code::DeadlineExceeded
        | Code::Unimplemented
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss = code
        {
            self.set("error.type", name);
            self.0.set_status(Status::error(""));
        }
        self.0.end();
    }
}

/// `traceparent` and `tracestate`.
struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}
