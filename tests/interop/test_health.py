"""The health service, as load balancers and orchestrators call it."""

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

TIMEOUT = 10


@pytest.fixture
def health(address):
    with grpc.insecure_channel(address) as channel:
        yield HealthStub(channel)


@pytest.mark.parametrize("service", ["", "muxs.Greeter", "muxs.FileController", "helloworld.Greeter"])
def test_server_and_each_of_its_services_are_serving(health, service):
    answer = health.Check(HealthCheckRequest(service=service), timeout=TIMEOUT)
    assert answer.status == HealthCheckResponse.SERVING


def test_health_of_an_unknown_service_is_not_found(health):
    with pytest.raises(grpc.RpcError) as failed:
        health.Check(HealthCheckRequest(service="muxs.Unknown"), timeout=TIMEOUT)
    assert failed.value.code() == grpc.StatusCode.NOT_FOUND


def test_health_watch_answers_at_once(health):
    answers = health.Watch(HealthCheckRequest(service="muxs.Greeter"), timeout=TIMEOUT)
    assert next(answers).status == HealthCheckResponse.SERVING
    answers.cancel()
