"""The servers that the tests call: one for the whole run, on a free port, with an empty root; and others on demand."""

import contextlib
import re
import select
import signal
import subprocess
import tempfile
from pathlib import Path

import grpc
import pytest
import trustme
from uploads import AsyncioClient, BlockingClient

TARGET = Path(__file__).parents[2] / "target"
LOG = TARGET / "interop" / "server.log"

# So that a run which is told to stop stops its server too, as it does on Ctrl-C.
signal.signal(signal.SIGTERM, signal.default_int_handler)


class Server:
    """A server program on a root of its own, that can be killed and started again."""

    def __init__(self, root, *flags):
        self.root = Path(root)
        self.flags = flags
        # A free port at first; the same one when it is started again.
        self.address = "127.0.0.1:0"
        self.start()

    def start(self):
        command = [TARGET / "debug" / "server", "--listen", self.address, "--root", self.root, *self.flags]
        with open(LOG, "a") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        ready, _, _ = select.select([self.process.stdout], [], [], 10)
        line = self.process.stdout.readline() if ready else "nothing for 10 s"
        root = re.escape(str(self.root))
        scheme = "https" if "--tls-cert" in self.flags else "http"
        announcement = re.fullmatch(rf"muxs listening on {scheme}://(127\.0\.0\.1:\d+), serving {root}\n", line)
        if not announcement:
            self.kill()
        assert announcement, f"the server said {line!r}; its log: {LOG.read_text()}"
        self.address = announcement[1]

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        # Calls under way would get 30 s. So this also shows that the server has ended every cancelled call.
        assert self.process.wait(timeout=10) == 0, LOG.read_text()

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


@contextlib.contextmanager
def served(*flags):
    with tempfile.TemporaryDirectory(dir=TARGET / "interop", prefix="root-") as root:
        server = Server(root, *flags)
        try:
            yield server
        finally:
            server.kill()


@pytest.fixture(scope="session", autouse=True)
def log():
    LOG.write_text("")
    yield
    assert "panicked" not in LOG.read_text()


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
    """Certificates for a server and for a client, an authority that vouches for both, and one that does not."""

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
    """A server that wants a certificate of its clients."""
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


@pytest.fixture
def own_server(log):
    """A server for one test, that it may kill."""
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
    """A name that no other test has."""
    return f"{request.module.__name__}/" + re.sub(r"\W+", "-", request.node.name)
