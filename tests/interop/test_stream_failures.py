"""Failures of streams of the file service: code, reason and metadata.

Each test goes through grpcio's blocking API and its asyncio API.

A server that refuses ends the call while the client may still be sending. So each refusal that can come before the last
step is also tested with a flood behind it, sent without waiting for anything.
"""

import os

import grpc
import pytest
from error_details import assert_failure
from grpc import StatusCode
from mux_pb2 import AbortUploadRequest, FinishUpload, ReadStreamRequest, StatRequest, WriteStreamRequest
from uploads import KIB, MIB, chunk, finish, hides_the_status, opening

PIECE = bytes(64 * KIB)
FLOOD = 200

# In the metadata: the etag of the file that is there.
ETAG = object()

LIMIT = 3 * len(PIECE)


def piece(number):
    return chunk(number * len(PIECE), PIECE)


def pieces(*numbers):
    return [piece(number) for number in numbers]


def corrupt(number):
    step = piece(number)
    step.chunk.crc32c ^= 1
    return step


EMPTY = WriteStreamRequest()
BAD_REQUEST = StatusCode.INVALID_ARGUMENT, "BAD_REQUEST", {}
FILENAME_INVALID = StatusCode.INVALID_ARGUMENT, "FILENAME_INVALID", {}
OUTSIDE_ROOT = StatusCode.PERMISSION_DENIED, "OUTSIDE_ROOT", {}
READ_ONLY = StatusCode.PERMISSION_DENIED, "READ_ONLY", {}
NOT_FOUND = StatusCode.NOT_FOUND, "NOT_FOUND", {}
NOT_A_FILE = StatusCode.FAILED_PRECONDITION, "NOT_A_FILE", {}
EXISTS = StatusCode.ALREADY_EXISTS, "EXISTS", {"etag": ETAG}
OTHER_VERSION = StatusCode.FAILED_PRECONDITION, "ETAG_MISMATCH", {"etag": ETAG}
NO_VERSION = StatusCode.FAILED_PRECONDITION, "ETAG_MISMATCH", {}
UPLOAD_MISMATCH = StatusCode.FAILED_PRECONDITION, "UPLOAD_MISMATCH", {}
OFFSET_BEYOND_END = StatusCode.OUT_OF_RANGE, "OFFSET_BEYOND_END", {"size": 5}
OFFSET_MISMATCH = StatusCode.ABORTED, "OFFSET_MISMATCH", {"expected": 2 * len(PIECE)}
CHUNK_CORRUPT = StatusCode.ABORTED, "CHUNK_CORRUPT", {"offset": 2 * len(PIECE)}
SIZE_MISMATCH = StatusCode.INVALID_ARGUMENT, "SIZE_MISMATCH", {}
CHECKSUM_MISMATCH = StatusCode.INVALID_ARGUMENT, "CHECKSUM_MISMATCH", {}


def too_large(size):
    return StatusCode.FAILED_PRECONDITION, "TOO_LARGE", {"limit": LIMIT, "size": size}


# Refusals that come whatever is sent behind them: what fails, and the steps to a new filename.
REFUSED_UPLOADS = {
    "a chunk before open": (BAD_REQUEST, lambda name: pieces(0)),
    "finish before open": (BAD_REQUEST, lambda name: [finish(b"")]),
    "an empty first step": (BAD_REQUEST, lambda name: [EMPTY]),
    "a second open": (BAD_REQUEST, lambda name: [opening(name, "id"), *pieces(0, 1), opening(name, "id")]),
    "a second open at once": (BAD_REQUEST, lambda name: [opening(name, "id"), opening(name, "other")]),
    "an empty step": (BAD_REQUEST, lambda name: [opening(name, "id"), *pieces(0, 1), EMPTY]),
    "a chunk of more than 1 MiB": (
        BAD_REQUEST,
        lambda name: [opening(name, "id"), *pieces(0, 1), chunk(2 * len(PIECE), bytes(MIB + 1))],
    ),
    "an upload_id with a space": (BAD_REQUEST, lambda name: [opening(name, "my upload")]),
    "an upload_id that is not ASCII": (BAD_REQUEST, lambda name: [opening(name, "Größe")]),
    "an upload_id of 129 characters": (BAD_REQUEST, lambda name: [opening(name, "x" * 129)]),
    "no filename": (FILENAME_INVALID, lambda name: [opening("", "id")]),
    "a filename with dots": (FILENAME_INVALID, lambda name: [opening("a/../b", "id")]),
    "the server's own folder": (FILENAME_INVALID, lambda name: [opening(".muxs/lock", "id")]),
    "a filename of 5000 bytes": (FILENAME_INVALID, lambda name: [opening("a" * 5000, "id")]),
    "a link that leads outside": (OUTSIDE_ROOT, lambda name: [opening("outside/a", "id")]),
    "a folder": (NOT_A_FILE, lambda name: [opening("folder", "id")]),
    "a FIFO": (NOT_A_FILE, lambda name: [opening("fifo", "id")]),
    "a file in place of a folder": (NOT_A_FILE, lambda name: [opening(f"there.bin/{name}", "id")]),
    "create only, and it exists": (EXISTS, lambda name: [opening("there.bin", "id", if_etag="")]),
    "another version": (OTHER_VERSION, lambda name: [opening("there.bin", "id", if_etag="another")]),
    "a version of what is not there": (NO_VERSION, lambda name: [opening(name, "id", if_etag="another")]),
    "another size than before": (UPLOAD_MISMATCH, lambda name: [opening("known.bin", "known", size=2)]),
    "no size, unlike before": (UPLOAD_MISMATCH, lambda name: [opening("known.bin", "known")]),
    "another if_etag than before": (
        UPLOAD_MISMATCH,
        lambda name: [opening("known.bin", "known", size=1, if_etag="")],
    ),
    "another size than the finished one": (UPLOAD_MISMATCH, lambda name: [opening("there.bin", "done", size=9)]),
    "a gap": (OFFSET_MISMATCH, lambda name: [opening(name, "id"), *pieces(0, 1, 3)]),
    "an overlap": (OFFSET_MISMATCH, lambda name: [opening(name, "id"), *pieces(0, 1, 1)]),
    "an offset without end": (
        OFFSET_MISMATCH,
        lambda name: [opening(name, "id"), *pieces(0, 1), chunk(2**64 - 1, PIECE)],
    ),
    "a corrupt chunk": (CHUNK_CORRUPT, lambda name: [opening(name, "id"), *pieces(0, 1), corrupt(2)]),
    "a chunk beyond the announced size": (
        SIZE_MISMATCH,
        lambda name: [opening(name, "id", size=2 * len(PIECE) + 1), *pieces(0, 1, 2)],
    ),
}

