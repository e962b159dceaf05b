"""The programs on the pages about clients do what the pages say, whatever happens to a connection, server or client."""

import contextlib
import http.server
import json
import os
import random
import re
import signal
import sys
import threading
from pathlib import Path

import google_crc32c
import grpc
import pytest
from conftest import served
from cutting_proxy import CuttingProxy
from error_details import error_info
from mux_pb2 import AbortUploadRequest
from mux_pb2_grpc import FileControllerStub
from pages import Page, Reader
from uploads import MIB, BlockingClient, opening
from waiting import until

CONTENT = random.Random(1).randbytes(24 * MIB)
ADDRESS = "http://127.0.0.1:50051"

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def server(log):
    """A server whose uploads are durable soon, so that little is sent twice."""
    with served("--checkpoint-bytes", "1MiB") as server:
        yield server
        server.stop()


@pytest.fixture
def own_server(log):
    with served("--checkpoint-bytes", "1MiB") as server:
        yield server


@pytest.fixture
def python(tmp_path):
    return Reader(tmp_path, "python.md", sys.executable, suffix=".py")


@pytest.fixture
def node(tmp_path):
    if "NODE_PATH" not in os.environ:
        # `run` has said so.
        pytest.skip("there is no Node.js")
    return Reader(tmp_path, "node.md", "node", suffix=".js")


@pytest.fixture(params=["python", "node"])
def reader(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def source(reader):
    return write(reader.folder / "source.bin")


def write(path, content=CONTENT):
    path.write_bytes(content)
    return path


def url(server):
    return f"http://{server.address}"


def assert_same(path, content=CONTENT):
    # Not `==` on the bytes themselves: a failure would print them.
    assert (path.read_bytes() == content) is True


@contextlib.contextmanager
def cutting(server, *cuts, at_cut=lambda: None):
    with contextlib.closing(CuttingProxy(server.address, cuts, at_cut)) as proxy:
        yield proxy


def kill_in_the_middle(reader, server, *args, at=16 * MIB):
    """Runs a program that is killed after it has moved `at` bytes. None of the arguments is the URL."""
    program, *args = args
    started = []
    process_is_known = threading.Event()

    def kill():
        process_is_known.wait(10)
        started[0].kill()

    with cutting(server, at, at_cut=kill) as proxy:
        with reader.start(program, url(proxy), *args) as process:
            started.append(process)
            process_is_known.set()
            process.communicate(timeout=30)
        assert process.returncode == -signal.SIGKILL


def carried_by(reader, server, *args):
    """Runs a program to its end. Returns how many bytes went over its connections, and its standard error."""
    program, *args = args
    with cutting(server) as proxy:
        _, errors = reader.succeed(program, url(proxy), *args)
        return proxy.carried, errors


def assert_unknown(server, filename, upload_id):
    """Asserts that the server has nothing of an upload."""
    with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError) as failed:
        FileControllerStub(channel).AbortUpload(AbortUploadRequest(filename=filename, upload_id=upload_id), timeout=10)
    assert error_info(failed.value).reason == "NOT_FOUND"


# What a reader types.


def test_installed_packages_are_the_tested_ones():
    [pip] = re.findall(r"^pip install (.*)$", Page("python.md").text, re.MULTILINE)
    tested = re.findall(r"^([\w-]+)==", (Path(__file__).parent / "requirements.txt").read_text(), re.MULTILINE)
    assert set(pip.split()) <= set(tested)
    [npm] = re.findall(r"^npm install (.*)$", Page("node.md").text, re.MULTILINE)
    tested = json.loads((Path(__file__).parent / "js" / "package.json").read_text())["dependencies"]
    assert set(npm.split()) <= set(tested)


def test_commands_of_the_page_succeed(reader, server):
    prepared = "npm init", "python3 -m venv", "cargo run"
    blocks = [block for block in reader.page.blocks("sh") if not block.startswith(prepared)]
    assert len(blocks) >= 3
    for block in blocks:
        reader.shell(block.replace(ADDRESS, url(server)))
    assert_same(reader.folder / "copy.bin", (reader.folder / "big.bin").read_bytes())
    assert_same(server.root / "backups" / "big.bin", (reader.folder / "big.bin").read_bytes())
    assert not list(reader.folder.glob("*.upload")) + list(reader.folder.glob("*.part*"))


