"""The servers that the tests call: one for the whole run, on a free port, with an empty root; and others on demand."""

import contextlib
import os
import re
import select
import signal
import subprocess
import tempfile
from pathlib import Path

import grpc
import pytest
import trustme
from issuer import RESOURCE, Issuer, bearer, given
from mux_pb2 import StatRequest
from uploads import AsyncioClient, BlockingClient
from waiting import until

TARGET = Path(__file__).parents[2] / "target"
LOGS = TARGET / "interop" / "logs"
LOG = LOGS / "server.log"

# A terminated run stops its server, as it does on Ctrl-C.
signal.signal(signal.SIGTERM, signal.default_int_handler)


class Server:
    """A server program on its own root, which can be killed and restarted."""

    def __init__(self, root, *flags, log=LOG, **env):
        self.root = Path(root)
        self.flags = flags
        self.log = log
        self.env = os.environ | env
        # A free port, which is kept for a restart.
        self.address = "127.0.0.1:0"
        self.start()

    def start(self):
        command = [TARGET / "debug" / "server", "--listen", self.address, "--root", self.root, *self.flags]
        with open(self.log, "a") as log:
            out = {"stdout": subprocess.PIPE, "stderr": log, "text": True}
            self.process = subprocess.Popen(command, env=self.env, **out)
        ready, _, _ = select.select([self.process.stdout], [], [], 10)
        line = self.process.stdout.readline() if ready else "nothing for 10 s"
        root = re.escape(str(self.root))
        scheme = "https" if "--tls-cert" in self.flags else "http"
        announcement = re.fullmatch(rf"muxs listening on {scheme}://(127\.0\.0\.1:\d+), serving {root}\n", line)
        if not announcement:
            self.kill()
        assert announcement, f"the server said {line!r}; its log: {self.log.read_text()}"
        self.address = announcement[1]

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        # Calls under way would get 30 s. So this also shows that the server has ended every cancelled call.
        assert self.process.wait(timeout=10) == 0, self.log.read_text()

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


@contextlib.contextmanager
def served(*flags, **how):
    """A server with a root of its own; `how` is its `log`, and variables of its environment."""
    with tempfile.TemporaryDirectory(dir=TARGET / "interop", prefix="root-") as root:
        server = Server(root, *flags, **how)
        try:
            yield server
        finally:
            server.kill()


@pytest.fixture(scope="session", autouse=True)
def log():
    LOGS.mkdir(exist_ok=True)
    for file in LOGS.iterdir():
        file.unlink()
    yield
    for file in LOGS.iterdir():
        text = file.read_text(errors="replace")
        assert "panicked" not in text, file
        # A part of a token must not be logged either. The token is not printed, because this output is logged too.
        assert sum(token.partition(".")[2][:64] in text for token in given()) == 0, file


@pytest.fixture(scope="session")
def shared_server(log):
    with served() as server:
        yield server
        server.stop()


@pytest.fixture(scope="session")
def address(shared_server):
    """HOST:PORT of the server."""
    return shared_server.address


@pytest.fixture(scope="session")
def limited_server(log):
    """A server that takes no large files."""
    with served("--max-upload-bytes", "192KiB") as server:
        yield server
        server.stop()


@pytest.fixture(scope="session")
def read_only_server(log):
    with served("--read-only") as server:
        yield server
        server.stop()


