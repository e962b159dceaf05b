"""The greeter's streams and failures, through grpcio's blocking API."""

import queue
import threading

import grpc
import pytest
from error_details import error_info
from google.protobuf.duration_pb2 import Duration
from mux_pb2 import HelloRequest
from mux_pb2_grpc import GreeterStub

TIMEOUT = 10
HOUR = Duration(seconds=3600)


@pytest.fixture
def greeter(address):
    with grpc.insecure_channel(address) as channel:
        yield GreeterStub(channel)


def lots_of_replies(greeter, **request):
    return [reply.message for reply in greeter.LotsOfReplies(HelloRequest(**request), timeout=TIMEOUT)]


def lots_of_greetings(greeter, *names):
    requests = (HelloRequest(name=name) for name in names)
    return greeter.LotsOfGreetings(requests, timeout=TIMEOUT).message


def still_serves(greeter):
    return greeter.SayHello(HelloRequest(name="you"), timeout=TIMEOUT).message == "Hello, you!"


def test_lots_of_replies_greets_in_sixteen_languages_english_first(greeter):
    replies = lots_of_replies(greeter, name="Ada")
    assert replies[0] == "Hello, Ada!"
    assert len(replies) == len(set(replies)) == 16
    assert all("Ada" in reply for reply in replies)


def test_forty_replies_go_round_the_languages(greeter):
    once = lots_of_replies(greeter, name="Ada")
    assert lots_of_replies(greeter, name="Ada", replies=40) == (once * 3)[:40]


def test_lots_of_greetings_calls_out_three_names_and_counts_the_others(greeter):
    assert lots_of_greetings(greeter) == "Hello, nobody!"
    assert lots_of_greetings(greeter, "A") == "Hello, A!"
    assert lots_of_greetings(greeter, "A", "B") == "Hello, A and B!"
    assert lots_of_greetings(greeter, "A", "B", "C") == "Hello, A, B and C!"
    assert lots_of_greetings(greeter, "A", "B", "C", "D") == "Hello, A, B, C and 1 other!"
    assert lots_of_greetings(greeter, "A", "B", "C", *["D"] * 500) == "Hello, A, B, C and 500 others!"


def test_bidi_hello_answers_in_order(greeter):
    names = [f"name {number}" for number in range(1000)]
    replies = greeter.BidiHello((HelloRequest(name=name) for name in names), timeout=TIMEOUT)
    assert [reply.message for reply in replies] == [f"Hello, {name}!" for name in names]


def test_bidi_hello_accepts_all_names_before_the_first_reply_is_read(greeter):
    names = [f"name {number}" for number in range(10_000)]
    all_sent = threading.Event()

    def requests():
        for name in names:
            yield HelloRequest(name=name)
        all_sent.set()

    replies = greeter.BidiHello(requests(), timeout=TIMEOUT)
    assert all_sent.wait(TIMEOUT)
    assert [reply.message for reply in replies] == [f"Hello, {name}!" for name in names]


def test_bidi_hello_answers_each_name_before_the_next_is_sent(greeter):
    requests = queue.SimpleQueue()
    replies = greeter.BidiHello(iter(requests.get, None), timeout=TIMEOUT)
    for name in ["Ada", "", "Grace", "名前"]:
        requests.put(HelloRequest(name=name))
        assert next(replies).message == f"Hello, {name}!"
    requests.put(None)
    assert list(replies) == []
    assert replies.code() == grpc.StatusCode.OK


def test_lots_of_replies_can_be_cancelled(greeter):
    replies = greeter.LotsOfReplies(HelloRequest(name="Ada", interval=HOUR), timeout=TIMEOUT)
    assert next(replies).message == "Hello, Ada!"
    replies.cancel()
    with pytest.raises(grpc.RpcError):
        next(replies)
    assert replies.code() == grpc.StatusCode.CANCELLED
    assert still_serves(greeter)


def test_bidi_hello_can_be_cancelled(greeter):
    requests = queue.SimpleQueue()
    replies = greeter.BidiHello(iter(requests.get, None), timeout=TIMEOUT)
    requests.put(HelloRequest(name="Ada"))
    assert next(replies).message == "Hello, Ada!"
    replies.cancel()
    with pytest.raises(grpc.RpcError):
        next(replies)
    assert replies.code() == grpc.StatusCode.CANCELLED
    # Ends the thread that grpcio took the requests with.
    requests.put(None)
    assert still_serves(greeter)


def test_name_over_4096_bytes_ends_bidi_hello_early(greeter):
    requests = queue.SimpleQueue()
    replies = greeter.BidiHello(iter(requests.get, None), timeout=TIMEOUT)
    requests.put(HelloRequest(name="A" * 4096))
    assert next(replies).message == "Hello, " + "A" * 4096 + "!"
    requests.put(HelloRequest(name="A" * 4097))
    with pytest.raises(grpc.RpcError) as failed:
        next(replies)
    requests.put(None)
    assert failed.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert error_info(failed.value).reason == "NAME_TOO_LONG"
    assert error_info(failed.value).domain == "muxs"


def test_deadline_ends_lots_of_replies_after_timely_replies(greeter):
    replies = greeter.LotsOfReplies(HelloRequest(name="Ada", interval=HOUR), timeout=1)
    assert next(replies).message == "Hello, Ada!"
    with pytest.raises(grpc.RpcError) as failed:
        next(replies)
    assert failed.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
