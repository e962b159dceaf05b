"""What the server prints when it starts: on a terminal, a command to try as well."""

import os
import pty
import subprocess

import pytest
from conftest import TARGET

TIMEOUT = 10


def first_lines(tmp_path, count, *flags, **env):
    """The first lines that a server prints on a terminal."""
    ours, theirs = pty.openpty()
    command = [TARGET / "debug" / "server", "--listen", "127.0.0.1:0", "--root", tmp_path / "root", *flags]
    own = {name: value for name, value in os.environ.items() if name != "CARGO_MANIFEST_DIR"} | env
    process = subprocess.Popen(command, stdout=theirs, stderr=subprocess.DEVNULL, cwd=tmp_path, env=own)
    os.close(theirs)
    try:
        with open(ours) as terminal:
            return [terminal.readline().rstrip("\n") for _ in range(count)]
    finally:
        process.terminate()
        process.wait(timeout=TIMEOUT)


@pytest.mark.parametrize("by_cargo", [True, False])
def test_a_terminal_gets_a_command_to_try(by_cargo, tmp_path):
    env = {"CARGO_MANIFEST_DIR": "/"} if by_cargo else {}
    listening, hint = first_lines(tmp_path, 2, **env)
    address = listening.removeprefix("muxs listening on http://").split(",")[0]
    command = f"cargo run --example hello -- http://{address}" if by_cargo else f"grpcurl -plaintext {address} list"
    assert hint == f"try: {command}   (Ctrl-C stops the server)"


def test_an_encrypted_server_prints_its_advice_elsewhere(tmp_path):
    first, second = first_lines(tmp_path, 2, "--tls-self-signed", "--admin-listen", "0")
    assert first.startswith("muxs listening on https://")
    assert second.startswith("muxs admin on http://")