class Pki:
    """Certificates of a server and a client, the authority that issued both, and another authority."""

    def __init__(self, folder):
        authority = trustme.CA()
        self.ca = self.write(folder / "ca.pem", authority.cert_pem)
        self.stranger = self.write(folder / "stranger.pem", trustme.CA().cert_pem)
        server = authority.issue_cert("localhost", "127.0.0.1")
        self.cert = self.write(folder / "cert.pem", *server.cert_chain_pems)
        self.key = self.write(folder / "key.pem", server.private_key_pem)
        client = authority.issue_cert("client@muxs.example")
        self.client_cert = self.write(folder / "client.pem", *client.cert_chain_pems)
        self.client_key = self.write(folder / "client-key.pem", client.private_key_pem)
        self.server_flags = ["--tls-cert", str(self.cert), "--tls-key", str(self.key)]

    @staticmethod
    def write(path, *pems):
        path.write_bytes(b"".join(pem.bytes() for pem in pems))
        return path

    def trust(self):
        return grpc.ssl_channel_credentials(self.ca.read_bytes())

    def trust_and_own(self):
        files = self.ca, self.client_key, self.client_cert
        return grpc.ssl_channel_credentials(*(file.read_bytes() for file in files))


@pytest.fixture(scope="session")
def pki(tmp_path_factory):
    return Pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="session")
def tls_server(log, pki):
    with served(*pki.server_flags) as server:
        yield server
        server.stop()


@pytest.fixture(scope="session")
def mtls_server(log, pki):
    """A server that requires client certificates."""
    with served(*pki.server_flags, "--tls-client-ca", str(pki.ca)) as server:
        yield server
        server.stop()


@pytest.fixture(scope="session")
def socket_server(log):
    """A server that also listens on a Unix domain socket."""
    # Not below target: the path of a socket is at most 107 bytes long.
    with tempfile.TemporaryDirectory(prefix="muxs-") as folder:
        socket = f"unix:{folder}/socket"
        with served("--listen", socket) as server:
            server.socket = socket
            yield server
            server.stop()


@pytest.fixture(scope="session")
def issuer(tmp_path_factory):
    """An authorization server for all tests, with constant keys."""
    yield from started(tmp_path_factory.mktemp("issuer"))


@pytest.fixture
def own_issuer(tmp_path):
    """An authorization server for one test, which may kill it."""
    yield from started(tmp_path)


def started(folder):
    if "NODE_PATH" not in os.environ:
        # `run` has said so.
        pytest.skip("there is no Node.js")
    issuer = Issuer(folder)
    try:
        issuer.start()
        yield issuer
    finally:
        issuer.kill()


def believing(issuer, *flags, **how):
    """A server that requires tokens of an issuer, and logs as much as possible."""
    auth = ["--auth-issuer", issuer.url, "--auth-audience", RESOURCE]
    return served(*auth, *flags, **{"RUST_LOG": "debug"} | how)


@contextlib.contextmanager
def ready(served, issuer, **how):
    """A server that has fetched the keys of its issuer; `how` to connect to it."""
    with served as server:
        client = BlockingClient(server.address, metadata=bearer(issuer.token()), **how)
        until(lambda: knows_the_keys(client), "the keys are known")
        client.close()
        yield server


def knows_the_keys(client):
    try:
        client.unary("Stat", StatRequest(filename="absent"))
    except grpc.RpcError as error:
        return error.code() == grpc.StatusCode.NOT_FOUND
    return True


@pytest.fixture(scope="session")
def auth_server(log, issuer):
    with ready(believing(issuer, "--auth-folder-claim", "folder"), issuer) as server:
        yield server
        server.stop()


@pytest.fixture(scope="session")
def auth_tls_server(log, issuer, pki):
    with ready(believing(issuer, *pki.server_flags), issuer, credentials=pki.trust()) as server:
        yield server
        server.stop()


@pytest.fixture
def own_server(log):
    """A server for one test, which may kill it."""
    with served() as server:
        yield server


@pytest.fixture(params=[BlockingClient, AsyncioClient], ids=["blocking", "asyncio"])
def connect(request, log):
    """Connects a client to the server at an address."""
    clients = []

    def connect(address, **how):
        clients.append(request.param(address, **how))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()


@pytest.fixture
def client(connect, address):
    return connect(address)


@pytest.fixture
def filename(request):
    """A filename that is unique to the test."""
    return f"{request.module.__name__}/" + re.sub(r"\W+", "-", request.node.name)
