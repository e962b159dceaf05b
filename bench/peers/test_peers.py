"""Whether the peers do what they are measured for, so that nobody is fast by leaving something out.

    pip install --requirement python/requirements.txt pytest
    pytest test_peers.py

What is not built or installed is skipped; with MUXS_PEERS_REQUIRED=1 that is a failure. Our own server is tested with
them if MUXS_SERVER names its program.
"""

import contextlib
import http.client
import os
import random
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import google_crc32c
import grpc
import pytest

PEERS = Path(__file__).resolve().parent
PROJECT = PEERS.parents[1]
sys.path.insert(0, str(PROJECT / "proto"))
pb, services = grpc.protos_and_services("mux.proto")

KIB = 1024
MIB = 1024 * KIB
CHUNK = 256 * KIB
SIZES = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 10 * MIB]
CONTENT = random.Random(1).randbytes(10 * MIB)
PATIENCE = 60


def there(*paths):
    return all(Path(path).exists() for path in paths)


CPP = PROJECT / "target" / "bench-cpp"
PYTHON = PEERS / "python" / "server.py"
NODE = PEERS / "node" / "server.js"
STOCK = PROJECT / "target" / "release" / "stock"
OWN = os.environ.get("MUXS_SERVER", "")

# How each peer is started, and whether it can be.
SERVERS = {
    "cpp": ([CPP / "server"], there(CPP / "server")),
    "python": ([sys.executable, PYTHON], True),
    "python-asyncio": ([sys.executable, PYTHON, "--asyncio"], True),
    "node": (["node", NODE], bool(shutil.which("node")) and there(PEERS / "node" / "node_modules")),
    "stock": ([STOCK], there(STOCK)),
    "stock-default": ([STOCK, "--default"], there(STOCK)),
    "muxs": ([OWN], bool(OWN)),
}


def need(what, is_there):
    if not is_there:
        if os.environ.get("MUXS_PEERS_REQUIRED") == "1":
            pytest.fail(f"{what} is not there")
        pytest.skip(f"{what} IS NOT THERE, SO IT HAS NOT BEEN TESTED")


@contextlib.contextmanager
def running(command, **options):
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE)
        process.stdout.close()


def port_of(process):
    """The port it says that it listens on."""
    while True:
        ready, _, _ = select.select([process.stdout], [], [], PATIENCE)
        line = process.stdout.readline() if ready else ""
        assert line, "it does not say that it is listening"
        if "listening" in line:
            return int(re.search(r"127\.0\.0\.1:(\d+)", line)[1])


class Server:
    def __init__(self, port, root):
        self.root = root
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        self.greeter = services.GreeterStub(self.channel)
        self.files = services.FileControllerStub(self.channel)


@pytest.fixture(scope="module", params=SERVERS)
def server(request, tmp_path_factory):
    command, is_there = SERVERS[request.param]
    need(request.param, is_there)
    root = tmp_path_factory.mktemp(request.param)
    with running([*command, "--listen", "127.0.0.1:0", "--root", root]) as process:
        server = Server(port_of(process), root)
        with server.channel:
            yield server


def requests(names):
    return (pb.HelloRequest(name=name) for name in names)


def refused(call, code):
    with pytest.raises(grpc.RpcError) as error:
        list(call)
    assert error.value.code() == code


def test_say_hello(server):
    assert server.greeter.SayHello(pb.HelloRequest(name="you"), timeout=PATIENCE).message == "Hello, you!"
    assert server.greeter.SayHello(pb.HelloRequest(), timeout=PATIENCE).message == "Hello, !"
    with pytest.raises(grpc.RpcError) as error:
        server.greeter.SayHello(pb.HelloRequest(name="x" * 4097), timeout=PATIENCE)
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("count", [1, 2, 1000, 100_000])
def test_lots_of_replies(server, count):
    replies = [
        reply.message
        for reply in server.greeter.LotsOfReplies(pb.HelloRequest(name="you", replies=count), timeout=PATIENCE)
    ]
    assert len(replies) == count
    assert replies[0] == "Hello, you!"


@pytest.mark.parametrize(
    ("names", "greeting"),
    [
        ([], "Hello, nobody!"),
        (["A"], "Hello, A!"),
        (["A", "B"], "Hello, A and B!"),
        (["A", "B", "C"], "Hello, A, B and C!"),
        (["A", "B", "C", "D"], "Hello, A, B, C and 1 other!"),
        (["A", "B", "C"] * 1000, "Hello, A, B, C and 2997 others!"),
    ],
)
def test_lots_of_greetings(server, names, greeting):
    assert server.greeter.LotsOfGreetings(requests(names), timeout=PATIENCE).message == greeting


