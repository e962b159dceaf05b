"""What the server says of itself: to grpcio-reflection and grpcurl 1.8.6, which both ask for v1alpha, and in v1."""

import os
import shutil
import subprocess

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse

TIMEOUT = 10

SERVICES = [
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
    "helloworld.Greeter",
    "muxs.FileController",
    "muxs.Greeter",
]

needs_grpcurl = pytest.mark.skipif(
    shutil.which("grpcurl") is None and os.environ.get("MUXS_INTEROP_REQUIRED") != "1",
    reason="pip has grpcurl only for Linux on x86_64, and there is none on the PATH",
)


@pytest.fixture
def channel(address):
    with grpc.insecure_channel(address) as channel:
        yield channel


def grpcurl(*arguments):
    command = ["grpcurl", "-plaintext", *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=TIMEOUT, check=True).stdout


def test_reflection_v1alpha_lists_all_services(channel):
    assert sorted(ProtoReflectionDescriptorDatabase(channel).get_services()) == SERVICES


def test_reflection_v1_lists_all_services(channel):
    # Its messages are those of v1alpha; only the name of the service differs.
    reflect = channel.stream_stream(
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        request_serializer=ServerReflectionRequest.SerializeToString,
        response_deserializer=ServerReflectionResponse.FromString,
    )
    [answer] = reflect(iter([ServerReflectionRequest(list_services="")]), timeout=TIMEOUT)
    assert sorted(service.name for service in answer.list_services_response.service) == SERVICES


def test_client_without_the_protos_finds_the_greeter_by_its_name(channel):
    pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
    methods = pool.FindServiceByName("muxs.Greeter").methods
    assert [method.name for method in methods] == [
        "SayHello",
        "Square",
        "LotsOfReplies",
        "LotsOfGreetings",
        "BidiHello",
    ]
    # Its type is in another file, which the client has to ask for too.
    interval = pool.FindMessageTypeByName("muxs.HelloRequest").fields_by_name["interval"]
    assert interval.message_type.full_name == "google.protobuf.Duration"


@needs_grpcurl
def test_grpcurl_lists_all_services(address):
    assert grpcurl(address, "list").splitlines() == SERVICES


@needs_grpcurl
def test_grpcurl_describes_the_greeter(address):
    description = grpcurl(address, "describe", "muxs.Greeter")
    assert "rpc SayHello ( .muxs.HelloRequest ) returns ( .muxs.HelloReply );" in description
    assert "rpc BidiHello ( stream .muxs.HelloRequest ) returns ( stream .muxs.HelloReply );" in description


@needs_grpcurl
def test_grpcurl_calls_the_greeter_through_reflection(address):
    answer = grpcurl("-d", '{"name":"you"}', address, "muxs.Greeter/SayHello")
    assert '"message": "Hello, you!"' in answer


@needs_grpcurl
def test_grpcurl_prints_the_reason_of_a_failure(address):
    command = ["grpcurl", "-plaintext", "-d", '{"filename":"../a"}', address, "muxs.FileController/Stat"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
    assert run.returncode != 0
    assert '"reason":"FILENAME_INVALID"' in run.stderr
    assert '"field":"filename"' in run.stderr
