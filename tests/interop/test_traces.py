"""Spans of calls, exported to a collector by OTLP."""

import contextlib
import random
import shutil
import socket
import tempfile
import time

import grpc
import pytest
from collector import Collector, attributes
from conftest import believing, ready, served
from error_details import request_id
from grpc import StatusCode
from issuer import bearer
from mux_pb2 import HelloRequest, ReadStreamRequest, StatRequest
from mux_pb2_grpc import FileControllerStub, GreeterStub
from opentelemetry.proto.trace.v1.trace_pb2 import Status
from uploads import chunks, finish, opening
from waiting import silence_after

TIMEOUT = 10

# The codes for which the convention wants `error.type` of a server.
ERRORS = {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}

# In milliseconds: how long spans may wait for others to be exported with.
SOON = {"OTEL_BSP_SCHEDULE_DELAY": "50"}

NAMES = [HelloRequest(name="Ada"), HelloRequest(name="Grace")]


@pytest.fixture(scope="module")
def collector():
    collector = Collector()
    yield collector
    collector.stop()


@pytest.fixture(scope="module")
def traced_server(log, collector):
    impatient = ["--max-deadline", "5s", "--idle-timeout", "1s"]
    with served("--otlp-endpoint", collector.endpoint, *impatient, **SOON) as server:
        yield server
        server.stop()


@pytest.fixture
def channel(traced_server):
    with grpc.insecure_channel(traced_server.address) as channel:
        yield channel


class Trace:
    """One that a client has begun."""

    def __init__(self, flags="01"):
        self.id, self.parent = random.randbytes(16).hex(), random.randbytes(8).hex()
        self.metadata = [("traceparent", f"00-{self.id}-{self.parent}-{flags}"), ("tracestate", "muxs=interop")]


def one_answer(call):
    def called(channel, **how):
        with contextlib.suppress(grpc.RpcError):
            call(channel, **how)

    return called


def several_answers(call):
    def called(channel, **how):
        with contextlib.suppress(grpc.RpcError):
            list(call(channel, **how))

    return called


def cancelled(channel, **how):
    replies = GreeterStub(channel).BidiHello(silence_after(*NAMES), **how)
    next(replies)
    replies.cancel()


def unknown(channel, **how):
    channel.unary_unary("/made.Up/MadeUpName")(b"", **how)


def greeter(channel):
    return GreeterStub(channel)


def files(channel):
    return FileControllerStub(channel)


SILENT = opening("traces/silent", "id")
WHOLE = [opening("traces/whole", "id"), *chunks(b"content"), finish(b"content")]

# What is called, how it ends, and how to get there.
CALLS = [
    ("muxs.Greeter/SayHello", "OK", one_answer(lambda channel, **how: greeter(channel).SayHello(NAMES[0], **how))),
    (
        "muxs.Greeter/LotsOfReplies",
        "OK",
        several_answers(lambda channel, **how: greeter(channel).LotsOfReplies(NAMES[0], **how)),
    ),
    (
        "muxs.Greeter/LotsOfGreetings",
        "OK",
        one_answer(lambda channel, **how: greeter(channel).LotsOfGreetings(iter(NAMES), **how)),
    ),
    (
        "muxs.Greeter/BidiHello",
        "OK",
        several_answers(lambda channel, **how: greeter(channel).BidiHello(iter(NAMES), **how)),
    ),
    (
        "muxs.FileController/WriteStream",
        "OK",
        several_answers(lambda channel, **how: files(channel).WriteStream(iter(WHOLE), **how)),
    ),
    (
        "muxs.FileController/Stat",
        "NOT_FOUND",
        one_answer(lambda channel, **how: files(channel).Stat(StatRequest(filename="absent"), **how)),
    ),
    (
        "muxs.FileController/ReadStream",
        "INVALID_ARGUMENT",
        several_answers(lambda channel, **how: files(channel).ReadStream(ReadStreamRequest(), **how)),
    ),
    (
        "muxs.FileController/Stat",
        "UNIMPLEMENTED",
        one_answer(
            lambda channel, **how: files(channel).Stat(
                StatRequest(filename="a" * 200), compression=grpc.Compression.Gzip, **how
            )
        ),
    ),
    (
        "muxs.FileController/WriteStream",
        "UNAVAILABLE",
        several_answers(lambda channel, **how: files(channel).WriteStream(silence_after(SILENT), **how)),
    ),
    ("muxs.Greeter/BidiHello", "CANCELLED", cancelled),
    ("_OTHER", "UNIMPLEMENTED", one_answer(unknown)),
]
IDS = [f"{method} {code}" for method, code, _ in CALLS]


