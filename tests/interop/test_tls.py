"""Encrypted connections, Unix domain sockets and compressed messages: grpcio's blocking API and its asyncio API, and
grpcurl."""

import random
import subprocess

import grpc
import pytest
from mux_pb2 import HelloRequest, StatRequest
from mux_pb2_grpc import GreeterStub
from test_reflection import SERVICES, needs_grpcurl
from test_streams import assert_has, upload
from uploads import MIB, AsyncioClient

TIMEOUT = 10

# Too long for anybody to send it as it is who could compress it.
NAMES = [letter * 1000 for letter in "ABCD"]
ALL = f"Hello, {NAMES[0]}, {NAMES[1]}, {NAMES[2]} and 1 other!"


def requests():
    return (HelloRequest(name=name) for name in NAMES)


def greet_blocking(channel):
    greeter = GreeterStub(channel)
    assert greeter.SayHello(HelloRequest(name="you"), timeout=TIMEOUT).message == "Hello, you!"
    replies = greeter.LotsOfReplies(HelloRequest(name=NAMES[0], replies=40), timeout=TIMEOUT)
    assert len([reply for reply in replies if NAMES[0] in reply.message]) == 40
    assert greeter.LotsOfGreetings(requests(), timeout=TIMEOUT).message == ALL
    replies = greeter.BidiHello(requests(), timeout=TIMEOUT)
    assert [reply.message for reply in replies] == [f"Hello, {name}!" for name in NAMES]


async def greet_asyncio(channel):
    greeter = GreeterStub(channel)
    assert (await greeter.SayHello(HelloRequest(name="you"), timeout=TIMEOUT)).message == "Hello, you!"
    replies = greeter.LotsOfReplies(HelloRequest(name=NAMES[0], replies=40), timeout=TIMEOUT)
    assert len([reply async for reply in replies if NAMES[0] in reply.message]) == 40
    assert (await greeter.LotsOfGreetings(requests(), timeout=TIMEOUT)).message == ALL
    replies = greeter.BidiHello(requests(), timeout=TIMEOUT)
    assert [reply.message async for reply in replies] == [f"Hello, {name}!" for name in NAMES]


def assert_greeted(client):
    if isinstance(client, AsyncioClient):
        client.run(greet_asyncio(client.channel))
    else:
        greet_blocking(client.channel)


def assert_moves_a_file(client, filename):
    content = random.Random(filename).randbytes(3 * MIB)
    upload(client, filename, content, size=len(content))
    assert_has(client, filename, content)


def assert_unavailable(client):
    with pytest.raises(grpc.RpcError) as failed:
        client.unary("Stat", StatRequest(filename="a"))
    assert failed.value.code() == grpc.StatusCode.UNAVAILABLE


def test_all_calls_work_over_tls(connect, tls_server, pki, filename):
    client = connect(tls_server.address, credentials=pki.trust())
    assert_greeted(client)
    assert_moves_a_file(client, filename)


def test_all_calls_work_over_mutual_tls(connect, mtls_server, pki, filename):
    client = connect(mtls_server.address, credentials=pki.trust_and_own())
    assert_greeted(client)
    assert_moves_a_file(client, filename)


def test_client_without_a_certificate_is_refused_by_mutual_tls(connect, mtls_server, pki):
    assert_unavailable(connect(mtls_server.address, credentials=pki.trust()))
    assert_greeted(connect(mtls_server.address, credentials=pki.trust_and_own()))


def test_client_with_another_authority_rejects_the_server(connect, tls_server, pki):
    credentials = grpc.ssl_channel_credentials(pki.stranger.read_bytes())
    assert_unavailable(connect(tls_server.address, credentials=credentials))
    assert_greeted(connect(tls_server.address, credentials=pki.trust()))


def test_tls_and_plaintext_do_not_mix(connect, tls_server, address, pki):
    assert_unavailable(connect(tls_server.address))
    assert_unavailable(connect(address, credentials=pki.trust()))


def test_all_calls_work_over_a_unix_socket(connect, socket_server, filename):
    # By itself grpcio makes an authority of the path, with a percent sign, which HTTP does not allow.
    client = connect(socket_server.socket, options=[("grpc.default_authority", "localhost")])
    assert_greeted(client)
    assert_moves_a_file(client, filename)


def test_greeter_accepts_gzip_and_the_file_service_refuses_it(connect, address):
    client = connect(address, compression=grpc.Compression.Gzip)
    assert_greeted(client)
    with pytest.raises(grpc.RpcError) as failed:
        # Long enough to be compressed.
        client.unary("Stat", StatRequest(filename="a" * 200))
    assert failed.value.code() == grpc.StatusCode.UNIMPLEMENTED


def grpcurl(*arguments):
    # It goes on trying where it is refused.
    command = ["grpcurl", "-connect-timeout", "2", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)


def assert_lists(run):
    assert (run.returncode, run.stdout.splitlines()) == (0, SERVICES), run.stderr


@needs_grpcurl
def test_grpcurl_over_tls_needs_the_authority(tls_server, pki):
    assert_lists(grpcurl("-cacert", pki.ca, tls_server.address, "list"))
    for flags in [[], ["-cacert", pki.stranger], ["-plaintext"]]:
        run = grpcurl(*flags, tls_server.address, "list")
        assert run.returncode != 0, flags


@needs_grpcurl
def test_grpcurl_over_tls_sends_a_certificate(mtls_server, pki):
    own = ["-cert", pki.client_cert, "-key", pki.client_key]
    assert_lists(grpcurl("-cacert", pki.ca, *own, mtls_server.address, "list"))
    assert grpcurl("-cacert", pki.ca, mtls_server.address, "list").returncode != 0


@needs_grpcurl
def test_grpcurl_over_a_unix_socket(socket_server):
    path = socket_server.socket.removeprefix("unix:")
    assert_lists(grpcurl("-plaintext", "-authority", "localhost", "-unix", path, "list"))
