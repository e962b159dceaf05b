"""The programs on the page about clients do what it says, whatever happens to the connection or to the server."""

import contextlib
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import served
from cutting_proxy import CuttingProxy
from uploads import MIB

PAGE = (Path(__file__).parents[2] / "docs" / "clients.md").read_text()
UPLOADER, DOWNLOADER = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)

CONTENT = random.Random(1).randbytes(24 * MIB)


@pytest.fixture
def server(log):
    """A server whose uploads are durable soon, so that not much is to be sent again."""
    with served("--checkpoint-bytes", "1MiB") as server:
        yield server


@pytest.fixture
def source(tmp_path):
    source = tmp_path / "source.bin"
    source.write_bytes(CONTENT)
    return source


def run(program, *args):
    done = subprocess.run([sys.executable, "-c", program, *args], capture_output=True, text=True, timeout=25)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def assert_same(path):
    # Not `==` on the bytes themselves: a failure would print them.
    assert (path.read_bytes() == CONTENT) is True


def test_uploader_uploads(server, source):
    etag = run(UPLOADER, server.address, source, "page/a.bin")
    assert re.fullmatch(r"\S+\n", etag)
    assert_same(server.root / "page" / "a.bin")


def test_downloader_downloads(server, tmp_path):
    (server.root / "a.bin").write_bytes(CONTENT)
    run(DOWNLOADER, server.address, "a.bin", tmp_path / "got.bin")
    assert_same(tmp_path / "got.bin")


def uploaded_through(proxy, server, source):
    run(UPLOADER, proxy.address, source, "a.bin")
    assert_same(server.root / "a.bin")
    assert_went_on(proxy)


def downloaded_through(proxy, server, source):
    source.rename(server.root / "a.bin")
    run(DOWNLOADER, proxy.address, "a.bin", source)
    assert_same(source)
    assert_went_on(proxy)


def assert_went_on(proxy):
    """Asserts that no attempt began again at the beginning."""
    assert proxy.cuts == []
    assert proxy.carried < len(CONTENT) + 16 * MIB


through = pytest.mark.parametrize("moved_through", [uploaded_through, downloaded_through], ids=["up", "down"])


@through
def test_transfer_survives_broken_connections(server, source, moved_through):
    with contextlib.closing(CuttingProxy(server.address, cuts=[10, 16 * MIB, MIB])) as proxy:
        moved_through(proxy, server, source)


@through
def test_transfer_survives_a_killed_server(server, source, moved_through):
    def kill_and_start_again():
        server.kill()
        server.start()

    with contextlib.closing(CuttingProxy(server.address, [16 * MIB], kill_and_start_again)) as proxy:
        moved_through(proxy, server, source)


def test_uploader_reports_permanent_failures(server, source):
    (server.root / "folder").mkdir()
    args = [server.address, source, "folder"]
    done = subprocess.run([sys.executable, "-c", UPLOADER, *args], capture_output=True, text=True, timeout=25)
    assert done.returncode == 1
    assert "StatusCode.FAILED_PRECONDITION" in done.stderr
