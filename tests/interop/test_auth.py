"""Access tokens of a real authorization server, oidc-provider, shown by grpcio's blocking API, its asyncio API and
grpcurl."""

import base64
import json
import threading

import grpc
import pytest
from conftest import believing, ready
from error_details import assert_failure
from grpc import StatusCode
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from helloworld_pb2_grpc import GreeterStub as OtherGreeterStub
from issuer import ELSEWHERE, RESOURCE, Issuer, bearer, given, parts
from mux_pb2 import (
    AbortUploadRequest,
    Files,
    HelloRequest,
    Number,
    ReadStreamRequest,
    StatRequest,
    WriteStreamRequest,
)
from mux_pb2_grpc import FileControllerStub, GreeterStub
from test_reflection import SERVICES, needs_grpcurl
from test_streams import acknowledged, assert_absent, assert_has, finish_from, progress_of
from test_tls import assert_greeted, assert_moves_a_file, grpcurl
from uploads import KIB, MIB, chunks, finish, hides_the_status, opening
from waiting import until

TIMEOUT = 10

# A method of each kind, and a request to it.
METHODS = {
    "greeter": [
        (GreeterStub, "SayHello", HelloRequest(name="you")),
        (GreeterStub, "Square", Number(value=2)),
        (GreeterStub, "LotsOfReplies", HelloRequest(name="you", replies=2)),
        (GreeterStub, "LotsOfGreetings", [HelloRequest(name="you")]),
        (GreeterStub, "BidiHello", [HelloRequest(name="you")]),
        (OtherGreeterStub, "SayHello", HelloRequest(name="you")),
    ],
    "files.read": [
        (FileControllerStub, "Read", Files(filename="absent")),
        (FileControllerStub, "ReadStream", ReadStreamRequest(filename="absent")),
        (FileControllerStub, "Stat", StatRequest(filename="absent")),
    ],
    "files.write": [
        (FileControllerStub, "Write", Files(filename="")),
        (FileControllerStub, "WriteStream", [WriteStreamRequest()]),
        (FileControllerStub, "AbortUpload", AbortUploadRequest(filename="absent", upload_id="absent")),
    ],
}
ALL_METHODS = [(scope, *method) for scope, methods in METHODS.items() for method in methods]
IDS = [f"{stub.__name__}.{method}" for _, stub, method, _ in ALL_METHODS]


@pytest.fixture
def files(connect, auth_server, issuer):
    """Connects a client with a new token."""

    def files(client="writer", server=auth_server, **asked):
        return connect(server.address, metadata=bearer(issuer.token(client, **asked)))

    return files


@pytest.fixture
def channel(auth_server):
    with grpc.insecure_channel(auth_server.address) as channel:
        yield channel


def failure(channel, stub, method, request, metadata):
    """Returns the error of a call, or None."""
    request = iter(request) if isinstance(request, list) else request
    try:
        answer = getattr(stub(channel), method)(request, timeout=TIMEOUT, metadata=metadata)
        # The answer of a streaming method is a call.
        if isinstance(answer, grpc.Call):
            list(answer)
    except grpc.RpcError as error:
        return error
    return None


def refusal(client, method, request):
    """Returns the error of a stream without answers; `request` returns the messages to send."""

    def try_call():
        answers, error = client.answers(method, request())
        assert answers == []
        assert error is not None
        return None if hides_the_status(error) else error

    return until(try_call, "the client lets the refusal through")


def greeting(channel, token):
    return failure(channel, GreeterStub, "SayHello", HelloRequest(name="you"), bearer(token))


def challenge(error):
    return dict(error.trailing_metadata())["www-authenticate"]


