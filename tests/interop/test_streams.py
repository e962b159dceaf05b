"""ReadStream, WriteStream and AbortUpload, each test through grpcio's blocking API and its asyncio API.

The channels have the options that every client has who sets none.
"""

import os
import random

import google_crc32c
import grpc
import pytest
from error_details import assert_failure
from grpc import StatusCode
from mux_pb2 import (
    AbortUploadRequest,
    Chunk,
    FinishUpload,
    ReadStreamRequest,
    StatRequest,
    WriteStreamRequest,
)
from uploads import KIB, MIB, chunks, finish, opening


def content_of(size):
    return random.Random(size).randbytes(size)


def upload(client, filename, content, upload_id="whole", **fields):
    steps = [opening(filename, upload_id, **fields), *chunks(content), finish(content)]
    answers, error = client.answers("WriteStream", iter(steps))
    assert error is None
    return answers[-1].committed


def download(client, filename, **fields):
    """What `info` says and the bytes behind it, each chunk checked."""
    answers, error = client.answers("ReadStream", ReadStreamRequest(filename=filename, **fields))
    assert error is None
    info, received = answers[0].info, b""
    for answer in answers[1:]:
        assert answer.chunk.offset == fields.get("offset", 0) + len(received)
        assert answer.chunk.crc32c == google_crc32c.value(answer.chunk.data)
        received += answer.chunk.data
    return info, received


def assert_has(client, filename, content):
    info, received = download(client, filename)
    assert info.size == len(content)
    # Not `==` on the bytes themselves: a failure would print them.
    assert (received == content) is True


def assert_absent(client, filename):
    with pytest.raises(grpc.RpcError) as failed:
        client.unary("Stat", StatRequest(filename=filename))
    assert failed.value.code() == StatusCode.NOT_FOUND


def progress_of(answer):
    assert answer.HasField("progress")
    return answer.progress


def acknowledged(stream):
    """The first progress that says something is durable."""
    while (so_far := progress_of(stream.answer())).persisted_size == 0:
        pass
    return so_far


def finish_from(stream, so_far, content):
    """Proves that the server has the beginning of `content`, and sends the rest of it."""
    assert so_far.persisted_crc32c == google_crc32c.value(content[: so_far.persisted_size])
    stream.send(*chunks(content, start=so_far.persisted_size), finish(content))
    stream.half_close()
    while not (answer := stream.answer()).HasField("committed"):
        assert progress_of(answer).persisted_size >= so_far.persisted_size
    assert stream.answer() is None
    return answer.committed


@pytest.mark.parametrize("size", [0, 1, 256 * KIB, 256 * KIB + 1, 5 * MIB + 3])
def test_upload_reads_back(client, filename, size):
    content = content_of(size)
    committed = upload(client, filename, content, size=size)
    assert (committed.filename, committed.size) == (filename, size)
    assert_has(client, filename, content)
    assert client.unary("Stat", StatRequest(filename=filename)) == committed


@pytest.mark.parametrize("size", [1, 16 * KIB, MIB])
def test_chunks_may_have_any_size_up_to_the_largest(client, filename, size):
    content = content_of(min(3 * MIB, 2000 * size))
    steps = [opening(filename, "chunks"), *chunks(content, size=size), finish(content)]
    answers, error = client.answers("WriteStream", iter(steps))
    assert error is None
    assert progress_of(answers[0]).max_chunk_bytes == MIB
    assert_has(client, filename, content)


def test_checksums_are_optional(client, filename):
    steps = [
        opening(filename, "plain"),
        WriteStreamRequest(chunk=Chunk(offset=0, data=b"plain")),
        WriteStreamRequest(finish=FinishUpload(size=5)),
    ]
    answers, error = client.answers("WriteStream", iter(steps))
    assert error is None
    assert answers[-1].HasField("committed")
    assert_has(client, filename, b"plain")


def test_headers_come_before_the_first_step(client, filename):
    stream = client.stream()
    stream.headers()
    stream.send(opening(filename, "late"), finish(b""))
    stream.half_close()
    assert progress_of(stream.answer()).persisted_size == 0
    assert stream.answer().HasField("committed")
    assert stream.answer() is None


def test_server_generates_a_missing_upload_id(client, filename):
    content = content_of(MIB)
    stream = client.stream(opening(filename, ""), *chunks(content[: 512 * KIB]))
    stream.half_close()
    assert progress_of(stream.answer()).upload_id != ""
    paused = progress_of(stream.answer())
    assert stream.answer() is None

    stream = client.stream(opening(filename, paused.upload_id))
    so_far = progress_of(stream.answer())
    assert (so_far.upload_id, so_far.persisted_size) == (paused.upload_id, 512 * KIB)
    finish_from(stream, so_far, content)
    assert_has(client, filename, content)


