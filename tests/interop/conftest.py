"""The server that the tests call: one for the whole run, on a free port, with an empty root."""

import re
import select
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest

TARGET = Path(__file__).parents[2] / "target"
LOG = TARGET / "interop" / "server.log"

# So that a run which is told to stop stops its server too, as it does on Ctrl-C.
signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.fixture(scope="session")
def address():
    """HOST:PORT of the server."""
    with tempfile.TemporaryDirectory(dir=TARGET / "interop", prefix="root-") as root, open(LOG, "w") as log:
        command = [TARGET / "debug" / "server", "--listen", "127.0.0.1:0", "--root", root]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as server:
            try:
                yield announced_address(server, root)
                server.send_signal(signal.SIGTERM)
                # Calls under way would get 30 s. So this also shows that the server has ended every cancelled call.
                assert server.wait(timeout=10) == 0, LOG.read_text()
            finally:
                server.kill()
    assert "panicked" not in LOG.read_text()


def announced_address(server, root):
    ready, _, _ = select.select([server.stdout], [], [], 10)
    line = server.stdout.readline() if ready else "nothing for 10 s"
    announcement = re.fullmatch(rf"muxs listening on http://(127\.0\.0\.1:\d+), serving {re.escape(root)}\n", line)
    assert announcement, f"the server said {line!r}; its log: {LOG.read_text()}"
    return announcement[1]
