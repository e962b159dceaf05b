"""Starts programs on a core of their own, waits until they are ready, stops them, and measures their memory."""

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

# In seconds.
START_TIMEOUT = 30.0
STOP_TIMEOUT = 10.0


class Failed(Exception):
    """A program failed, or its results are wrong."""

    def __init__(self, what: str, output: str = "") -> None:
        super().__init__(what)
        # The last lines of the program's output.
        self.output = "\n".join(output.splitlines()[-20:])


@contextlib.contextmanager
def on_core(core: int | None) -> Iterator[None]:
    """Programs that are started inside run on this core: a child inherits the affinity of the thread that starts it."""
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
    """Raises the limit of open files for this program and its children to the maximum, and returns the limit."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def run(command: Sequence[str], core: int | None = None, timeout: float = 30.0) -> str:
    """Runs a program, checks that it succeeds, and returns its standard output."""
    with on_core(core):
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    with process:
        try:
            output, errors = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            raise Failed(f"{shorten(command)} took more than {timeout:.0f} s") from None
        finally:
            process.kill()
    if process.returncode != 0:
        raise Failed(f"{shorten(command)} ended with {process.returncode}", errors or output)
    return output


def shorten(command: Sequence[str]) -> str:
    """Returns the command without directories, which mean nothing on other machines, and without access tokens."""
    short = " ".join(Path(part).name if part.startswith("/") and part.count("/") > 1 else part for part in command)
    return re.sub(r"Bearer \S+", "Bearer …", short)


class Background:
    """A program that runs in the background, and has reported that it is ready."""

    def __init__(self, command: Sequence[str], ready: str, core: int | None = None) -> None:
        self._name = shorten(command)
        with on_core(core):
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                # Its children are killed with it, as one process group.
                process_group=0,
            )
        self.pid = self._process.pid
        self._output: deque[str] = deque(maxlen=20)
        self._readiness: queue.SimpleQueue[bool] = queue.SimpleQueue()
        assert self._process.stdout is not None
        # Reads the output to its end: a program blocks when its pipe is full.
        self._listener = threading.Thread(target=self._listen, args=(self._process.stdout, ready), daemon=True)
        self._listener.start()
        try:
            self._await_readiness()
        except BaseException:
            self.stop()
            raise

    def _listen(self, output: IO[str], ready: str) -> None:
        for line in output:
            self._output.append(line)
            if ready in line:
                self._readiness.put(True)
        self._readiness.put(False)

    def _await_readiness(self) -> None:
        try:
            ready = self._readiness.get(timeout=START_TIMEOUT)
        except queue.Empty:
            raise Failed(f"{self._name} was not ready within {START_TIMEOUT:.0f} s", "".join(self._output)) from None
        if not ready:
            raise Failed(f"{self._name} ended before it was ready", "".join(self._output))

    def stop(self) -> None:
        """Terminates the program, and kills it after a timeout."""
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._end()

    def finish(self) -> None:
        """Closes the program's standard input, waits for its end, and checks that it succeeds."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            code = self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.stop()
            raise Failed(f"{self._name} did not end when its input did") from None
        self._end()
        if code != 0:
            raise Failed(f"{self._name} ended with {code}", "".join(self._output))

    def _end(self) -> None:
        self._process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._listener.join()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def resident(self) -> int:
        """Returns the resident memory, in bytes."""
        return self._memory("VmRSS")

    def peak(self) -> int:
        """Returns the peak of the resident memory since the start or the last `reset_peak`, in bytes."""
        return self._memory("VmHWM")

    def reset_peak(self) -> None:
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def _memory(self, field: str) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == field:
                return int(value.removesuffix("kB")) * 1024
        raise Failed(f"{self._name} is gone")