def test_lots_of_greetings_refuses_a_long_name(server):
    with pytest.raises(grpc.RpcError) as error:
        server.greeter.LotsOfGreetings(requests(["A", "x" * 4097]), timeout=PATIENCE)
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("count", [0, 1, 1000])
def test_bidi_hello(server, count):
    names = [f"{i}" for i in range(count)]
    replies = server.greeter.BidiHello(requests(names), timeout=PATIENCE)
    assert [reply.message for reply in replies] == [f"Hello, {name}!" for name in names]


def test_bidi_hello_answers_at_once(server):
    """Nothing is held back for a later one."""

    def next_one():
        for i in range(100):
            assert len(replies) == i
            yield pb.HelloRequest(name=f"{i}")
            while len(replies) == i:
                assert call.is_active()
                time.sleep(0)

    replies = []
    # Made before the first request is asked for: it looks at the call.
    call = None
    started = time.monotonic()

    def gated():
        while call is None:
            time.sleep(0)
        yield from next_one()

    call = server.greeter.BidiHello(gated(), timeout=PATIENCE)
    for reply in call:
        replies.append(reply.message)
    assert replies == [f"Hello, {i}!" for i in range(100)]
    assert time.monotonic() - started < PATIENCE


def test_bidi_hello_refuses_a_long_name(server):
    refused(
        server.greeter.BidiHello(requests(["A", "x" * 4097, "B"]), timeout=PATIENCE),
        grpc.StatusCode.INVALID_ARGUMENT,
    )


def read(server, filename, **fields):
    """What comes, and the sizes of the chunks it comes in."""
    info, *events = server.files.ReadStream(pb.ReadStreamRequest(filename=filename, **fields), timeout=PATIENCE)
    assert info.info.filename == filename
    offset = fields.get("offset", 0)
    content, sizes = bytearray(), []
    for event in events:
        chunk = event.chunk
        assert chunk.offset == offset
        assert chunk.HasField("crc32c")
        assert chunk.crc32c == google_crc32c.value(chunk.data)
        offset += len(chunk.data)
        sizes.append(len(chunk.data))
        content += chunk.data
    return info.info, bytes(content), sizes