def test_half_close_without_finish_is_a_pause(client, filename):
    content = content_of(3 * MIB)
    first = content[: 2 * MIB]
    answers, error = client.answers("WriteStream", iter([opening(filename, "pause"), *chunks(first)]))
    assert error is None
    last = progress_of(answers[-1])
    assert (last.persisted_size, last.persisted_crc32c) == (len(first), google_crc32c.value(first))
    assert_absent(client, filename)

    stream = client.stream(opening(filename, "pause"))
    so_far = progress_of(stream.answer())
    assert so_far.persisted_size == len(first)
    finish_from(stream, so_far, content)
    assert_has(client, filename, content)


def test_cancelled_upload_resumes(client, filename):
    content = content_of(5 * MIB)
    stream = client.stream(opening(filename, "cut"), *chunks(content[: 3 * MIB]))
    acked = acknowledged(stream)
    stream.cancel()
    assert_absent(client, filename)

    stream = client.stream(opening(filename, "cut"))
    so_far = progress_of(stream.answer())
    assert acked.persisted_size <= so_far.persisted_size <= 3 * MIB
    committed = finish_from(stream, so_far, content)
    assert committed.size == len(content)
    assert_has(client, filename, content)


def test_upload_resumes_after_its_deadline(client, filename):
    content = content_of(5 * MIB)
    stream = client.stream(opening(filename, "deadline"), *chunks(content[: 3 * MIB]), timeout=2)
    acked = acknowledged(stream)
    with pytest.raises(grpc.RpcError) as failed:
        while stream.answer() is not None:
            pass
    assert failed.value.code() == StatusCode.DEADLINE_EXCEEDED
    assert_absent(client, filename)

    stream = client.stream(opening(filename, "deadline"))
    so_far = progress_of(stream.answer())
    assert acked.persisted_size <= so_far.persisted_size <= 3 * MIB
    finish_from(stream, so_far, content)
    assert_has(client, filename, content)


def test_uploads_survive_a_killed_server(connect, own_server, filename):
    content = content_of(5 * MIB)
    client = connect(own_server.address)
    stream = client.stream(opening(filename, "killed", if_etag="", size=len(content)), *chunks(content[: 3 * MIB]))
    acked = acknowledged(stream)
    own_server.kill()
    with pytest.raises(grpc.RpcError) as failed:
        while stream.answer() is not None:
            pass
    assert failed.value.code() == StatusCode.UNAVAILABLE

    own_server.start()
    client = connect(own_server.address)
    assert_absent(client, filename)
    stream = client.stream(opening(filename, "killed", if_etag="", size=len(content)))
    so_far = progress_of(stream.answer())
    assert acked.persisted_size <= so_far.persisted_size <= 3 * MIB
    finish_from(stream, so_far, content)
    assert_has(client, filename, content)


def test_newest_stream_of_an_upload_takes_over(client, filename):
    content = content_of(3 * MIB)
    older = client.stream(opening(filename, "both"), *chunks(content[:MIB]))
    assert progress_of(older.answer()).persisted_size == 0
    newer = client.stream(opening(filename, "both"))
    so_far = progress_of(newer.answer())
    with pytest.raises(grpc.RpcError) as failed:
        while older.answer() is not None:
            pass
    assert_failure(failed.value, StatusCode.ABORTED, "SUPERSEDED")
    finish_from(newer, so_far, content)
    assert_has(client, filename, content)


def test_uploads_with_different_ids_are_independent(client, filename):
    one, other = content_of(MIB), content_of(MIB + 1)
    first = client.stream(opening(filename, "one"), *chunks(one))
    assert progress_of(first.answer()).persisted_size == 0
    upload(client, filename, other, "other")
    assert_has(client, filename, other)
    first.send(finish(one))
    first.half_close()
    while not first.answer().HasField("committed"):
        pass
    assert_has(client, filename, one)


def test_reopened_finished_upload_returns_its_result(client, filename):
    content = content_of(MIB)
    committed = upload(client, filename, content, "again")
    stream = client.stream(opening(filename, "again"))
    assert stream.answer().committed == committed
    assert stream.answer() is None


def test_empty_if_etag_creates_a_new_file(client, filename):
    upload(client, filename, b"first", "first", if_etag="")
    assert_has(client, filename, b"first")


def test_if_etag_replaces_only_that_version(client, filename):
    first = upload(client, filename, b"first", "first")
    second = upload(client, filename, b"second", "second", if_etag=first.etag)
    assert_has(client, filename, b"second")
    answers, error = client.answers("WriteStream", iter([opening(filename, "third", if_etag=first.etag)]))
    assert answers == []
    assert_failure(error, StatusCode.FAILED_PRECONDITION, "ETAG_MISMATCH", etag=second.etag)


