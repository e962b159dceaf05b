"""The page about encryption: its commands and programs, as they stand."""

import contextlib
import os
import re
import select
import shlex
import shutil
import subprocess
import sys

import pytest
import trustme
from conftest import LOG, TARGET, served
from pages import REPOSITORY, Reader

SERVER = "cargo run --bin server -- "
COMMAND = "cargo run --bin muxs -- "

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(not shutil.which("openssl"), reason="there is no openssl"),
]


class TlsReader(Reader):
    """A reader of the page in a folder with the programs of the other pages, and the files that openssl makes."""

    def __init__(self, folder):
        for page in "python.md", "node.md":
            Reader(folder, page)
        super().__init__(folder, "tls.md")
        shutil.copy(REPOSITORY / "README.md", folder)
        (folder / "big.bin").write_bytes(os.urandom(100_000))
        for block in self.page.blocks("sh"):
            if block.startswith("openssl"):
                self.shell(block)
        self.port = None

    def lines(self, start):
        return [line for line in "".join(self.page.blocks("sh")).splitlines() if line.startswith(start)]

    @contextlib.contextmanager
    def serving(self, *flags):
        """Runs the server of a line of the page, and has the other lines call it."""
        [line] = [line for line in self.lines(SERVER) if shlex.split(line)[5::2] == list(flags)]
        root = self.folder / "root"
        command = [TARGET / "debug" / "server", "--listen", "127.0.0.1:0", "--root", root, *shlex.split(line)[5:]]
        with open(LOG, "a") as log:
            process = subprocess.Popen(command, cwd=self.folder, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            ready, _, _ = select.select([process.stdout], [], [], 10)
            line = process.stdout.readline() if ready else ""
            self.port = re.match(r"muxs listening on https://127\.0\.0\.1:(\d+), ", line)[1]
            yield
        finally:
            process.kill()
            process.wait()
            process.stdout.close()

    def try_line(self, line):
        """Runs a command of the page with the port of the server."""
        program = str(TARGET / "debug" / "muxs") + " "
        return self.shell(line.replace(COMMAND, program).replace("50051", self.port))

    def try_program(self, *command):
        """Runs a program of the page with the port of the server."""
        path = self.folder / command[-1]
        program = path.read_text()
        path.write_text(program.replace("50051", self.port))
        done = subprocess.run([*command], cwd=self.folder, capture_output=True, text=True, timeout=20)
        path.write_text(program)
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def reader(log, tmp_path_factory):
    return TlsReader(tmp_path_factory.mktemp("tls"))


PLAIN = ["--tls-cert", "--tls-key"]
MUTUAL = [*PLAIN, "--tls-client-ca"]


def is_possible(line):
    if line.startswith("grpcurl"):
        return shutil.which("grpcurl") or os.environ.get("MUXS_INTEROP_REQUIRED") == "1"
    return not re.search(r"\bnode ", line) or "NODE_PATH" in os.environ


def commands(reader, of_mutual):
    lines = reader.lines(COMMAND) + reader.lines("grpcurl") + reader.lines("MUXS_CA")
    lines = [line for line in lines if "muxs-dev-cert" not in line and ("client.pem" in line) == of_mutual]
    assert len(lines) >= 2
    return [line for line in lines if is_possible(line)]


def test_self_signed_certificate_is_trusted(reader):
    with reader.serving("--tls-self-signed"):
        [line] = [line for line in reader.lines(COMMAND) if "muxs-dev-cert.pem" in line]
        reader.try_line(line)


def test_private_authority_is_trusted_by_every_client(reader):
    with reader.serving(*PLAIN):
        for line in commands(reader, of_mutual=False):
            reader.try_line(line)
        assert reader.try_program(sys.executable, "hello_tls.py") == "Hello, you!\n"
        if "NODE_PATH" in os.environ:
            assert reader.try_program("node", "hello_tls.js") == "Hello, you!\n"
    assert (reader.folder / "root" / "backups" / "big.bin").read_bytes() == (reader.folder / "big.bin").read_bytes()


def test_certificates_of_clients_are_accepted(reader):
    with reader.serving(*MUTUAL):
        for line in commands(reader, of_mutual=True):
            reader.try_line(line)


# What goes wrong.


@pytest.fixture
def lan_server(log, pki, tmp_path):
    """A server with a certificate for another name."""
    authority = trustme.CA()
    made = authority.issue_cert("files.lan")
    cert = pki.write(tmp_path / "lan.pem", *made.cert_chain_pems)
    key = pki.write(tmp_path / "key.pem", made.private_key_pem)
    with served("--tls-cert", str(cert), "--tls-key", str(key)) as server:
        server.ca = pki.write(tmp_path / "ca.pem", authority.cert_pem)
        yield server


def printed(reader, url, ca):
    """What the clients print: grpcio and grpc-js in programs of the other pages, and grpcurl."""
    env = os.environ | {"MUXS_CA": str(ca)}
    clients = [[sys.executable, "texts.py", url, "a.txt", "some text"], ["node", "texts.js", url, "a.txt", "some text"]]
    clients.append(["grpcurl", "-connect-timeout", "2", "-cacert", ca, url.removeprefix("https://"), "list"])
    out = {}
    for client in filter(lambda client: is_possible(f"{client[0]} "), clients):
        done = subprocess.run(client, cwd=reader.folder, env=env, capture_output=True, text=True, timeout=30)
        assert done.returncode != 0, client
        out[client[0]] = done.stdout + done.stderr
    return out


def assert_explained(reader, url, ca, grpcio, grpc_js, grpcurl):
    """Asserts that the clients print what the page has about them."""
    texts = {sys.executable: grpcio, "node": grpc_js, "grpcurl": grpcurl}
    for client, out in printed(reader, url, ca).items():
        text = texts[client]
        assert text in out
        assert f"`{text}`" in reader.page.text or not text


def at_localhost(server, scheme="https"):
    return f"{scheme}://localhost:{server.address.partition(':')[2]}"


def test_unknown_authority_is_explained(reader, tls_server, pki):
    unknown = "unable to verify the first certificate"
    signer = "certificate signed by unknown authority"
    assert_explained(reader, at_localhost(tls_server), pki.stranger, "CERTIFICATE_VERIFY_FAILED", unknown, signer)


def test_other_name_is_explained(reader, lan_server):
    name = "Hostname Verification Check failed"
    names = "does not match certificate's altnames"
    assert_explained(reader, at_localhost(lan_server), lan_server.ca, name, names, "certificate is valid for")


def test_missing_certificate_of_the_client_is_explained(reader, mtls_server, pki):
    log_line, alert = "TLSV1_ALERT_CERTIFICATE_REQUIRED", "alert certificate required"
    assert_explained(reader, at_localhost(mtls_server), pki.ca, log_line, alert, "")


def test_server_without_encryption_is_explained(reader, shared_server, pki):
    first = "first record does not look like a TLS handshake"
    assert_explained(
        reader, at_localhost(shared_server), pki.ca, "WRONG_VERSION_NUMBER", "wrong version number", first
    )


def test_client_without_encryption_is_explained(reader, tls_server, pki):
    assert_explained(reader, at_localhost(tls_server, "http"), pki.ca, "Socket closed", "Failed to connect", "")
