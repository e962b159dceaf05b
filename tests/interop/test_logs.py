"""What the server writes to its log: for programs one JSON object a line, whatever happens, and for people one line for
each thing that happens."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess

import grpc
import pytest
from collector import Collector
from conftest import LOGS, TARGET, believing, ready, served
from error_details import request_id
from grpc import StatusCode
from issuer import RESOURCE, bearer
from mux_pb2 import HelloRequest, ReadStreamRequest, StatRequest
from mux_pb2_grpc import FileControllerStub, GreeterStub
from uploads import MIB, chunk, chunks, finish, opening
from waiting import silence_after, until

TIMEOUT = 10

JSON = ["--log-format", "json"]
DEBUG = {"RUST_LOG": "debug"}

# Filenames and metadata that would be lines of a log, or junk in one.
JUNK = [
    'a"\n{"level":"ERROR","fields":{"message":"forged"}}\n',
    "a\r\n2026-01-01T00:00:00.000000Z  WARN muxs::call: forged",
    "a\0b\x1b[2K\x7f\u2028\u0085\ufeff",
    "../../etc/passwd\n",
    "\\u0022,\\",
    "x" * 5000,
]


@pytest.fixture
def log_file(request):
    name = re.sub(r"\W+", "-", request.node.name)
    return LOGS / f"{name}.log"


def entries(log_file, text=None):
    """The entries of a log so far. Each line is one JSON object."""
    lines = (text if text is not None else log_file.read_bytes().decode()).split("\n")
    # The last line may be incomplete.
    unfinished = lines.pop()
    assert text is None or unfinished == ""
    read = [json.loads(line) for line in lines]
    for entry in read:
        assert {"timestamp", "level", "fields", "target"} <= entry.keys()
    return read


def of(log_file, message, **fields):
    """Waits for the only entry with a message and these fields."""

    def wanted(entry):
        return entry["fields"].get("message") == message and fields.items() <= entry["fields"].items()

    [entry] = until(lambda: [entry for entry in entries(log_file) if wanted(entry)], f"{message} {fields}")
    return entry


def assert_ended(log_file, known, **fields):
    """Asserts that the log has one line for the end of a call, by its request ID."""
    found = of(log_file, "ended", request_id=request_id(known))
    assert (found["level"], found["target"]) == ("DEBUG", "muxs::call")
    ended = found["fields"]
    assert re.fullmatch(r"127\.0\.0\.1:\d+", ended.pop("peer"))
    assert 0 <= ended.pop("duration_ms") < 30_000
    del ended["message"], ended["request_id"]
    assert ended == fields


def size_of(*messages):
    """In bytes, on the wire."""
    return sum(5 + message.ByteSize() for message in messages)


def test_each_call_has_one_line_with_its_request_id(log_file):
    with served(*JSON, log=log_file, **DEBUG) as server, grpc.insecure_channel(server.address) as channel:
        greeter, files = GreeterStub(channel), FileControllerStub(channel)
        names = [HelloRequest(name="Ada"), HelloRequest(name="Grace")]

        reply, call = greeter.SayHello.with_call(names[0], timeout=TIMEOUT)
        sizes = {"received_bytes": size_of(names[0]), "sent_bytes": size_of(reply)}
        assert_ended(log_file, call, call="muxs.Greeter/SayHello", code="OK", **sizes)

        call = greeter.LotsOfReplies(names[0], timeout=TIMEOUT)
        sizes = {"received_bytes": size_of(names[0]), "sent_bytes": size_of(*call)}
        assert_ended(log_file, call, call="muxs.Greeter/LotsOfReplies", code="OK", **sizes)

        reply, call = greeter.LotsOfGreetings.with_call(iter(names), timeout=TIMEOUT)
        sizes = {"received_bytes": size_of(*names), "sent_bytes": size_of(reply)}
        assert_ended(log_file, call, call="muxs.Greeter/LotsOfGreetings", code="OK", **sizes)

        call = greeter.BidiHello(iter(names), timeout=TIMEOUT)
        sizes = {"received_bytes": size_of(*names), "sent_bytes": size_of(*call)}
        assert_ended(log_file, call, call="muxs.Greeter/BidiHello", code="OK", **sizes)

        content = bytes(3 * MIB)
        steps = [opening("logs", "id"), *chunks(content), finish(content)]
        call = files.WriteStream(iter(steps), timeout=TIMEOUT)
        sizes = {"sent_bytes": size_of(*call), "received_bytes": size_of(*steps)}
        assert_ended(log_file, call, call="muxs.FileController/WriteStream", code="OK", **sizes)

        with pytest.raises(grpc.RpcError) as failed:
            files.Stat(StatRequest(filename="absent"), timeout=TIMEOUT)
        sizes = {"received_bytes": size_of(StatRequest(filename="absent")), "sent_bytes": 0}
        assert_ended(log_file, failed.value, call="muxs.FileController/Stat", code="NOT_FOUND", **sizes)

        with pytest.raises(grpc.RpcError) as failed:
            channel.unary_unary("/made.Up/MadeUp")(b"", timeout=TIMEOUT)
        name = {"call": "unknown/unknown", "code": "UNIMPLEMENTED"}
        assert_ended(log_file, failed.value, **name, received_bytes=0, sent_bytes=0)
        assert "MadeUp" not in log_file.read_text()

        call = greeter.BidiHello(silence_after(names[0]), timeout=TIMEOUT)
        sent = next(call)
        known = request_id(call)
        call.cancel()
        ended = of(log_file, "ended", request_id=known)["fields"]
        assert ended["code"] == "CANCELLED"
        assert ended["sent_bytes"] >= size_of(sent)
        server.stop()


@pytest.mark.parametrize("own", ["a", "x" * 128, "9f/Z_~!{}\"'=,;:<>%s%n\\n"])
def test_client_can_choose_the_request_id(log_file, own):
    # Without debugging too.
    with served(*JSON, log=log_file) as server, grpc.insecure_channel(server.address) as channel:
        metadata = [("x-request-id", own)]
        _, call = GreeterStub(channel).SayHello.with_call(HelloRequest(), timeout=TIMEOUT, metadata=metadata)
        assert request_id(call) == own
        with pytest.raises(grpc.RpcError) as failed:
            FileControllerStub(channel).Stat(StatRequest(filename=""), timeout=TIMEOUT, metadata=metadata)
        assert request_id(failed.value) == own
        server.stop()


@pytest.mark.parametrize("bad", ["", "x" * 129, "two words", " "])
def test_invalid_request_id_is_replaced(log_file, bad):
    with served(*JSON, log=log_file, **DEBUG) as server, grpc.insecure_channel(server.address) as channel:
        ids = set()
        for _ in range(2):
            metadata = [("x-request-id", bad)]
            _, call = GreeterStub(channel).SayHello.with_call(HelloRequest(), timeout=TIMEOUT, metadata=metadata)
            ids.add(request_id(call))
            of(log_file, "ended", request_id=request_id(call))
        assert len(ids) == 2
        assert all(re.fullmatch(r"[0-9a-f]{16}-[0-9a-f]+", known) for known in ids)
        server.stop()


def test_server_faults_are_logged_by_default(log_file):
    with served(*JSON, log=log_file) as server, grpc.insecure_channel(server.address) as channel:
        files = FileControllerStub(channel)
        with pytest.raises(grpc.RpcError):
            files.Stat(StatRequest(filename="absent"), timeout=TIMEOUT)
        # The server's own folder is missing.
        shutil.rmtree(server.root / ".muxs")
        with pytest.raises(grpc.RpcError) as failed:
            list(files.WriteStream(iter([opening("a", "id"), finish(b"")]), timeout=TIMEOUT))
        assert failed.value.code() == StatusCode.INTERNAL
        found = of(log_file, "failed", request_id=request_id(failed.value))
        assert (found["level"], found["fields"]["code"]) == ("WARN", "INTERNAL")
        calls = [entry for entry in entries(log_file) if entry["target"] == "muxs::call"]
        assert calls == [found]


def frame(kind, flags, stream, payload=b""):
    """A frame of HTTP/2."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def test_non_grpc_requests_are_not_server_faults(log_file):
    with served(*JSON, log=log_file, **DEBUG) as server:
        host, port = server.address.split(":")
        with socket.create_connection((host, int(port)), timeout=TIMEOUT) as connection:
            # GET http://a/, as who looks for open ports asks: settings, and headers that end the request.
            headers = frame(1, 5, 1, b"\x82\x86\x84\x41\x01a")
            connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0) + headers)
            of(log_file, "ended", call="unknown/unknown", code="UNIMPLEMENTED")
        server.stop()
    assert {entry["level"] for entry in entries(log_file)} <= {"INFO", "DEBUG"}