@pytest.mark.parametrize("if_etag", ["", "first"], ids=["create only", "one version"])
def test_concurrent_write_is_not_replaced(client, filename, if_etag):
    if if_etag:
        if_etag = upload(client, filename, b"first", "first").etag
    stream = client.stream(opening(filename, "slow", if_etag=if_etag), *chunks(b"slow"))
    assert progress_of(stream.answer()).persisted_size == 0
    meanwhile = upload(client, filename, b"meanwhile", "fast")
    stream.send(finish(b"slow"))
    stream.half_close()
    with pytest.raises(grpc.RpcError) as failed:
        while stream.answer() is not None:
            pass
    code, reason = (
        (StatusCode.FAILED_PRECONDITION, "ETAG_MISMATCH") if if_etag else (StatusCode.ALREADY_EXISTS, "EXISTS")
    )
    assert_failure(failed.value, code, reason, etag=meanwhile.etag)
    assert_has(client, filename, b"meanwhile")


def test_upload_is_aborted(client, filename):
    request = AbortUploadRequest(filename=filename, upload_id="aborted")
    content = content_of(MIB)
    stream = client.stream(opening(filename, "aborted"), *chunks(content))
    acknowledged(stream)
    client.unary("AbortUpload", request)
    with pytest.raises(grpc.RpcError) as failed:
        while stream.answer() is not None:
            pass
    assert_failure(failed.value, StatusCode.ABORTED, "SUPERSEDED")
    assert_absent(client, filename)

    with pytest.raises(grpc.RpcError) as failed:
        client.unary("AbortUpload", request)
    assert_failure(failed.value, StatusCode.NOT_FOUND, "NOT_FOUND")
    stream = client.stream(opening(filename, "aborted"))
    so_far = progress_of(stream.answer())
    assert so_far.persisted_size == 0
    finish_from(stream, so_far, content)
    assert_has(client, filename, content)


def test_part_of_a_file_is_read(client, filename):
    content = content_of(2 * MIB)
    committed = upload(client, filename, content)
    for offset, length in [(0, 1), (1, 0), (MIB, 700 * KIB), (2 * MIB - 1, 5), (2 * MIB, 0), (2 * MIB, 9)]:
        info, received = download(client, filename, offset=offset, length=length)
        assert info == committed
        assert (received == content[offset : offset + length if length else None]) is True


@pytest.mark.parametrize("asked, largest", [(0, 256 * KIB), (1000, 1000), (MIB, MIB), (2**32 - 1, MIB)])
def test_chunk_size_follows_the_request(client, filename, asked, largest):
    content = content_of(3 * MIB)
    upload(client, filename, content)
    answers, error = client.answers("ReadStream", ReadStreamRequest(filename=filename, max_chunk_bytes=asked))
    assert error is None
    sizes = [len(answer.chunk.data) for answer in answers[1:]]
    assert max(sizes) == largest
    assert set(sizes[:-1]) == {largest}
    assert (b"".join(answer.chunk.data for answer in answers[1:]) == content) is True


def test_download_keeps_its_version(client, filename):
    content = content_of(MIB)
    etag = upload(client, filename, content).etag
    info, rest = download(client, filename, offset=300 * KIB, if_etag=etag)
    assert info.etag == etag
    assert (rest == content[300 * KIB :]) is True

    other = upload(client, filename, b"other", "other").etag
    request = ReadStreamRequest(filename=filename, offset=300 * KIB, if_etag=etag)
    answers, error = client.answers("ReadStream", request)
    assert answers == []
    assert_failure(error, StatusCode.FAILED_PRECONDITION, "ETAG_MISMATCH", etag=other)


def test_reader_keeps_the_version_it_opened(client, filename):
    content = content_of(32 * MIB)
    upload(client, filename, content)
    call = client.reading(ReadStreamRequest(filename=filename))
    info = call.answer().info
    replaced = upload(client, filename, b"other", "other")
    assert replaced.etag != info.etag
    received = b"".join(answer.chunk.data for answer in iter(call.answer, None))
    assert (received == content) is True
    assert_has(client, filename, b"other")


def test_file_changed_in_place_ends_the_download(client, shared_server, filename):
    upload(client, filename, content_of(32 * MIB))
    call = client.reading(ReadStreamRequest(filename=filename))
    assert call.answer().info.size == 32 * MIB
    os.truncate(shared_server.root / filename, MIB)
    with pytest.raises(grpc.RpcError) as failed:
        while call.answer() is not None:
            pass
    assert_failure(failed.value, StatusCode.ABORTED, "FILE_CHANGED")


def test_download_may_be_cancelled_at_any_time(client, filename):
    upload(client, filename, content_of(32 * MIB))
    for answers in [0, 1, 2, 20]:
        call = client.reading(ReadStreamRequest(filename=filename))
        for _ in range(answers):
            assert call.answer() is not None
        call.cancel()
    assert client.unary("Stat", StatRequest(filename=filename)).size == 32 * MIB