# The last step is what is refused.
REFUSED_FINISHES = {
    "no step at all": (BAD_REQUEST, lambda name: []),
    "finish with more than came": (
        SIZE_MISMATCH,
        lambda name: [opening(name, "id"), *pieces(0), WriteStreamRequest(finish=FinishUpload(size=len(PIECE) + 1))],
    ),
    "finish with less than came": (
        SIZE_MISMATCH,
        lambda name: [opening(name, "id"), *pieces(0), WriteStreamRequest(finish=FinishUpload(size=0))],
    ),
    "finish with less than was announced": (
        SIZE_MISMATCH,
        lambda name: [opening(name, "id", size=2 * len(PIECE)), *pieces(0), finish(PIECE)],
    ),
    "another checksum": (
        CHECKSUM_MISMATCH,
        lambda name: [opening(name, "id"), *pieces(0), finish(b"x" * len(PIECE))],
    ),
}

# The server may have looked at `finish` before they come: then the file appears all the same.
BEHIND_FINISH = {
    "a chunk": lambda name: piece(0),
    "open": lambda name: opening(name, "id"),
    "another finish": lambda name: finish(b""),
    "an empty step": lambda name: EMPTY,
}

REFUSED_AS_TOO_LARGE = {
    "announced": (too_large(LIMIT + 1), lambda name: [opening(name, "id", size=LIMIT + 1)]),
    "sent": (too_large(LIMIT + len(PIECE)), lambda name: [opening(name, "id"), *pieces(0, 1, 2, 3)]),
}

REFUSED_DOWNLOADS = {
    "no filename": (FILENAME_INVALID, ReadStreamRequest()),
    "a filename of 5000 bytes": (FILENAME_INVALID, ReadStreamRequest(filename="a" * 5000)),
    "the server's own folder": (FILENAME_INVALID, ReadStreamRequest(filename=".muxs/lock")),
    "a link that leads outside": (OUTSIDE_ROOT, ReadStreamRequest(filename="outside/a")),
    "a missing file": (NOT_FOUND, ReadStreamRequest(filename="missing.bin")),
    "an upload under way": (NOT_FOUND, ReadStreamRequest(filename="known.bin")),
    "a folder": (NOT_A_FILE, ReadStreamRequest(filename="folder")),
    "a FIFO": (NOT_A_FILE, ReadStreamRequest(filename="fifo")),
    "another version": (OTHER_VERSION, ReadStreamRequest(filename="there.bin", if_etag="another")),
    "an offset beyond the end": (OFFSET_BEYOND_END, ReadStreamRequest(filename="there.bin", offset=6)),
    "the largest offset": (OFFSET_BEYOND_END, ReadStreamRequest(filename="there.bin", offset=2**64 - 1)),
}

REFUSED_ABORTS = {
    "no upload": (NOT_FOUND, AbortUploadRequest(filename="missing.bin", upload_id="id")),
    "another upload": (NOT_FOUND, AbortUploadRequest(filename="known.bin", upload_id="other")),
    "a finished upload": (NOT_FOUND, AbortUploadRequest(filename="there.bin", upload_id="done")),
    "no filename": (FILENAME_INVALID, AbortUploadRequest(upload_id="id")),
    "no upload_id": (BAD_REQUEST, AbortUploadRequest(filename="known.bin")),
    "an upload_id with a space": (BAD_REQUEST, AbortUploadRequest(filename="known.bin", upload_id="my upload")),
}