def test_log_names_the_subject_and_the_trace(log_file, issuer):
    collector = Collector()
    flags = [*JSON, "--otlp-endpoint", collector.endpoint]
    served_ = believing(issuer, *flags, log=log_file, OTEL_BSP_SCHEDULE_DELAY="50")
    with ready(served_, issuer) as server, grpc.insecure_channel(server.address) as channel:
        greeter = GreeterStub(channel)
        metadata = bearer(issuer.token("elliptic"))
        _, call = greeter.SayHello.with_call(HelloRequest(), timeout=TIMEOUT, metadata=metadata)
        ended = of(log_file, "ended", request_id=request_id(call))["fields"]
        assert ended["subject"] == "elliptic"
        assert ended["trace_id"] == collector.known_by(request_id(call)).trace_id.hex()
        with pytest.raises(grpc.RpcError) as failed:
            greeter.SayHello(HelloRequest(), timeout=TIMEOUT, metadata=bearer("x.y.z"))
        ended = of(log_file, "ended", request_id=request_id(failed.value))["fields"]
        assert (ended["code"], ended["auth_error"]) == ("UNAUTHENTICATED", "Malformed")
        assert "subject" not in ended
        server.stop()
    collector.stop()


def bother(server):
    """Sends hostile requests to a server."""
    host, port = server.address.split(":")
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    for junk in [b"\n{}\nGET / HTTP/1.1\r\n\r\n", bytes(range(256)) * 64, preface + b"\xff" * 99]:
        with socket.create_connection((host, int(port)), timeout=TIMEOUT) as connection, contextlib.suppress(OSError):
            connection.sendall(junk)
            while connection.recv(65536):
                pass
    with grpc.insecure_channel(server.address) as channel:
        files = FileControllerStub(channel)
        for junk in JUNK:
            metadata = [("junk-bin", junk.encode()), ("x-request-id-bin", os.urandom(64))]
            how = {"timeout": TIMEOUT, "metadata": metadata}
            steps = [opening(junk, junk), chunk(0, b"content"), finish(b"content")]
            # The message is malformed, besides the names.
            odd = channel.unary_unary("/muxs.FileController/Stat")
            for call in [
                lambda: GreeterStub(channel).SayHello(HelloRequest(name=junk), **how),
                lambda: files.Stat(StatRequest(filename=junk), **how),
                lambda: list(files.ReadStream(ReadStreamRequest(filename=junk), **how)),
                lambda: list(files.WriteStream(iter(steps), **how)),
                lambda: odd(junk.encode(), **how),
            ]:
                with contextlib.suppress(grpc.RpcError):
                    call()