def assert_unauthenticated(error):
    assert_failure(error, StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
    assert error.details() == "the method requires a valid access token"
    assert challenge(error) == 'Bearer error="invalid_token"'


def assert_insufficient(error, scope):
    assert_failure(error, StatusCode.PERMISSION_DENIED, "INSUFFICIENT_SCOPE", scope=scope)
    assert challenge(error) == f'Bearer error="insufficient_scope", scope="{scope}"'


@pytest.mark.parametrize(("client", "algorithm"), [("writer", "RS256"), ("elliptic", "ES256")])
def test_tokens_conform_to_rfc_9068(issuer, client, algorithm):
    header, claims = parts(issuer.token(client))
    assert (header["typ"], header["alg"]) == ("at+jwt", algorithm)
    assert (claims["iss"], claims["aud"], claims["sub"]) == (issuer.url, RESOURCE, client)


@pytest.mark.parametrize("client", ["writer", "elliptic"])
def test_token_in_metadata_is_accepted(files, filename, client):
    assert_moves_a_file(files(client), filename)


def test_token_as_credentials_is_accepted_over_tls(connect, auth_tls_server, issuer, pki, filename):
    token = grpc.access_token_call_credentials(issuer.token())
    credentials = grpc.composite_channel_credentials(pki.trust(), token)
    client = connect(auth_tls_server.address, credentials=credentials)
    assert_greeted(client)
    assert_moves_a_file(client, filename)


def test_credentials_plugin_is_called_for_each_call(auth_tls_server, issuer, pki):
    class Fetching(grpc.AuthMetadataPlugin):
        asked = 0

        def __call__(self, context, callback):
            self.asked += 1
            callback(bearer(issuer.token()), None)

    fetching = Fetching()
    token = grpc.metadata_call_credentials(fetching)
    credentials = grpc.composite_channel_credentials(pki.trust(), token)
    with grpc.secure_channel(auth_tls_server.address, credentials) as channel:
        for _ in range(3):
            assert GreeterStub(channel).SayHello(HelloRequest(name="you"), timeout=TIMEOUT).message == "Hello, you!"
    assert fetching.asked == 3


@pytest.mark.parametrize(("scope", "stub", "method", "request_"), ALL_METHODS, ids=IDS)
def test_each_method_requires_a_token(channel, scope, stub, method, request_):
    assert_unauthenticated(failure(channel, stub, method, request_, []))


@pytest.mark.parametrize(("scope", "stub", "method", "request_"), ALL_METHODS, ids=IDS)
def test_each_method_requires_its_scope_only(channel, issuer, scope, stub, method, request_):
    others = " ".join(other for other in METHODS if other != scope)
    assert_insufficient(failure(channel, stub, method, request_, bearer(issuer.token(scope=others))), scope)
    error = failure(channel, stub, method, request_, bearer(issuer.token(scope=scope)))
    # The scope is checked before the message.
    assert error is None or error.code() in [StatusCode.INVALID_ARGUMENT, StatusCode.NOT_FOUND], error


def test_refused_streams_have_a_reason(connect, auth_server, issuer, filename):
    reader = connect(auth_server.address, metadata=bearer(issuer.token("reader", scope="files.read")))
    stranger = connect(auth_server.address)
    flood = [opening(filename, "id"), *chunks(bytes(4 * MIB))]
    for client, assert_refused in [
        (reader, lambda error: assert_insufficient(error, "files.write")),
        (stranger, assert_unauthenticated),
    ]:
        assert_refused(refusal(client, "WriteStream", lambda: iter(flood)))
    assert_absent(reader, filename)


def test_client_cannot_get_foreign_scopes(files, filename):
    client = files("reader", scope="files.read")
    assert_absent(client, filename)
    steps = [opening(filename, "id"), finish(b"")]
    assert_insufficient(refusal(client, "WriteStream", lambda: iter(steps)), "files.write")


def encoded(part):
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()


def test_forged_tokens_are_refused(channel, issuer, tmp_path):
    good = issuer.token()
    header, claims, signature = good.split(".")
    own_header, own_claims = parts(good)
    other = Issuer(tmp_path)
    try:
        other.start()
        of_another = other.token()
    finally:
        other.kill()
    bad = {
        "nothing": "",
        "another issuer": of_another,
        "another resource": issuer.token(resource=ELSEWHERE),
        "the signature of another": ".".join([header, claims, of_another.split(".")[2]]),
        "no signature": f"{header}.{claims}.",
        "no algorithm": f"{encoded(own_header | {'alg': 'none'})}.{claims}.",
        "claims of its own": f"{header}.{encoded(own_claims | {'sub': 'root'})}.{signature}",
        "a half": good[: len(good) // 2],
        "twice": f"{good}.{good}",
        "a comma": f"{good}, Bearer {good}",
    }
    for what, token in bad.items():
        error = greeting(channel, token)
        assert error is not None, what
        assert_unauthenticated(error)
    for metadata in [
        [("authorization", f"Basic {good}")],
        [("authorization", good)],
        [*bearer(good), *bearer(good)],
        [("authorization-bin", f"Bearer {good}".encode())],
    ]:
        assert_unauthenticated(failure(channel, GreeterStub, "SayHello", HelloRequest(), metadata))
    assert greeting(channel, good) is None
    # The scheme is case-insensitive.
    metadata = [("authorization", f"bEARER {good}")]
    assert failure(channel, GreeterStub, "SayHello", HelloRequest(), metadata) is None


def test_health_is_public(channel):
    answer = HealthStub(channel).Check(HealthCheckRequest(service="muxs.FileController"), timeout=TIMEOUT)
    assert answer.status == HealthCheckResponse.SERVING


@needs_grpcurl
def test_grpcurl_sends_a_token(auth_server, issuer):
    token = ["-H", f"authorization: Bearer {issuer.token()}"]
    call = [auth_server.address, "muxs.Greeter/SayHello"]
    run = grpcurl("-plaintext", *token, "-d", '{"name": "you"}', *call)
    assert (run.returncode, json.loads(run.stdout)) == (0, {"message": "Hello, you!"}), run.stderr
    run = grpcurl("-plaintext", "-d", '{"name": "you"}', *call)
    assert run.returncode != 0
    assert "Unauthenticated" in run.stderr
    run = grpcurl("-plaintext", auth_server.address, "list")
    assert run.stdout.splitlines() == SERVICES, run.stderr


@needs_grpcurl
def test_reflection_can_require_a_token(issuer):
    with ready(believing(issuer, "--reflection", "authenticated"), issuer) as server:
        run = grpcurl("-plaintext", server.address, "list")
        assert run.returncode != 0
        token = ["-H", f"authorization: Bearer {issuer.token()}"]
        run = grpcurl("-plaintext", *token, server.address, "list")
        assert run.stdout.splitlines() == SERVICES, run.stderr
        server.stop()


def test_upload_belongs_to_its_subject(files, filename):
    content = bytes(range(256)) * (8 * KIB)
    writer, other = files("writer"), files("other")
    stream = writer.stream(opening(filename, "mine"), *chunks(content)[:6])
    begun = acknowledged(stream)
    # Another subject has its own upload of the same filename and ID.
    others = other.stream(opening(filename, "mine"))
    assert progress_of(others.answer()).persisted_size == 0
    other.unary("AbortUpload", AbortUploadRequest(filename=filename, upload_id="mine"))
    others.cancel()
    stream.cancel()
    # Another token of the same subject.
    stream = files("writer").stream(opening(filename, "mine"))
    so_far = progress_of(stream.answer())
    assert so_far.persisted_size >= begun.persisted_size
    finish_from(stream, so_far, content)
    assert_has(other, filename, content)


def test_folder_claim_restricts_access(files, filename):
    tenant, writer = files("tenant"), files("writer")
    inside = f"tenants/a/{filename}"
    assert_moves_a_file(tenant, inside)
    for outside in [filename, f"tenants/ab/{filename}", f"tenants/{filename}", "tenants/a"]:
        with pytest.raises(grpc.RpcError) as failed:
            tenant.unary("Stat", StatRequest(filename=outside))
        assert_failure(failed.value, StatusCode.PERMISSION_DENIED, "OUTSIDE_FOLDER")
        for method, request in [
            ("ReadStream", lambda: ReadStreamRequest(filename=outside)),
            ("WriteStream", lambda: iter([opening(outside, "id")])),
        ]:
            error = refusal(tenant, method, request)
            assert_failure(error, StatusCode.PERMISSION_DENIED, "OUTSIDE_FOLDER")
    assert_moves_a_file(writer, filename)
    assert writer.unary("Stat", StatRequest(filename=inside)).size == 3 * MIB


def test_invalid_folder_claim_is_refused(channel, issuer):
    assert_unauthenticated(greeting(channel, issuer.token("escaped")))


def test_upload_ends_at_token_expiry_and_resumes_with_a_new_token(files, filename):
    content = bytes(range(256)) * (16 * KIB)
    client = files("brief")
    stream = client.stream(opening(filename, "long"), *chunks(content)[:8])
    begun = acknowledged(stream)
    with pytest.raises(grpc.RpcError) as failed:
        while stream.answer() is not None:
            pass
    assert_unauthenticated(failed.value)
    # The token has expired for new calls as well.
    with pytest.raises(grpc.RpcError) as failed:
        client.unary("Stat", StatRequest(filename=filename))
    assert_unauthenticated(failed.value)
    stream = files("brief").stream(opening(filename, "long"))
    so_far = progress_of(stream.answer())
    assert so_far.persisted_size >= begun.persisted_size > 0
    finish_from(stream, so_far, content)
    assert_has(files(), filename, content)


class Caller(threading.Thread):
    """Makes calls in a loop, each with a new token."""

    def __init__(self, server, issuer):
        super().__init__(daemon=True)
        self.server, self.issuer = server, issuer
        self.over = threading.Event()
        self.failures = []
        # The number of successful calls by the key that signed the token.
        self.went_well = {}
        self.start()

    def run(self):
        with grpc.insecure_channel(self.server.address) as channel:
            while not self.over.is_set():
                try:
                    token = self.issuer.token()
                    error = greeting(channel, token)
                except OSError as failure:
                    error = failure
                if error is not None:
                    self.failures.append(error)
                    continue
                key = parts(token)[0]["kid"]
                self.went_well[key] = self.went_well.get(key, 0) + 1

    def stop(self):
        self.over.set()
        self.join()


def test_key_rotation_does_not_interrupt_calls(own_issuer):
    with ready(believing(own_issuer, "--auth-refresh", "1s"), own_issuer) as server:
        callers = [Caller(server, own_issuer) for _ in range(4)]
        try:
            with grpc.insecure_channel(server.address) as channel:
                old = own_issuer.token()
                own_issuer.add_key()
                new = parts(own_issuer.token())[0]["kid"]
                until(lambda: all(caller.went_well.get(new, 0) > 5 for caller in callers), "calls by the new key")
                assert greeting(channel, old) is None
                own_issuer.drop_keys()
                assert_unauthenticated(until(lambda: greeting(channel, old), "the old key is forgotten"))
        finally:
            for caller in callers:
                caller.stop()
        assert [caller.failures for caller in callers] == [[], [], [], []]
        server.stop()


def assert_no_keys(error):
    assert_failure(error, StatusCode.UNAVAILABLE, "AUTH_UNAVAILABLE")


def test_cached_keys_are_used_until_they_expire(own_issuer):
    flags = ["--auth-refresh", "1s", "--auth-keys-max-age", "3s"]
    with ready(believing(own_issuer, *flags), own_issuer) as server, grpc.insecure_channel(server.address) as channel:
        token = own_issuer.token()
        # Had the issuer been gone at once, its keys could be nearly too old by now.
        answered = []
        own_issuer.kill()
        error = until(lambda: answered.append(greeting(channel, token)) or answered[-1], "the keys are too old")
        assert len(answered) > 5
        assert_no_keys(error)
        # The answer is the same for any invalid token.
        assert_no_keys(greeting(channel, "x.y.z"))
        own_issuer.start()
        until(lambda: greeting(channel, token) is None, "the keys are known again")
        server.stop()


def test_server_starts_before_its_issuer(own_issuer):
    token = own_issuer.token()
    own_issuer.kill()
    with believing(own_issuer) as server, grpc.insecure_channel(server.address) as channel:
        error = until(lambda: greeting(channel, token), "a call fails")
        assert_no_keys(error)
        own_issuer.start()
        until(lambda: greeting(channel, token) is None, "the keys are known")
        server.stop()


def test_log_search_knows_all_tokens(issuer):
    """The fixture `log` searches the logs for all of them."""
    assert issuer.token() in given()
