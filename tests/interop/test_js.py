"""The server through grpc-js, in plain text, with TLS and over a Unix domain socket."""

import json
import os
import subprocess
from pathlib import Path

import pytest

CLIENT = Path(__file__).parent / "js" / "client.js"
SIZE = 1_000_000

# Set by `run` if the modules of the client are installed.
pytestmark = pytest.mark.skipif("NODE_PATH" not in os.environ, reason="there is no Node.js")


def by_name(server):
    """Node.js warns of addresses without a name in TLS."""
    return server.address.replace("127.0.0.1", "localhost")


def node(*arguments):
    return subprocess.run(["node", CLIENT, *map(str, arguments)], capture_output=True, text=True, timeout=25)


def assert_answers(run):
    assert (run.returncode, run.stderr) == (0, "")
    answers = json.loads(run.stdout)
    lots = answers.pop("lots")
    assert (len(lots), lots[0], lots[16]) == (40, "Hello, you!", "Hello, you!")
    assert answers == {
        "one": "Hello, you!",
        "all": "Hello, Ada, Grace, Edsger and 1 other!",
        "replies": ["Hello, Ada!", "Hello, Grace!", "Hello, Edsger!", "Hello, Barbara!"],
        "committed": SIZE,
        "same": True,
        "missing": 5,
    }


def test_js_calls_all_shapes_and_moves_a_file(address, filename):
    assert_answers(node(address, filename, SIZE))


def test_js_calls_over_tls(tls_server, pki, filename):
    assert_answers(node(by_name(tls_server), filename, SIZE, pki.ca))


def test_js_calls_over_mutual_tls(mtls_server, pki, filename):
    assert_answers(node(by_name(mtls_server), filename, SIZE, pki.ca, pki.client_cert, pki.client_key))


def test_js_calls_over_a_unix_socket(socket_server, filename):
    assert_answers(node(socket_server.socket, filename, SIZE))


def test_js_that_trusts_another_authority_over_tls_fails(tls_server, pki, filename):
    run = node(by_name(tls_server), filename, SIZE, pki.stranger)
    assert run.returncode == 1
    assert "UNAVAILABLE" in run.stderr


def test_js_without_a_certificate_over_tls_fails_where_one_is_required(mtls_server, pki, filename):
    run = node(by_name(mtls_server), filename, SIZE, pki.ca)
    assert run.returncode == 1
    assert "UNAVAILABLE" in run.stderr
