"""The command line with tokens of a real authorization server, from every source of tokens."""

import json
import os
import random
import shlex
import subprocess
import sys
import time
from pathlib import Path

import issuer as issuers
import pytest
from conftest import LOGS, TARGET, believing, ready
from cutting_proxy import CuttingProxy
from issuer import ALL, RESOURCE, secret_of
from uploads import MIB

MUXS = TARGET / "debug" / "muxs"

# Longer than a brief token is good for, at the pace of a slow link.
SIZE = 24 * MIB
PACE = 6 * MIB


class SlowProxy(CuttingProxy):
    """Carries so many bytes in a second one way, and the same the other way."""

    def __init__(self, address, pace):
        self.pace = pace
        super().__init__(address, cuts=[])

    def is_over(self, carried):
        time.sleep(carried / self.pace)
        return False


@pytest.fixture
def slow(auth_server):
    proxy = SlowProxy(auth_server.address, PACE)
    yield proxy
    proxy.close()


def muxs(address, *arguments, **env):
    """Runs a command, with `env` as its only variables for muxs."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("MUXS_")}
    command = [MUXS, "--addr", f"http://{address}", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=25, env=own | env, input="you\n")


def by_itself(issuer, folder, client):
    """Flags to get tokens from the issuer."""
    secret = folder / f"{client}.secret"
    secret.write_text(secret_of(client) + "\n")
    return [
        *["--issuer", issuer.url, "--client-id", client, "--client-secret-file", secret],
        *["--scope", ALL, "--token-audience", RESOURCE],
    ]


def by_command(issuer, client):
    """Flags to have another program ask."""
    command = [sys.executable, str(Path(issuers.__file__)), issuer.url, client]
    return ["--token-command", shlex.join(command)]


def in_file(issuer, folder, client):
    file = folder / f"{client}.token"
    file.write_text(issuer.token(client) + "\n")
    return ["--token-file", file]


@pytest.fixture(params=["issuer", "command", "file", "environment"])
def shown(request, issuer, tmp_path):
    """Each way to get a token for a client: flags, and variables of the environment."""

    def shown(client):
        match request.param:
            case "issuer":
                return by_itself(issuer, tmp_path, client), {}
            case "command":
                return by_command(issuer, client), {}
            case "file":
                return in_file(issuer, tmp_path, client), {}
            case "environment":
                return [], {"MUXS_TOKEN": issuer.token(client)}

    return shown


def assert_well(run):
    assert run.returncode == 0, run.stderr
    assert_discreet(run)


def assert_discreet(run):
    for token in issuers.given():
        assert token.partition(".")[2][:64] not in run.stdout + run.stderr
    assert "the secret of" not in run.stdout + run.stderr


def test_put_get_and_chat_send_a_token(auth_server, shown, filename, tmp_path):
    flags, env = shown("writer")
    content = random.Random(filename).randbytes(3 * MIB)
    (tmp_path / "there").write_bytes(content)
    assert_well(muxs(auth_server.address, *flags, "put", tmp_path / "there", filename, **env))
    assert_well(muxs(auth_server.address, *flags, "stat", filename, **env))
    assert_well(muxs(auth_server.address, *flags, "get", filename, tmp_path / "back", **env))
    assert (tmp_path / "back").read_bytes() == content
    flags, env = shown("elliptic")
    chat = muxs(auth_server.address, *flags, "chat", **env)
    assert_well(chat)
    assert chat.stdout == "Hello, you!\n"


@pytest.mark.parametrize("command", [["chat"], ["stat", "a"], ["abort", "--upload-id", "x", "a"]])
def test_command_without_a_token_explains_the_flags(auth_server, command):
    run = muxs(auth_server.address, *command)
    assert run.returncode != 0
    assert "--token-file" in run.stderr
    assert_discreet(run)


def test_insufficient_token_is_not_retried(auth_server, issuer, tmp_path, filename):
    (tmp_path / "there").write_bytes(b"content")
    reader = by_itself(issuer, tmp_path, "reader")
    reader[reader.index(ALL)] = "files.read"
    run = muxs(auth_server.address, *reader, "put", tmp_path / "there", filename)
    assert run.returncode != 0
    assert "lacks the scope files.write" in run.stderr
    assert_discreet(run)
    run = muxs(auth_server.address, *reader, "stat", filename)
    assert run.returncode != 0
    # The name of the file has the word, too.
    assert "token" not in run.stderr.replace(filename, "")


@pytest.mark.parametrize("how", ["issuer", "command"])
def test_transfer_outlives_its_token(issuer, how, filename, tmp_path):
    log = LOGS / f"long-transfer-{how}.log"
    flags = by_itself(issuer, tmp_path, "brief") if how == "issuer" else by_command(issuer, "brief")
    content = random.Random(filename).randbytes(SIZE)
    (tmp_path / "there").write_bytes(content)
    with ready(believing(issuer, "--log-format", "json", log=log), issuer) as server:
        proxy = SlowProxy(server.address, PACE)
        try:
            assert_well(muxs(proxy.address, *flags, "put", tmp_path / "there", filename))
            assert_well(muxs(proxy.address, *flags, "get", filename, tmp_path / "back"))
        finally:
            proxy.close()
        server.stop()
    assert ((tmp_path / "back").read_bytes() == content) is True
    ended = [json.loads(line)["fields"] for line in log.read_text().splitlines() if '"ended"' in line]
    for method in ["WriteStream", "ReadStream"]:
        codes = [call["code"] for call in ended if call["call"] == f"muxs.FileController/{method}"]
        assert codes[-1] == "OK"
        assert "UNAUTHENTICATED" in codes


def test_token_file_is_reread_at_expiry(auth_server, issuer, filename, tmp_path, slow):
    flags = in_file(issuer, tmp_path, "brief")
    (tmp_path / "there").write_bytes(bytes(SIZE))
    command = [MUXS, "--addr", f"http://{slow.address}", *flags]
    command += ["put", tmp_path / "there", filename]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        # A program that keeps the file up to date does so now and then.
        while process.poll() is None:
            (tmp_path / "next").write_text(issuer.token("brief"))
            os.replace(tmp_path / "next", tmp_path / "brief.token")
            try:
                process.wait(timeout=0.5)
            except subprocess.TimeoutExpired:
                continue
        assert process.returncode == 0, process.stderr.read()
