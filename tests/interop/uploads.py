"""The streams of the file service through grpcio's blocking API and its asyncio API.

Both have the same methods here: what a test says to one, it says to the other.
"""

import asyncio
import queue

import google_crc32c
import grpc
from mux_pb2 import Chunk, FinishUpload, OpenUpload, WriteStreamRequest
from mux_pb2_grpc import FileControllerStub

# For one call. Shorter than what pytest gives a test.
TIMEOUT = 20
KIB = 1024
MIB = 1024 * KIB


def opening(filename, upload_id, **fields):
    return WriteStreamRequest(open=OpenUpload(filename=filename, upload_id=upload_id, **fields))


def chunk(offset, data):
    return WriteStreamRequest(chunk=Chunk(offset=offset, crc32c=google_crc32c.value(data), data=data))


def chunks(content, start=0, size=256 * KIB):
    return [chunk(offset, content[offset : offset + size]) for offset in range(start, len(content), size)]


def finish(content):
    return WriteStreamRequest(finish=FinishUpload(size=len(content), crc32c=google_crc32c.value(content)))


def hides_the_status(error):
    """Whether grpcio has lost what the server said.

    Its asyncio API puts this in place of the status, sometimes and with any server, when a step is written to a call
    that has just ended (grpc/grpc 36066).
    """
    hidden = grpc.StatusCode.INTERNAL, "Internal error from Core"
    return error is not None and (error.code(), error.details()) == hidden


def channel(api, address, credentials=None, **how):
    """A channel of `grpc` or `grpc.aio`, encrypted if there are credentials for it."""
    if credentials is None:
        return api.insecure_channel(address, **how)
    return api.secure_channel(address, credentials, **how)


class BlockingClient:
    """grpcio's blocking API. Its calls have `metadata`."""

    def __init__(self, address, metadata=(), **how):
        self.channel = channel(grpc, address, **how)
        self.files = FileControllerStub(self.channel)
        self.how = {"metadata": tuple(metadata)}

    def unary(self, method, request):
        return getattr(self.files, method)(request, timeout=TIMEOUT, **self.how)

    def answers(self, method, request, timeout=TIMEOUT):
        """All answers to a request or to an iterable of them, and the failure, if any."""
        answers = []
        try:
            for answer in getattr(self.files, method)(request, timeout=timeout, **self.how):
                answers.append(answer)
        except grpc.RpcError as error:
            return answers, error
        return answers, None

    def reading(self, request):
        return BlockingCall(self.files.ReadStream(request, timeout=TIMEOUT, **self.how))

    def stream(self, *steps, timeout=TIMEOUT):
        return BlockingStream(self, steps, timeout)

    def close(self):
        self.channel.close()


class BlockingCall:
    """A call whose answers the test takes one by one."""

    def __init__(self, call):
        self.call = call

    def answer(self):
        """The next answer; None when the server has ended the call well."""
        return next(self.call, None)

    def cancel(self):
        self.call.cancel()


class BlockingStream(BlockingCall):
    """A WriteStream that the test drives step by step."""

    def __init__(self, client, steps, timeout):
        self.steps = queue.SimpleQueue()
        self.send(*steps)
        steps = iter(self.steps.get, None)
        super().__init__(client.files.WriteStream(steps, timeout=timeout, **client.how))

    def send(self, *steps):
        for step in steps:
            self.steps.put(step)

    def half_close(self):
        self.steps.put(None)

    def headers(self):
        return self.call.initial_metadata()


class AsyncioClient:
    """grpcio's asyncio API, on a loop that runs whenever the test waits for it. Its calls have `metadata`."""

    # One for all: grpcio may still call the loop of a client that is closed.
    loop = asyncio.new_event_loop()

    def __init__(self, address, metadata=(), **how):
        async def connected():
            return channel(grpc.aio, address, **how)

        self.channel = self.run(connected())
        self.files = FileControllerStub(self.channel)
        self.how = {"metadata": tuple(metadata)}

    def run(self, coroutine):
        return self.loop.run_until_complete(coroutine)

    def unary(self, method, request):
        async def awaited():
            return await getattr(self.files, method)(request, timeout=TIMEOUT, **self.how)

        return self.run(awaited())

    def answers(self, method, request, timeout=TIMEOUT):
        async def collected():
            answers = []
            try:
                async for answer in getattr(self.files, method)(request, timeout=timeout, **self.how):
                    answers.append(answer)
            except grpc.RpcError as error:
                return answers, error
            return answers, None

        return self.run(collected())

    def reading(self, request):
        return AsyncioCall(self, lambda: self.files.ReadStream(request, timeout=TIMEOUT, **self.how))

    def stream(self, *steps, timeout=TIMEOUT):
        return AsyncioStream(self, steps, timeout)

    def close(self):
        self.run(self.channel.close())


class AsyncioCall:
    """A call whose answers the test takes one by one."""

    def __init__(self, client, call):
        async def called():
            return call()

        self.run = client.run
        self.call = self.run(called())

    def answer(self):
        """The next answer; None when the server has ended the call well."""
        answer = self.run(self.call.read())
        return None if answer is grpc.aio.EOF else answer

    def cancel(self):
        self.call.cancel()


class AsyncioStream(AsyncioCall):
    """A WriteStream that the test drives step by step."""

    def __init__(self, client, steps, timeout):
        super().__init__(client, lambda: client.files.WriteStream(timeout=timeout, **client.how))
        self.send(*steps)

    def send(self, *steps):
        for step in steps:
            self.run(self.call.write(step))

    def half_close(self):
        self.run(self.call.done_writing())

    def headers(self):
        return self.run(self.call.initial_metadata())