def assert_is(span, server, method, code):
    """Checks all that a span says of a call, but for its trace."""
    found = attributes(span)
    host, port = server.address.split(":")
    assert span.name == method
    assert found.pop("client.port") == found.pop("network.peer.port") > 0
    assert found.pop("muxs.request_id")
    is_error = code in ERRORS
    assert found == {
        "rpc.system.name": "grpc",
        "rpc.method": method,
        "rpc.response.status_code": code,
        "server.address": host,
        "server.port": int(port),
        "network.protocol.name": "http",
        "network.protocol.version": "2",
        "network.transport": "tcp",
        "network.peer.address": "127.0.0.1",
        "client.address": "127.0.0.1",
    } | ({"error.type": code} if is_error else {})
    assert span.status.code == (Status.STATUS_CODE_ERROR if is_error else Status.STATUS_CODE_UNSET)


@pytest.mark.parametrize(("method", "code", "call"), CALLS, ids=IDS)
def test_call_is_one_span_in_the_trace_of_its_client(channel, traced_server, collector, method, code, call):
    trace = Trace()
    call(channel, timeout=TIMEOUT, metadata=trace.metadata)
    span = collector.of(trace.id)
    assert (span.parent_span_id.hex(), span.trace_state) == (trace.parent, "muxs=interop")
    assert_is(span, traced_server, method, code)


def test_deadline_ends_the_span(traced_server, collector):
    # By the server's own clock: a client's would be over at the same time, and one or the other be first.
    with served("--otlp-endpoint", collector.endpoint, "--max-deadline", "300ms", **SOON) as server:
        with grpc.insecure_channel(server.address) as channel:
            trace = Trace()
            call = GreeterStub(channel).BidiHello(silence_after(NAMES[0]), timeout=TIMEOUT, metadata=trace.metadata)
            with pytest.raises(grpc.RpcError) as failed:
                list(call)
            assert failed.value.code() == StatusCode.DEADLINE_EXCEEDED
        assert_is(collector.of(trace.id), server, "muxs.Greeter/BidiHello", "DEADLINE_EXCEEDED")
        server.stop()


def test_server_fault_is_an_error_span(collector):
    with served("--otlp-endpoint", collector.endpoint, **SOON) as server:
        with grpc.insecure_channel(server.address) as channel:
            # The server's own folder is missing.
            shutil.rmtree(server.root / ".muxs")
            trace = Trace()
            with pytest.raises(grpc.RpcError) as failed:
                list(files(channel).WriteStream(iter(WHOLE), timeout=TIMEOUT, metadata=trace.metadata))
            assert failed.value.code() == StatusCode.INTERNAL
        assert_is(collector.of(trace.id), server, "muxs.FileController/WriteStream", "INTERNAL")
        server.stop()


def test_call_over_a_unix_socket_has_no_address(collector):
    # Not below target: the path of a socket is at most 107 bytes long.
    with tempfile.TemporaryDirectory(prefix="muxs-") as folder:
        socket = f"unix:{folder}/socket"
        options = [("grpc.default_authority", "localhost")]
        with served("--listen", socket, "--otlp-endpoint", collector.endpoint, **SOON) as server:
            with grpc.insecure_channel(socket, options=options) as channel:
                trace = Trace()
                greeter(channel).SayHello(NAMES[0], timeout=TIMEOUT, metadata=trace.metadata)
            found = attributes(collector.of(trace.id))
            assert (found["network.transport"], found["server.address"]) == ("unix", "localhost")
            assert not found.keys() & {"server.port", "network.peer.address", "network.peer.port", "client.address"}
            server.stop()


@pytest.mark.parametrize(
    "traceparent",
    [None, "", "junk", "00-" + "0" * 32 + "-" + "1" * 16 + "-01", "00-" + "x" * 32 + "-" + "1" * 16 + "-01"],
)
def test_call_without_a_trace_begins_one(channel, traced_server, collector, traceparent):
    metadata = [] if traceparent is None else [("traceparent", traceparent)]
    _, call = GreeterStub(channel).SayHello.with_call(NAMES[0], timeout=TIMEOUT, metadata=metadata)
    span = collector.known_by(request_id(call))
    assert len(span.trace_id) == 16
    assert any(span.trace_id)
    assert span.parent_span_id == b""
    assert_is(span, traced_server, "muxs.Greeter/SayHello", "OK")


def test_trace_that_is_not_sampled_is_not_exported(channel, collector):
    not_sampled, sampled = Trace(flags="00"), Trace()
    for trace in [not_sampled, sampled]:
        GreeterStub(channel).SayHello(NAMES[0], timeout=TIMEOUT, metadata=trace.metadata)
    # They are exported in their order.
    collector.of(sampled.id)
    assert not_sampled.id not in [span.trace_id.hex() for span in collector.spans()]


def test_request_id_of_a_client_is_in_its_span(channel, collector):
    metadata = [("x-request-id", "interop-traces-1")]
    GreeterStub(channel).SayHello(NAMES[0], timeout=TIMEOUT, metadata=metadata)
    assert collector.known_by("interop-traces-1").name == "muxs.Greeter/SayHello"