@pytest.mark.parametrize("program", ["upload", "download", "texts", "abort"])
def test_program_without_arguments_shows_its_usage(reader, program):
    sentence, before = reader.fail(program)
    assert sentence.startswith("usage: ") and f"{program}{reader.suffix} URL" in sentence
    assert before == []


def test_texts_are_written_read_and_described(reader, server):
    out, _ = reader.succeed("texts", url(server), "page/a.txt", "some text")
    assert re.fullmatch(r"some text\n9 bytes, etag \S+, of 20\d\d-\S+.*\nno backup of it\n", out), out


def test_refused_text_fails_with_its_reason(reader, server):
    sentence, _ = reader.fail("texts", url(server), "page/../a.txt", "some text")
    assert sentence.startswith("not written, FILENAME_INVALID: ")


# What happens to connections and servers.


def move_up(reader, server, through, name):
    errors = reader.succeed("upload", url(through), write(reader.folder / "source.bin"), name)[1]
    assert_same(server.root / name)
    return errors


def move_down(reader, server, through, name):
    write(server.root / name)
    errors = reader.succeed("download", url(through), name, "got.bin")[1]
    assert_same(reader.folder / "got.bin")
    return errors


both_ways = pytest.mark.parametrize("move", [move_up, move_down], ids=["up", "down"])


def assert_resumed(proxy):
    """Asserts that no attempt began again at the beginning."""
    assert proxy.cuts == []
    assert proxy.carried < len(CONTENT) + 12 * MIB


@both_ways
def test_transfer_survives_broken_connections(reader, server, move, filename):
    with cutting(server, 10, 16 * MIB, MIB) as proxy:
        (server.root / filename).parent.mkdir(exist_ok=True)
        errors = move(reader, server, proxy, filename)
        assert_resumed(proxy)
    # gRPC itself may replace the first connection, which carried no call yet.
    assert errors.count("retrying in") >= 2 and errors.count("resuming at byte") >= 1, errors


@both_ways
def test_transfer_survives_a_killed_server(reader, own_server, move):
    def kill_and_restart():
        own_server.kill()
        own_server.start()

    with cutting(own_server, 16 * MIB, at_cut=kill_and_restart) as proxy:
        move(reader, own_server, proxy, "a.bin")
        assert_resumed(proxy)


# What happens to the client.


def test_upload_of_a_killed_client_is_resumed(reader, server, source, filename):
    kill_in_the_middle(reader, server, "upload", source, filename)
    assert not (server.root / filename).exists()
    carried, errors = carried_by(reader, server, "upload", source, filename)
    assert "resuming at byte" in errors
    assert carried < 12 * MIB
    assert_same(server.root / filename)
    assert not source.with_name("source.bin.upload").exists()


def test_download_of_a_killed_client_is_resumed(reader, server):
    write(server.root / "a.bin")
    kill_in_the_middle(reader, server, "download", "a.bin", "got.bin")
    assert not (reader.folder / "got.bin").exists()
    carried, errors = carried_by(reader, server, "download", "a.bin", "got.bin")
    assert "resuming at byte" in errors
    # The kernel and the client's window had some of the bytes that the proxy carried.
    assert carried < len(CONTENT) - MIB
    assert_same(reader.folder / "got.bin")
    assert not list(reader.folder.glob("got.bin.*"))


def test_upload_of_a_changed_source_starts_over(reader, server, source, filename):
    kill_in_the_middle(reader, server, "upload", source, filename)
    upload_id = source.with_name("source.bin.upload").read_text()
    changed = b"!" + CONTENT[1:]
    before = os.stat(source)
    write(source, changed)
    # Neither size nor time gives it away.
    os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))
    _, errors = reader.succeed("upload", url(server), source, filename)
    assert "has changed" in errors
    assert_same(server.root / filename, changed)
    assert_unknown(server, filename, upload_id)


def test_upload_of_a_source_that_grew_is_resumed(reader, server, source, filename):
    kill_in_the_middle(reader, server, "upload", source, filename)
    with source.open("ab") as end:
        end.write(b"more")
    carried, errors = carried_by(reader, server, "upload", source, filename)
    assert carried < 12 * MIB, errors
    assert_same(server.root / filename, CONTENT + b"more")


