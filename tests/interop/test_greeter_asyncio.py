"""The greeter's streams and failures, through grpcio's asyncio API."""

import asyncio

import grpc
import pytest
from error_details import error_info
from google.protobuf.duration_pb2 import Duration
from mux_pb2 import HelloRequest
from mux_pb2_grpc import GreeterStub

TIMEOUT = 10
HOUR = Duration(seconds=3600)


@pytest.fixture
async def greeter(address):
    async with grpc.aio.insecure_channel(address) as channel:
        yield GreeterStub(channel)


async def lots_of_replies(greeter, **request):
    return [reply.message async for reply in greeter.LotsOfReplies(HelloRequest(**request), timeout=TIMEOUT)]


async def lots_of_greetings(greeter, *names):
    requests = (HelloRequest(name=name) for name in names)
    return (await greeter.LotsOfGreetings(requests, timeout=TIMEOUT)).message


async def still_serves(greeter):
    return (await greeter.SayHello(HelloRequest(name="you"), timeout=TIMEOUT)).message == "Hello, you!"


async def test_lots_of_replies_greets_in_sixteen_languages_english_first(greeter):
    replies = await lots_of_replies(greeter, name="Ada")
    assert replies[0] == "Hello, Ada!"
    assert len(replies) == len(set(replies)) == 16
    assert all("Ada" in reply for reply in replies)


async def test_forty_replies_go_round_the_languages(greeter):
    once = await lots_of_replies(greeter, name="Ada")
    assert await lots_of_replies(greeter, name="Ada", replies=40) == (once * 3)[:40]


async def test_lots_of_greetings_calls_out_three_names_and_counts_the_others(greeter):
    assert await lots_of_greetings(greeter) == "Hello, nobody!"
    assert await lots_of_greetings(greeter, "A") == "Hello, A!"
    assert await lots_of_greetings(greeter, "A", "B") == "Hello, A and B!"
    assert await lots_of_greetings(greeter, "A", "B", "C") == "Hello, A, B and C!"
    assert await lots_of_greetings(greeter, "A", "B", "C", "D") == "Hello, A, B, C and 1 other!"
    assert await lots_of_greetings(greeter, "A", "B", "C", *["D"] * 500) == "Hello, A, B, C and 500 others!"


async def test_bidi_hello_answers_in_order(greeter):
    names = [f"name {number}" for number in range(1000)]
    replies = greeter.BidiHello((HelloRequest(name=name) for name in names), timeout=TIMEOUT)
    assert [reply.message async for reply in replies] == [f"Hello, {name}!" for name in names]


async def test_bidi_hello_accepts_all_names_before_the_first_reply_is_read(greeter):
    names = [f"name {number}" for number in range(10_000)]
    call = greeter.BidiHello(timeout=TIMEOUT)
    for name in names:
        await call.write(HelloRequest(name=name))
    await call.done_writing()
    assert [reply.message async for reply in call] == [f"Hello, {name}!" for name in names]


async def test_bidi_hello_answers_each_name_before_the_next_is_sent(greeter):
    call = greeter.BidiHello(timeout=TIMEOUT)
    for name in ["Ada", "", "Grace", "名前"]:
        await call.write(HelloRequest(name=name))
        assert (await call.read()).message == f"Hello, {name}!"
    await call.done_writing()
    assert await call.read() == grpc.aio.EOF
    assert await call.code() == grpc.StatusCode.OK


async def test_lots_of_replies_can_be_cancelled(greeter):
    call = greeter.LotsOfReplies(HelloRequest(name="Ada", interval=HOUR), timeout=TIMEOUT)
    assert (await call.read()).message == "Hello, Ada!"
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call.read()
    assert await call.code() == grpc.StatusCode.CANCELLED
    assert await still_serves(greeter)


async def test_bidi_hello_can_be_cancelled(greeter):
    call = greeter.BidiHello(timeout=TIMEOUT)
    await call.write(HelloRequest(name="Ada"))
    assert (await call.read()).message == "Hello, Ada!"
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call.read()
    assert await call.code() == grpc.StatusCode.CANCELLED
    assert await still_serves(greeter)


async def test_name_over_4096_bytes_ends_bidi_hello_early(greeter):
    call = greeter.BidiHello(timeout=TIMEOUT)
    await call.write(HelloRequest(name="A" * 4096))
    assert (await call.read()).message == "Hello, " + "A" * 4096 + "!"
    await call.write(HelloRequest(name="A" * 4097))
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call.read()
    assert failed.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert error_info(failed.value).reason == "NAME_TOO_LONG"
    assert error_info(failed.value).domain == "muxs"


async def test_deadline_ends_lots_of_replies_after_timely_replies(greeter):
    call = greeter.LotsOfReplies(HelloRequest(name="Ada", interval=HOUR), timeout=1)
    assert (await call.read()).message == "Hello, Ada!"
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call.read()
    assert failed.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
