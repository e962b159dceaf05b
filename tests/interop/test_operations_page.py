"""The page about operating a server: its authorization server, server and commands, unchanged."""

import os
import re
import select
import shlex
import shutil
import socket
import subprocess
import urllib.request
from pathlib import Path

import pytest
from conftest import TARGET, served
from test_reflection import needs_grpcurl

PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
TRIED_OUT, _, _ = PAGE.partition("## Who may call")

SERVER = "cargo run --bin server -- "
EXAMPLE = "cargo run --example "

UNAUTHENTICATED = 64 + 16

# Set by `run` if the authorization server is installed.
pytestmark = pytest.mark.skipif(
    "NODE_PATH" not in os.environ or not shutil.which("curl"), reason="there is no Node.js, or no curl"
)


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", TRIED_OUT, re.DOTALL)


def lines():
    """The commands of the page, each on one line."""
    return "".join(blocks("sh")).replace("\\\n", " ").splitlines()


class Tried:
    """The state after following the page, except for the ports."""

    def __init__(self, folder, server, admin, issuer):
        self.folder, self.server, self.admin, self.issuer = folder, server, admin, issuer

    def here(self, text):
        return (
            text.replace("http://127.0.0.1:9000", self.issuer)
            .replace("127.0.0.1:50051", self.server.address)
            .replace("http://127.0.0.1:9090", self.admin)
        )

    def run(self, line, **variables):
        command = self.here(line)
        if line.startswith(EXAMPLE):
            name, _, arguments = command.removeprefix(EXAMPLE).partition(" -- ")
            program = TARGET / "debug" / "examples" / name
            command = f"{program} --addr http://{self.server.address} {arguments}"
        environment = os.environ | variables
        return subprocess.run(
            ["bash", "-c", command], cwd=self.folder, env=environment, capture_output=True, text=True, timeout=30
        )


def line_of(process):
    ready, _, _ = select.select([process.stdout], [], [], 10)
    return process.stdout.readline() if ready else ""


@pytest.fixture(scope="module")
def tried(log, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    shutil.copy(Path(__file__).parents[2] / "README.md", folder)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    [program] = blocks("js")
    # Beside its modules, which programs of this kind look for upwards from where they are.
    script = Path(os.environ["NODE_PATH"]).parent / "page-issuer.mjs"
    script.write_text(program.replace("9000", str(port)))
    issuer = subprocess.Popen(["node", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        url = line_of(issuer).removeprefix("issuer at ").strip()
        assert url == f"http://127.0.0.1:{port}"
        [flags] = [line.removeprefix(SERVER) for line in lines() if line.startswith(SERVER + "--auth-issuer")]
        flags = flags.replace("http://127.0.0.1:9000", url).replace("--admin-listen 9090", "--admin-listen :0")
        with served(*shlex.split(flags)) as server:
            # The line may have been read with the previous one.
            admin = server.process.stdout.readline().removeprefix("muxs admin on ").strip()
            tried = Tried(folder, server, admin, url)
            [script] = [block for block in blocks("sh") if block.startswith("#!")]
            (folder / "token.sh").write_text(tried.here(script))
            (folder / "token.sh").chmod(0o755)
            yield tried
            server.stop()
    finally:
        issuer.kill()
        issuer.wait()
        issuer.stdout.close()


def test_call_without_a_token_is_refused(tried):
    refused = tried.run(next(line for line in lines() if line.endswith("put README.md")))
    assert refused.returncode == UNAUTHENTICATED, refused.stderr
    assert "--token-file" in refused.stderr


def test_client_fetches_a_token(tried):
    [export] = [line for line in lines() if line.startswith("export ")]
    name, _, secret = export.removeprefix("export ").partition("=")
    [line] = [line for line in lines() if "--issuer" in line and "stream_file" in line]
    sent = tried.run(line, **{name: secret})
    assert sent.returncode == 0, sent.stderr
    assert (tried.server.root / "README.md").is_file()


def test_client_uses_a_token_command(tried):
    commands = [line for line in lines() if line.startswith(EXAMPLE) and "--token-command" in line]
    assert len(commands) == 3
    for line in commands:
        done = tried.run(line)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
    assert (tried.folder / "copy.md").read_bytes() == (tried.folder / "README.md").read_bytes()


@needs_grpcurl
def test_grpcurl_uses_a_token(tried):
    assert tried.run(f"{EXAMPLE}stream_file -- --token-command ./token.sh put README.md").returncode == 0
    [line] = [line for line in lines() if line.startswith("grpcurl")]
    done = tried.run(line)
    assert done.returncode == 0, done.stderr
    assert '"filename": "README.md"' in done.stdout


def test_metrics_and_readiness_are_served(tried):
    assert tried.run(f"{EXAMPLE}stream_file -- --token-command ./token.sh put README.md told.md").returncode == 0
    [line] = [line for line in lines() if line.startswith("curl") and line.endswith("/metrics")]
    text = tried.run(line).stdout
    uploads = [line for line in text.splitlines() if 'grpc_method="WriteStream"' in line and 'grpc_code="OK"' in line]
    assert len(uploads) == 1 and float(uploads[0].split()[-1]) >= 1, text
    with urllib.request.urlopen(f"{tried.admin}/readyz", timeout=10) as ready:
        assert ready.status == 200