def test_download_of_a_changed_file_starts_over(reader, server):
    write(server.root / "b.bin")
    kill_in_the_middle(reader, server, "download", "b.bin", "got.bin")
    (server.root / "b.bin").unlink()
    changed = write(server.root / "b.bin", CONTENT[: 12 * MIB]).read_bytes()
    _, errors = reader.succeed("download", url(server), "b.bin", "got.bin")
    assert "has changed" in errors
    assert_same(reader.folder / "got.bin", changed)


def test_finished_upload_is_not_sent_again(reader, server, source, filename):
    state = source.with_name("source.bin.upload")
    state.write_text(f"id-of-{reader.suffix}")
    reader.succeed("upload", url(server), source, filename)
    # As if its last answer had been lost.
    state.write_text(f"id-of-{reader.suffix}")
    carried, errors = carried_by(reader, server, "upload", source, filename)
    assert (errors, state.exists()) == ("", False)
    assert carried < MIB


def test_finished_upload_of_other_bytes_is_sent_again(reader, server, source, filename):
    state = source.with_name("source.bin.upload")
    state.write_text(f"id-of-{reader.suffix}")
    reader.succeed("upload", url(server), source, filename)
    state.write_text(f"id-of-{reader.suffix}")
    changed = CONTENT[:-1] + b"!"
    write(source, changed)
    _, errors = reader.succeed("upload", url(server), source, filename)
    assert "has changed" in errors
    assert_same(server.root / filename, changed)


def test_empty_file_goes_up_and_down(reader, server, filename):
    write(reader.folder / "empty.bin", b"")
    reader.succeed("upload", url(server), "empty.bin", filename)
    reader.succeed("download", url(server), filename, "got.bin")
    assert_same(reader.folder / "got.bin", b"")


def test_abort_discards_the_upload_of_a_killed_client(reader, server, source, filename):
    kill_in_the_middle(reader, server, "upload", source, filename)
    state = source.with_name("source.bin.upload")
    upload_id = state.read_text()
    reader.succeed("abort", url(server), source, filename)
    assert not state.exists()
    assert_unknown(server, filename, upload_id)


def test_upload_that_was_taken_over_is_not_retried(reader, server, source, filename):
    client = BlockingClient(server.address)
    processes = []

    def take_over():
        upload_id = until(source.with_name("source.bin.upload").read_text, "the id is known")
        stream = client.stream(opening(filename, upload_id))
        assert stream.answer().progress.persisted_size > 0
        # The connection is cut when this returns.
        until(lambda: processes and processes[0].poll() is not None, "the program ends")

    with cutting(server, 16 * MIB, at_cut=take_over) as proxy, reader.start(
        "upload", url(proxy), source, filename
    ) as process:
        processes.append(process)
        _, errors = process.communicate(timeout=30)
    client.close()
    assert process.returncode == 1
    assert "SUPERSEDED" in errors and "retrying" not in errors, errors


# What is wrong from the start.


def test_missing_source_fails_with_a_sentence(reader, server):
    sentence, before = reader.fail("upload", url(server), "missing.bin", "a.bin")
    assert "missing.bin" in sentence and before == []


def test_address_without_a_scheme_fails_with_a_sentence(reader, source):
    sentence, before = reader.fail("upload", "127.0.0.1:50051", source, "a.bin")
    assert "http://HOST:PORT" in sentence and before == []


def test_refused_upload_fails_with_its_reason(reader, server, source):
    (server.root / "folder").mkdir(exist_ok=True)
    sentence, before = reader.fail("upload", url(server), source, "folder")
    assert "NOT_A_FILE" in sentence and before == []


def test_missing_file_fails_with_its_reason(reader, server):
    sentence, before = reader.fail("download", url(server), "missing.bin", "got.bin")
    assert "NOT_FOUND" in sentence and before == []


@pytest.mark.parametrize("token", [None, "no.token.atall"])
def test_refused_token_fails_with_advice(reader, auth_server, source, token):
    env = {"MUXS_TOKEN": token} if token else {}
    sentence, before = reader.fail("upload", url(auth_server), source, "a.bin", **env)
    assert "MUXS_TOKEN" in sentence and before == []


def test_token_is_sent(reader, auth_server, issuer, source, filename):
    token = issuer.token()
    reader.succeed("upload", url(auth_server), source, filename, MUXS_TOKEN=token)
    reader.succeed("download", url(auth_server), filename, "got.bin", MUXS_TOKEN=token)
    reader.succeed("texts", url(auth_server), "page/a.txt", "some text", MUXS_TOKEN=token)
    assert_same(reader.folder / "got.bin")


