"""A collector of traces: takes what is exported by OTLP over gRPC."""

import threading
from concurrent import futures

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from waiting import until


class Collector:
    def __init__(self, port=0, credentials=None):
        # The exported bytes.
        self.exports = []
        self.lock = threading.Lock()
        handler = grpc.unary_unary_rpc_method_handler(self.export)
        service = "opentelemetry.proto.collector.trace.v1.TraceService"
        self.server = grpc.server(futures.ThreadPoolExecutor(2))
        self.server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, {"Export": handler})])
        if credentials is None:
            self.port = self.server.add_insecure_port(f"127.0.0.1:{port}")
        else:
            self.port = self.server.add_secure_port(f"127.0.0.1:{port}", credentials)
        self.endpoint = f"{'http' if credentials is None else 'https'}://127.0.0.1:{self.port}"
        self.server.start()

    def export(self, data, _context):
        with self.lock:
            self.exports.append(data)
        return ExportTraceServiceResponse().SerializeToString()

    def resources(self):
        with self.lock:
            exports = list(self.exports)
        return [spans for export in exports for spans in ExportTraceServiceRequest.FromString(export).resource_spans]

    def spans(self):
        return [span for spans in self.resources() for scope in spans.scope_spans for span in scope.spans]

    def known_by(self, request_id):
        """Waits for the only span of a call."""
        return self.one(lambda span: attributes(span).get("muxs.request_id") == request_id, request_id)

    def of(self, trace_id):
        """Waits for the only span of a trace."""
        return self.one(lambda span: span.trace_id.hex() == trace_id, trace_id)

    def one(self, wanted, what):
        [span] = until(lambda: [span for span in self.spans() if wanted(span)], f"the span of {what}")
        assert span.kind == Span.SPAN_KIND_SERVER
        assert span.start_time_unix_nano <= span.end_time_unix_nano
        return span

    def has(self, text):
        """Returns whether a text is anywhere in the exported bytes."""
        with self.lock:
            return any(text.encode() in export for export in self.exports)

    def stop(self):
        self.server.stop(None).wait()


def attributes(thing):
    return {attribute.key: value_of(attribute.value) for attribute in thing.attributes}


def value_of(value):
    return getattr(value, value.WhichOneof("value"))
