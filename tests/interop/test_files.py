"""The unary calls of the file service, each test through grpcio's blocking API and its asyncio API.

The channels have the options that every client has who sets none: above all, no message over 4 MiB is received.
"""

import asyncio

import grpc
import pytest
from error_details import error_info
from mux_pb2 import Files, StatRequest
from mux_pb2_grpc import FileControllerStub

TIMEOUT = 20
LONGEST_TEXT = 4194299

ILLEGAL_FILENAMES = {
    "empty": "",
    "begins with a slash": "/a",
    "ends with a slash": "a/",
    "two slashes": "a//b",
    "dot": "./a",
    "dots": "a/../b",
    "only dots": "..",
    "NUL": "a\0b",
    "newline": "a\nb",
    "backslash": "a\\b",
    "the server's own folder": ".muxs/a",
    "the server's own folder in upper case": ".MUXS",
    "a component of 256 bytes": "a" * 256,
    "65 components": "/".join(["a"] * 65),
    # A status that repeated this one would be larger than the metadata that clients accept.
    "5000 bytes": "a" * 5000,
}


@pytest.fixture(params=["blocking", "asyncio"])
def call(request, address):
    """Calls a method, by its name, with a request."""

    def blocking(method, message):
        with grpc.insecure_channel(address) as channel:
            return getattr(FileControllerStub(channel), method)(message, timeout=TIMEOUT)

    async def awaited(method, message):
        async with grpc.aio.insecure_channel(address) as channel:
            return await getattr(FileControllerStub(channel), method)(message, timeout=TIMEOUT)

    if request.param == "blocking":
        return blocking
    return lambda method, message: asyncio.run(awaited(method, message))


def test_stat_of_a_missing_file_fails_with_the_reason_not_found(call):
    with pytest.raises(grpc.RpcError) as failed:
        call("Stat", StatRequest(filename="missing.txt"))
    assert failed.value.code() == grpc.StatusCode.NOT_FOUND
    assert error_info(failed.value).reason == "NOT_FOUND"
    assert error_info(failed.value).domain == "muxs"


def test_stat_of_a_file_returns_its_size(call):
    assert call("Write", Files(filename="stat/me.txt", text="naïve")).code == 0
    info = call("Stat", StatRequest(filename="stat/me.txt"))
    assert (info.filename, info.size) == ("stat/me.txt", 6)


def test_read_of_a_missing_file_answers_with_the_reason_not_found(call):
    content = call("Read", Files(filename="missing.txt"))
    assert content.text == "Error: read failed"
    assert (content.failure.code, content.failure.reason) == (5, "NOT_FOUND")


def test_file_with_the_text_of_a_failure_is_read(call):
    assert call("Write", Files(filename="words.txt", text="Error: read failed")).code == 0
    content = call("Read", Files(filename="words.txt"))
    assert content.text == "Error: read failed"
    assert not content.HasField("failure")


@pytest.mark.parametrize("filename", ILLEGAL_FILENAMES.values(), ids=ILLEGAL_FILENAMES.keys())
def test_illegal_filename_is_refused_with_a_reason(call, filename):
    content = call("Read", Files(filename=filename))
    assert content.text == "Error: read failed"
    assert (content.failure.code, content.failure.reason) == (3, "FILENAME_INVALID")

    status = call("Write", Files(filename=filename, text="text"))
    assert status.code == 1
    assert (status.failure.code, status.failure.reason) == (3, "FILENAME_INVALID")

    with pytest.raises(grpc.RpcError) as failed:
        call("Stat", StatRequest(filename=filename))
    assert failed.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert error_info(failed.value).reason == "FILENAME_INVALID"


def test_longest_text_is_written_and_read_back(call):
    text = "x" * LONGEST_TEXT
    status = call("Write", Files(filename="longest.txt", text=text))
    assert status.code == 0
    assert not status.HasField("failure")
    content = call("Read", Files(filename="longest.txt"))
    # Not `==` on the texts themselves: a failure would print them.
    assert len(content.text) == LONGEST_TEXT
    assert (content.text == text) is True
    assert not content.HasField("failure")


@pytest.mark.parametrize("size", [LONGEST_TEXT + 1, 10 * 1024 * 1024])
def test_longer_text_is_refused_with_the_reason_too_large(call, size):
    assert call("Write", Files(filename="kept.txt", text="old")).code == 0
    status = call("Write", Files(filename="kept.txt", text="x" * size))
    assert status.code == 1
    assert (status.failure.code, status.failure.reason) == (9, "TOO_LARGE")
    assert call("Read", Files(filename="kept.txt")).text == "old"
