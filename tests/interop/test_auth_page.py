"""The page about access tokens: its authorization server, server and commands, unchanged."""

import os
import re
import select
import shlex
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from conftest import served
from pages import MUXS, REPOSITORY, SERVER, Page, Trial
from test_reflection import needs_grpcurl

PAGE = Page("auth.md")
TRY_IT_OUT = Page("auth.md", "Try it out")

# Set by `run` if the authorization server is installed.
needs_an_issuer = pytest.mark.skipif(
    "NODE_PATH" not in os.environ or not shutil.which("curl"), reason="there is no Node.js, or no curl"
)


def line_of(process):
    ready, _, _ = select.select([process.stdout], [], [], 10)
    return process.stdout.readline() if ready else ""


@pytest.fixture(scope="module")
def trial(log, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    shutil.copy(REPOSITORY / "README.md", folder)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    [program] = TRY_IT_OUT.blocks("js")
    # Beside its modules, which programs of this kind look for upwards from where they are.
    script = Path(os.environ["NODE_PATH"]).parent / "page-issuer.mjs"
    script.write_text(program.replace("9000", str(port)))
    issuer = subprocess.Popen(["node", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        url = line_of(issuer).removeprefix("issuer at ").strip()
        assert url == f"http://127.0.0.1:{port}"
        [command] = TRY_IT_OUT.commands(SERVER)
        flags = command.removeprefix(SERVER).replace("http://127.0.0.1:9000", url)
        with served(*shlex.split(flags)) as server:
            trial = Trial(folder, server, {"http://127.0.0.1:9000": url, "127.0.0.1:50051": server.address})
            [script] = TRY_IT_OUT.blocks("sh", containing="#!/bin/sh")
            (folder / "token.sh").write_text(trial.adapt(script))
            (folder / "token.sh").chmod(0o755)
            yield trial
            server.stop()
    finally:
        issuer.kill()
        issuer.wait()
        issuer.stdout.close()


@needs_an_issuer
def test_call_without_a_token_is_refused(trial):
    [command] = TRY_IT_OUT.commands(MUXS + "put")
    refused = trial.run(command)
    [code] = re.findall(r"exit code (\d+)", TRY_IT_OUT.text)
    assert refused.returncode == int(code), refused.stderr
    assert "--token-file" in refused.stderr


@needs_an_issuer
def test_client_fetches_a_token(trial):
    [export] = TRY_IT_OUT.commands("export ")
    name, _, secret = export.removeprefix("export ").partition("=")
    [command] = TRY_IT_OUT.commands(MUXS + "--issuer")
    sent = trial.run(command, **{name: secret})
    assert sent.returncode == 0, sent.stderr
    assert (trial.server.root / "README.md").is_file()


@needs_an_issuer
def test_client_uses_a_token_command(trial):
    commands = [command for command in TRY_IT_OUT.commands() if MUXS + "--token-command" in command]
    assert len(commands) == 3
    done = [trial.run(command) for command in commands]
    assert [run.returncode for run in done] == [0, 0, 0], done
    assert (trial.folder / "copy.md").read_bytes() == (trial.folder / "README.md").read_bytes()
    assert "Hello, Ada!" in done[-1].stdout


@needs_an_issuer
@needs_grpcurl
def test_grpcurl_uses_a_token(trial):
    (trial.server.root / "README.md").touch()
    [command] = TRY_IT_OUT.commands("grpcurl")
    done = trial.run(command)
    assert done.returncode == 0, done.stderr
    assert '"filename": "README.md"' in done.stdout


def test_every_cause_of_a_refusal_is_explained():
    validator = (REPOSITORY / "src/server/auth/validator.rs").read_text()
    [variants] = re.findall(r"enum InvalidToken \{(.*?)\n\}", validator, re.DOTALL)
    causes = re.findall(r"^    (\w+),$", variants, re.MULTILINE)
    assert len(causes) > 10
    assert PAGE.first_column("`auth_error`") == causes
