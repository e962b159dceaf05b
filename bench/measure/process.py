"""Starts programs on a core of their own, waits for their word, stops them, and asks the kernel for their memory."""

import contextlib
import os
import queue
import re
import resource
import signal
import socket
import subprocess
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

STARTS_WITHIN = 30.0
STOPS_WITHIN = 10.0


class Failed(Exception):
    """A program did not do what it had to."""

    def __init__(self, what: str, output: str = "") -> None:
        super().__init__(what)
        # What it said at last.
        self.output = "\n".join(output.splitlines()[-20:])


@contextlib.contextmanager
def on_core(core: int | None) -> Iterator[None]:
    """What is started inside runs on this core, for a child inherits the cores of the thread that starts it."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def allow_open_files() -> int:
    """Lets this program and its children open as many files as they may, and says how many."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def run(command: Sequence[str], core: int | None = None, timeout: float = 30.0) -> str:
    """Runs a program to its end, which has to be a good one, and gives its standard output."""
    with on_core(core):
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    with process:
        try:
            output, errors = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            raise Failed(f"{call(command)} took more than {timeout:.0f} s") from None
        finally:
            process.kill()
    if process.returncode != 0:
        raise Failed(f"{call(command)} ended with {process.returncode}", errors or output)
    return output


def call(command: Sequence[str]) -> str:
    """The command, short: without the folders of files, which mean nothing elsewhere, and without access tokens."""
    short = " ".join(Path(part).name if part.startswith("/") and part.count("/") > 1 else part for part in command)
    return re.sub(r"Bearer \S+", "Bearer …", short)


class Background:
    """A program that goes on while others run, and has said that it is ready."""

    def __init__(self, command: Sequence[str], ready: str, core: int | None = None) -> None:
        self._name = call(command)
        with on_core(core):
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                # So that it can be ended with all that it has started.
                process_group=0,
            )
        self.pid = self._process.pid
        self._said: deque[str] = deque(maxlen=20)
        self._readiness: queue.SimpleQueue[bool] = queue.SimpleQueue()
        assert self._process.stdout is not None
        # Reads on to the end: a program whose output nobody takes stands still at some point.
        self._listener = threading.Thread(target=self._listen, args=(self._process.stdout, ready), daemon=True)
        self._listener.start()
        try:
            self._await_readiness()
        except BaseException:
            self.stop()
            raise

    def _listen(self, output: IO[str], ready: str) -> None:
        for line in output:
            self._said.append(line)
            if ready in line:
                self._readiness.put(True)
        self._readiness.put(False)

    def _await_readiness(self) -> None:
        try:
            ready = self._readiness.get(timeout=STARTS_WITHIN)
        except queue.Empty:
            raise Failed(f"{self._name} was not ready within {STARTS_WITHIN:.0f} s", "".join(self._said)) from None
        if not ready:
            raise Failed(f"{self._name} ended before it was ready", "".join(self._said))

    def stop(self) -> None:
        """Tells it to stop, and makes it."""
        self._process.terminate()
        try:
            self._process.wait(STOPS_WITHIN)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._end()

    def finish(self) -> None:
        """Closes its standard input and lets it come to its end, which has to be a good one."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            code = self._process.wait(STOPS_WITHIN)
        except subprocess.TimeoutExpired:
            self.stop()
            raise Failed(f"{self._name} did not end when its input did") from None
        self._end()
        if code != 0:
            raise Failed(f"{self._name} ended with {code}", "".join(self._said))

    def _end(self) -> None:
        self._process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._listener.join()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def resident(self) -> int:
        """The memory it has now, in bytes."""
        return self._memory("VmRSS")

    def peak(self) -> int:
        """The most memory it has had since it started, or since `forget_peak`, in bytes."""
        return self._memory("VmHWM")

    def forget_peak(self) -> None:
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def _memory(self, field: str) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == field:
                return int(value.removesuffix("kB")) * 1024
        raise Failed(f"{self._name} is gone")