def test_each_line_is_json_for_hostile_clients(log_file):
    with served(*JSON, log=log_file, **DEBUG) as server:
        bother(server)
        # The restarted server reads the open upload.
        with grpc.insecure_channel(server.address) as channel:
            next(FileControllerStub(channel).WriteStream(silence_after(opening("a", "b")), timeout=TIMEOUT))
        server.kill()
        server.start()
        server.stop()
    assert len(entries(log_file)) > 100


@pytest.mark.parametrize("how", ["self-signed", "tls"])
def test_each_line_is_json_with_tls(log_file, how, pki, tmp_path, monkeypatch):
    flags = ["--tls-self-signed"] if how == "self-signed" else list(map(str, pki.server_flags))
    # Where it puts the certificate that it makes.
    monkeypatch.chdir(tmp_path)
    command = [TARGET / "debug" / "server", "--listen", "127.0.0.1:0", "--root", tmp_path / "root", *JSON, *flags]
    if how == "tls":
        for name, file in [("--tls-cert", pki.cert), ("--tls-key", pki.key)]:
            own = tmp_path / f"own{name}"
            shutil.copy(file, own)
            command[command.index(str(file))] = own
    with open(log_file, "w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=os.environ | DEBUG)
    try:
        address = re.search(r"127\.0\.0\.1:\d+", process.stdout.readline())[0]
        with socket.create_connection(address.split(":"), timeout=TIMEOUT) as connection:
            connection.sendall(b"no TLS\n" * 10)
            with contextlib.suppress(OSError):
                while connection.recv(4096):
                    pass
        if how == "tls":
            (tmp_path / "own--tls-cert").write_text("no certificate\n")
            process.send_signal(signal.SIGHUP)
            until(lambda: any(entry["level"] == "ERROR" for entry in entries(log_file)), "the certificate is refused")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=TIMEOUT) == 0
    finally:
        process.kill()
        process.stdout.close()
    assert len(entries(log_file)) > 3


@pytest.mark.parametrize("second", [True, False])
def test_each_line_is_json_when_calls_are_cut(log_file, second):
    with served(*JSON, "--shutdown-grace", "60s" if second else "300ms", log=log_file, **DEBUG) as server:
        with grpc.insecure_channel(server.address) as channel:
            greeter = GreeterStub(channel)
            calls = [greeter.BidiHello(silence_after(HelloRequest()), timeout=TIMEOUT) for _ in range(3)]
            for call in calls:
                next(call)
            server.process.send_signal(signal.SIGTERM)
            of(log_file, "draining")
            if second:
                server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(timeout=TIMEOUT) == (1 if second else 0)
            for call in calls:
                call.cancel()
    of(log_file, "second signal: stopping at once, running calls are aborted" if second else "stopped")


TOKENS = ["--auth-issuer", "https://issuer.muxs.example", "--auth-audience", RESOURCE]