@pytest.mark.parametrize("size", SIZES)
def test_read_stream(server, size):
    (server.root / "file").write_bytes(CONTENT[:size])
    info, content, sizes = read(server, "file")
    assert info.size == size
    assert content == CONTENT[:size]
    assert sizes == [CHUNK] * (size // CHUNK) + [size % CHUNK] * (size % CHUNK > 0)


@pytest.mark.parametrize("wanted", [1000, 64 * KIB, MIB, 2 * MIB])
def test_read_stream_has_the_chunks_that_are_wanted(server, wanted):
    (server.root / "file").write_bytes(CONTENT[: 2 * MIB])
    _, content, sizes = read(server, "file", max_chunk_bytes=wanted)
    assert content == CONTENT[: 2 * MIB]
    assert max(sizes) == min(wanted, MIB)


def test_read_stream_of_a_part(server):
    (server.root / "file").write_bytes(CONTENT[:MIB])
    assert read(server, "file", offset=5)[1] == CONTENT[5:MIB]
    assert read(server, "file", offset=5, length=CHUNK + 7)[1] == CONTENT[5 : CHUNK + 12]
    assert read(server, "file", offset=MIB)[1] == b""
    call = server.files.ReadStream(pb.ReadStreamRequest(filename="file", offset=MIB + 1), timeout=PATIENCE)
    refused(call, grpc.StatusCode.OUT_OF_RANGE)


def test_read_stream_of_no_file(server):
    call = server.files.ReadStream(pb.ReadStreamRequest(filename="missing"), timeout=PATIENCE)
    refused(call, grpc.StatusCode.NOT_FOUND)
    call = server.files.ReadStream(pb.ReadStreamRequest(filename="../file"), timeout=PATIENCE)
    refused(call, grpc.StatusCode.INVALID_ARGUMENT)


def test_read_streams_at_once(server):
    (server.root / "file").write_bytes(CONTENT)
    calls = [server.files.ReadStream(pb.ReadStreamRequest(filename="file"), timeout=PATIENCE) for _ in range(8)]
    for call in calls:
        assert b"".join(event.chunk.data for event in call) == CONTENT


def opening(filename, upload_id):
    return pb.WriteStreamRequest(open=pb.OpenUpload(filename=filename, upload_id=upload_id))


def chunk(offset, data, crc32c=None):
    crc32c = google_crc32c.value(data) if crc32c is None else crc32c
    return pb.WriteStreamRequest(chunk=pb.Chunk(offset=offset, crc32c=crc32c, data=data))


def finish(content, size=None, crc32c=None):
    size = len(content) if size is None else size
    crc32c = google_crc32c.value(content) if crc32c is None else crc32c
    return pb.WriteStreamRequest(finish=pb.FinishUpload(size=size, crc32c=crc32c))


def chunks(content, size=CHUNK):
    return [chunk(at, content[at : at + size]) for at in range(0, len(content), size)]


@pytest.fixture
def fresh(server):
    """A name that no file has, and that none has in part when the test is over."""
    before = {path.name for path in server.root.iterdir()}
    filename = f"upload-{random.randbytes(8).hex()}"
    yield filename
    # Our own server keeps a folder for what can be resumed.
    left = {path.name for path in server.root.iterdir()} - before - {filename, ".muxs"}
    assert not left


def write(server, steps):
    return server.files.WriteStream(iter(steps), timeout=PATIENCE)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("chunk_bytes", [CHUNK, MIB])
def test_write_stream(server, fresh, size, chunk_bytes):
    content = CONTENT[:size]
    first, *_, last = write(server, [opening(fresh, "id"), *chunks(content, chunk_bytes), finish(content)])
    assert first.progress.upload_id == "id"
    assert first.progress.persisted_size == 0
    assert last.committed.filename == fresh
    assert last.committed.size == size
    assert (server.root / fresh).read_bytes() == content


def test_write_stream_without_checksums(server, fresh):
    steps = [
        opening(fresh, "id"),
        pb.WriteStreamRequest(chunk=pb.Chunk(data=b"content")),
        pb.WriteStreamRequest(finish=pb.FinishUpload(size=7)),
    ]
    assert list(write(server, steps))[-1].committed.size == 7
    assert (server.root / fresh).read_bytes() == b"content"


@pytest.mark.parametrize(
    ("steps", "code"),
    [
        ([chunk(0, b"content", crc32c=1), finish(b"content")], grpc.StatusCode.ABORTED),
        ([chunk(1, b"content"), finish(b"content")], grpc.StatusCode.ABORTED),
        ([chunk(0, b"content"), chunk(8, b"content")], grpc.StatusCode.ABORTED),
        ([chunk(0, b"content"), finish(b"content", size=8)], grpc.StatusCode.INVALID_ARGUMENT),
        ([chunk(0, b"content"), finish(b"content", size=6)], grpc.StatusCode.INVALID_ARGUMENT),
        ([chunk(0, b"content"), finish(b"content", crc32c=1)], grpc.StatusCode.INVALID_ARGUMENT),
        ([opening("again", "id")], grpc.StatusCode.INVALID_ARGUMENT),
    ],
    ids=["chunk-crc", "first-offset", "offset", "too-small", "too-large", "whole-crc", "opened-twice"],
)
def test_write_stream_refuses(server, fresh, steps, code):
    refused(write(server, [opening(fresh, "id"), *steps]), code)
    assert not (server.root / fresh).exists()


def test_write_stream_has_to_be_opened(server, fresh):
    refused(write(server, [chunk(0, b"content")]), grpc.StatusCode.INVALID_ARGUMENT)


def test_write_stream_that_is_cancelled_leaves_nothing(server, fresh):
    steps = iter([opening(fresh, "id"), chunk(0, b"content")])
    answered = grpc.insecure_channel  # replaced below
    del answered
    call = server.files.WriteStream(steps, timeout=PATIENCE)
    assert next(call).progress.upload_id == "id"
    call.cancel()
    with pytest.raises(grpc.RpcError):
        list(call)
    assert not (server.root / fresh).exists()


def test_write_streams_at_once(server):
    calls = [
        (i, write(server, [opening(f"at-once-{i}", f"{i}"), *chunks(CONTENT), finish(CONTENT)])) for i in range(4)
    ]
    for i, call in calls:
        assert list(call)[-1].committed.size == len(CONTENT)
        assert (server.root / f"at-once-{i}").read_bytes() == CONTENT