def test_ca_is_trusted(reader, tls_server, pki, source, filename):
    address = tls_server.address.replace("127.0.0.1", "localhost")
    reader.succeed("upload", f"https://{address}", source, filename, MUXS_CA=str(pki.ca))


@pytest.fixture
def web_server():
    """A server of HTTP/1.1."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    server.RequestHandlerClass.log_message = lambda *args: None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def closed_port():
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    server.server_close()
    return server.server_port


def assert_all_fail(readers, address, advice):
    """Asserts that every program that retries fails with this advice; they run at the same time."""
    folder = readers[0].folder
    (folder / "photos").mkdir()
    for path in "source.bin", "photos/a.jpg":
        write(folder / path, b"some bytes")
    transfers = ("upload", "source.bin", "a.bin"), ("download", "a.bin", "got.bin")
    started = [reader.start(program, address, *args) for reader in readers for program, *args in transfers]
    started.append(readers[0].start("upload_many", address, "photos", "albums"))
    for process in started:
        out, errors = process.communicate(timeout=50)
        assert process.returncode == 1
        assert "Traceback" not in errors and "    at " not in errors, errors
        assert advice in out + errors.splitlines()[-1], errors


@pytest.fixture
def readers(request, python):
    return [python, request.getfixturevalue("node")] if "NODE_PATH" in os.environ else [python]


def test_programs_without_a_server_give_up(readers):
    assert_all_fail(readers, f"http://127.0.0.1:{closed_port()}", "start the server")


def test_programs_at_a_web_server_give_up(readers, web_server):
    assert_all_fail(readers, f"http://127.0.0.1:{web_server.server_port}", "correct the address")


# Many files at a time.


@pytest.fixture
def photos(python):
    folder = python.folder / "photos"
    (folder / "old").mkdir(parents=True)
    contents = {f"{name}.jpg": random.Random(name).randbytes(MIB + 17) for name in ("a", "b", "c", "old/d")}
    for name, content in contents.items():
        write(folder / name, content)
    return contents


def test_many_files_are_uploaded_once(python, server, photos):
    out, _ = python.succeed("upload_many", url(server), "photos", "many")
    assert out.count(": uploaded\n") == len(photos)
    for name, content in photos.items():
        assert_same(server.root / "many" / name, content)
    write(python.folder / "photos" / "a.jpg", b"changed")
    out, _ = python.succeed("upload_many", url(server), "photos", "many")
    assert (out.count(": uploaded\n"), out.count(": is there\n")) == (1, len(photos) - 1)
    assert_same(server.root / "many" / "a.jpg", b"changed")


def test_many_files_survive_broken_connections(python, server, photos):
    with cutting(server, 2 * MIB, MIB) as proxy:
        python.succeed("upload_many", url(proxy), "photos", "cut")
        assert proxy.cuts == []
        assert proxy.carried < 8 * MIB
    for name, content in photos.items():
        assert_same(server.root / "cut" / name, content)


def test_one_refused_file_does_not_keep_the_others(python, server, photos):
    (server.root / "some" / "b.jpg").mkdir(parents=True)
    code, out, errors = python.run("upload_many", url(server), "photos", "some")
    assert (code, out.count(": uploaded\n"), errors) == (1, len(photos) - 1, "1 failed\n")
    assert "NOT_A_FILE" in out


def test_missing_folder_fails_with_a_sentence(python, server):
    sentence, before = python.fail("upload_many", url(server), "missing", "many")
    assert "missing" in sentence and before == []


def test_interrupted_uploads_leave_nothing_on_the_server(python, own_server):
    """Files that take longer than the test needs to see that they are on their way."""
    (python.folder / "photos").mkdir()
    # More than are sent at a time.
    for number in range(12):
        with open(python.folder / "photos" / f"large-{number}.raw", "wb") as large:
            large.truncate(64 * 1024 * MIB)
    with python.start("upload_many", url(own_server), "photos", "albums") as process:
        until(lambda: parts(own_server), "the upload is on its way")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (130, "")
    until(lambda: not parts(own_server), "the upload is discarded")


def parts(server):
    """What the server keeps of unfinished uploads."""
    return [path for path in (server.root / ".muxs").rglob("*") if path.is_file() and path.stat().st_size > MIB]