def rows(table):
    return pytest.mark.parametrize("failure, request_of", table.values(), ids=table.keys())


@pytest.fixture
def refusing(connect, shared_server):
    """A client of a server whose root has the files of the tables, and the etag of there.bin."""
    client = connect(shared_server.address)
    folder = shared_server.root / "folder"
    if not folder.exists():
        folder.mkdir()
        (shared_server.root / "outside").symlink_to("/")
        os.mkfifo(shared_server.root / "fifo")
        sent = [opening("there.bin", "done"), chunk(0, b"there"), finish(b"there")]
        assert client.answers("WriteStream", iter(sent))[1] is None
        assert client.answers("WriteStream", iter([opening("known.bin", "known", size=1), chunk(0, b"x")]))[1] is None
    client.etag = client.unary("Stat", StatRequest(filename="there.bin")).etag
    return client


def assert_refused(client, error, failure):
    code, reason, metadata = failure
    metadata = {key: client.etag if value is ETAG else value for key, value in metadata.items()}
    assert_failure(error, code, reason, **metadata)


def assert_upload_refused(client, failure, request_of, filename, flood=()):
    """Asserts it for a new filename, or for some where grpcio loses the status."""
    for attempt in range(50):
        name = f"{filename}-{attempt}"
        answers, error = client.answers("WriteStream", iter([*request_of(name), *flood]))
        assert not any(answer.HasField("committed") for answer in answers)
        with pytest.raises(grpc.RpcError) as failed:
            client.unary("Stat", StatRequest(filename=name))
        assert failed.value.code() == StatusCode.NOT_FOUND
        if not hides_the_status(error):
            break
    assert_refused(client, error, failure)
    return name


@rows(REFUSED_UPLOADS | REFUSED_FINISHES)
def test_upload_is_refused(refusing, filename, failure, request_of):
    assert_upload_refused(refusing, failure, request_of, filename)


@rows(REFUSED_UPLOADS)
def test_upload_is_refused_while_the_client_keeps_sending(refusing, filename, failure, request_of):
    assert_upload_refused(refusing, failure, request_of, filename, pieces(*range(3, 3 + FLOOD)))


@pytest.mark.parametrize("step_of", BEHIND_FINISH.values(), ids=BEHIND_FINISH.keys())
def test_steps_after_finish_are_refused(refusing, filename, step_of):
    steps = [opening(filename, "id"), finish(b""), step_of(filename)]
    _, error = refusing.answers("WriteStream", iter(steps))
    assert_refused(refusing, error, BAD_REQUEST)


@rows(REFUSED_AS_TOO_LARGE)
@pytest.mark.parametrize("flood", [0, FLOOD])
def test_upload_is_refused_as_too_large(connect, limited_server, filename, failure, request_of, flood):
    client = connect(limited_server.address)
    assert_upload_refused(client, failure, request_of, filename, pieces(*range(4, 4 + flood)))


@pytest.mark.parametrize("flood", [0, FLOOD])
def test_read_only_server_refuses_uploads(connect, read_only_server, filename, flood):
    client = connect(read_only_server.address)
    assert_upload_refused(client, READ_ONLY, lambda name: [opening(name, "id")], filename, pieces(*range(flood)))


def test_read_only_server_refuses_to_abort(connect, read_only_server, filename):
    client = connect(read_only_server.address)
    with pytest.raises(grpc.RpcError) as failed:
        client.unary("AbortUpload", AbortUploadRequest(filename=filename, upload_id="id"))
    assert_refused(client, failed.value, READ_ONLY)


@rows(REFUSED_DOWNLOADS)
def test_download_is_refused(refusing, failure, request_of):
    answers, error = refusing.answers("ReadStream", request_of)
    assert answers == []
    assert_refused(refusing, error, failure)


@rows(REFUSED_ABORTS)
def test_abort_is_refused(refusing, failure, request_of):
    with pytest.raises(grpc.RpcError) as failed:
        refusing.unary("AbortUpload", request_of)
    assert_refused(refusing, failed.value, failure)


@pytest.mark.parametrize("wrong", ["a corrupt chunk", "a gap"])
def test_upload_resumes_before_the_wrong_chunk(refusing, filename, wrong):
    failure, request_of = REFUSED_UPLOADS[wrong]
    name = assert_upload_refused(refusing, failure, request_of, filename)
    stream = refusing.stream(opening(name, "id"))
    assert stream.answer().progress.persisted_size == 2 * len(PIECE)
    stream.send(*pieces(2), finish(3 * PIECE))
    stream.half_close()
    while not (answer := stream.answer()).HasField("committed"):
        pass
    assert answer.committed.size == 3 * len(PIECE)


def test_refusal_reaches_the_client_every_time(refusing, filename):
    for number in range(50):
        flood = pieces(*range(3, 3 + FLOOD))
        assert_upload_refused(refusing, *REFUSED_UPLOADS["a corrupt chunk"], f"{filename}-{number}", flood)