# Flags that are right, and with which no server starts. {folder} has a file with nothing of use in it.
BAD_STARTS = {
    "a taken port": ["--listen", "{taken}"],
    "a socket that cannot be": ["--listen", "unix:{folder}/absent\n/socket"],
    "a root that is a file": ["--root", "{folder}/file"],
    "a root that cannot be": ["--root", "/proc/a\nb"],
    "no certificate": ["--tls-cert", "{folder}/absent\n", "--tls-key", "{folder}/file"],
    "no certificate in it": ["--tls-cert", "{folder}/file", "--tls-key", "{folder}/file"],
    "no keys": [*TOKENS, "--auth-jwks", "{folder}/file"],
    "an issuer that all can hear": ["--auth-issuer", "http://issuer.muxs.example", "--auth-audience", RESOURCE],
    "a collector that is none": ["--otlp-endpoint", "not a\nURL"],
}


@pytest.mark.parametrize("flags", BAD_STARTS.values(), ids=BAD_STARTS)
def test_each_line_is_json_when_the_server_cannot_start(flags, tmp_path, address):
    (tmp_path / "file").write_text("no\nkeys\n")
    defaults = {"--listen": "127.0.0.1:0", "--root": str(tmp_path / "root")}
    own = [flag.format(folder=tmp_path, taken=address) for flag in flags]
    command = [TARGET / "debug" / "server", *JSON, *own]
    command += [part for flag in defaults.items() if flag[0] not in flags for part in flag]
    run = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, env=os.environ | DEBUG)
    assert (run.returncode, run.stdout) == (1, "")
    last = entries(None, run.stderr)[-1]
    assert (last["level"], last["target"]) == ("ERROR", "server")


def test_each_line_is_json_for_two_servers_with_one_root(log_file, tmp_path):
    with served(*JSON, log=log_file, **DEBUG) as server:
        command = [TARGET / "debug" / "server", *JSON, "--listen", "127.0.0.1:0", "--root", server.root]
        run = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, env=os.environ | DEBUG)
        assert run.returncode == 1
        assert entries(None, run.stderr)[-1]["level"] == "ERROR"
        server.stop()
    entries(log_file)


def test_each_line_is_json_without_issuer_and_collector(log_file, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        nowhere = "http://127.0.0.1:{}".format(listener.getsockname()[1])
    tokens = ["--auth-issuer", nowhere, "--auth-audience", RESOURCE]
    few = {"OTEL_BSP_SCHEDULE_DELAY": "50"}
    with served(*JSON, *tokens, "--otlp-endpoint", nowhere, log=log_file, **DEBUG, **few) as server:
        with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError):
            GreeterStub(channel).SayHello(HelloRequest(), timeout=TIMEOUT, metadata=bearer("x.y.z"))
        until(lambda: any(entry["level"] == "ERROR" for entry in entries(log_file)), "the issuer cannot be asked")
        server.stop()
    assert entries(log_file)[-1]["fields"]["message"] == "stopped"


def test_each_line_is_json_for_every_log_filter(log_file):
    with served(*JSON, log=log_file, RUST_LOG="debug,muxs=loud") as server:
        server.stop()
    found = entries(log_file)
    assert any("RUST_LOG" in entry["fields"]["message"] for entry in found)


LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z +(TRACE|DEBUG|INFO|WARN|ERROR) [ -~]*")


def assert_has_lines_of_its_own_only(log_file):
    text = log_file.read_text(errors="surrogateescape")
    for line in text.removesuffix("\n").split("\n"):
        assert LINE.fullmatch(line), line
        assert not re.match(r"\S+ +\w+ (\S+: )?forged", line), line


def test_clients_cannot_forge_text_lines(log_file, issuer):
    with ready(believing(issuer, log=log_file), issuer) as server, grpc.insecure_channel(server.address) as channel:
        metadata = bearer(issuer.token("forger"))
        _, call = GreeterStub(channel).SayHello.with_call(HelloRequest(), timeout=TIMEOUT, metadata=metadata)
        until(lambda: f'"{request_id(call)}"' in log_file.read_text(), "the call is logged")
        for own in ["a=b", 'a"b', "\x1b[2K", "a\\nb"]:
            with contextlib.suppress(grpc.RpcError, ValueError):
                own_id = [*metadata, ("x-request-id", own)]
                GreeterStub(channel).SayHello(HelloRequest(), timeout=TIMEOUT, metadata=own_id)
        server.stop()
    assert "forged" in log_file.read_text()
    assert_has_lines_of_its_own_only(log_file)


def test_filenames_and_metadata_cannot_forge_text_lines(log_file):
    with served(log=log_file, **DEBUG) as server:
        bother(server)
        server.stop()
    assert_has_lines_of_its_own_only(log_file)