def test_spans_are_those_of_muxs(channel, collector):
    trace = Trace()
    GreeterStub(channel).SayHello(NAMES[0], timeout=TIMEOUT, metadata=trace.metadata)
    collector.of(trace.id)
    assert {attributes(spans.resource)["service.name"] for spans in collector.resources()} == {"muxs"}


def test_client_supplied_names_are_not_exported(channel, collector):
    trace = Trace()
    with pytest.raises(grpc.RpcError):
        channel.unary_unary("/made.Up/MadeUpName")(b"", timeout=TIMEOUT, metadata=trace.metadata)
    with pytest.raises(grpc.RpcError):
        files(channel).Stat(StatRequest(filename="a-private-name"), timeout=TIMEOUT)
    last = Trace()
    greeter(channel).SayHello(HelloRequest(name="a-private-name"), timeout=TIMEOUT, metadata=last.metadata)
    assert collector.of(trace.id).name == "_OTHER"
    collector.of(last.id)
    for made_up in ["MadeUpName", "made.Up", "a-private-name"]:
        assert not collector.has(made_up)


def test_tokens_are_not_exported_and_refusals_are(issuer):
    collector = Collector()
    tokens = [issuer.token(), issuer.token(scope="files.read"), issuer.token() + "x"]
    codes = ["OK", "PERMISSION_DENIED", "UNAUTHENTICATED"]
    traces = [Trace() for _ in tokens]
    with ready(believing(issuer, "--otlp-endpoint", collector.endpoint, **SOON), issuer) as server:
        with grpc.insecure_channel(server.address) as channel:
            for token, trace in zip(tokens, traces, strict=True):
                with contextlib.suppress(grpc.RpcError):
                    greeter(channel).SayHello(NAMES[0], timeout=TIMEOUT, metadata=[*bearer(token), *trace.metadata])
        for trace, code in zip(traces, codes, strict=True):
            assert_is(collector.of(trace.id), server, "muxs.Greeter/SayHello", code)
        server.stop()
    assert not any(collector.has(token.split(".")[1][:64]) for token in tokens)
    collector.stop()


def test_last_spans_are_exported_at_shutdown():
    collector = Collector()
    # Nothing is exported by itself.
    late = {"OTEL_BSP_SCHEDULE_DELAY": "600000", "OTEL_SERVICE_NAME": "another-name"}
    traces = [Trace() for _ in range(20)]
    with served("--otlp-endpoint", collector.endpoint, **late) as server:
        with grpc.insecure_channel(server.address) as channel:
            for trace in traces:
                greeter(channel).SayHello(NAMES[0], timeout=TIMEOUT, metadata=trace.metadata)
        assert collector.spans() == []
        server.stop()
    assert [span.trace_id.hex() for span in collector.spans()] == [trace.id for trace in traces]
    assert {attributes(spans.resource)["service.name"] for spans in collector.resources()} == {"another-name"}
    collector.stop()


def test_spans_are_exported_over_tls(pki):
    pair = [(pki.key.read_bytes(), pki.cert.read_bytes())]
    collector = Collector(credentials=grpc.ssl_server_credentials(pair))
    # Where this machine's own authorities are looked for.
    with served("--otlp-endpoint", collector.endpoint, SSL_CERT_FILE=str(pki.ca), **SOON) as server:
        with grpc.insecure_channel(server.address) as channel:
            trace = Trace()
            greeter(channel).SayHello(NAMES[0], timeout=TIMEOUT, metadata=trace.metadata)
        collector.of(trace.id)
        server.stop()
    collector.stop()


@pytest.fixture(params=["nobody listens", "nobody answers"])
def dead_endpoint(request):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        if request.param == "nobody listens":
            listener.close()
        yield f"http://127.0.0.1:{port}"


def test_missing_collector_does_not_affect_calls(dead_endpoint):
    with served("--otlp-endpoint", dead_endpoint, **SOON) as server:
        with grpc.insecure_channel(server.address) as channel:
            begun = time.monotonic()
            # More than wait to be exported at most.
            for _ in range(3000):
                greeter(channel).SayHello(NAMES[0], timeout=1)
            assert time.monotonic() - begun < 15
        # In 10 s at most.
        server.stop()


def test_collector_can_start_later():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with served("--otlp-endpoint", f"http://127.0.0.1:{port}", **SOON) as server:
        with grpc.insecure_channel(server.address) as channel:
            greeter(channel).SayHello(NAMES[0], timeout=TIMEOUT)
            collector = Collector(port)
            deadline = time.monotonic() + 20
            while not collector.spans():
                assert time.monotonic() < deadline
                greeter(channel).SayHello(NAMES[0], timeout=TIMEOUT)
                time.sleep(0.05)
        server.stop()
    collector.stop()
