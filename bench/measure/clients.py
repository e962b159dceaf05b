"""Runs the programs that put load on a server, and reads their reports."""

import contextlib
import json
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .process import Background, Failed, run

# A peer whose run takes longer counts as hanging. In seconds.
RUN_TIMEOUT = 300.0

H2LOAD = "h2load"

# `HelloRequest{name: "you"}` with its message prefix: not compressed, 5 bytes long, field 1, 3 bytes.
REQUEST = b"\x00" + (5).to_bytes(4, "big") + b"\x0a\x03you"
# The length of the answer, `HelloReply{message: "Hello, you!"}`, with its message prefix.
REPLY_BYTES = 5 + 2 + len("Hello, you!")


@dataclass(frozen=True)
class Calls:
    """The results of a run of h2load."""

    rate: float
    made: int
    data_bytes: int


@dataclass(frozen=True)
class Clients:
    """The clients. All run on the same core."""

    load_program: str
    scratch: Path
    core: int | None
    # A file with the access token that the clients send. None: they send no token.
    token: Path | None = None

    def load(self, what: str, address: str, *flags: str) -> dict[str, Any]:
        """Runs `load` and returns its report. `load` fails unless every answer is complete."""
        return self.reporting((self.load_program, what, "--address", address, *self._token_flags(), *flags))

    def reporting(self, command: Sequence[str]) -> dict[str, Any]:
        """Runs a program that prints its report as a line of JSON, and returns the report."""
        return json.loads(run(command, self.core, RUN_TIMEOUT))

    def timed(self, command: Sequence[str]) -> float:
        """Runs a program without a report, and returns the seconds that it takes."""
        start = time.perf_counter()
        run(command, self.core, RUN_TIMEOUT)
        return time.perf_counter() - start

    @contextlib.contextmanager
    def idle(self, address: str, connections: int, streams: int) -> Iterator[None]:
        """Holds connections open, each with calls that have been answered once and stay open."""
        load = (self.load_program, "idle", "--address", address, *self._token_flags())
        flags = ("--connections", str(connections), "--streams", str(streams))
        holder = Background((*load, *flags), '"ready":true', self.core)
        try:
            yield
        except BaseException:
            holder.stop()
            raise
        holder.finish()

    def say_hello(self, address: str) -> int:
        """Calls `SayHello` once, and returns the size of the answer in bytes."""
        return self._h2load(address, ("--requests=1",)).data_bytes

    def say_hellos(
        self, address: str, connections: int, streams: int, amount: Sequence[str], reply_bytes: int
    ) -> float:
        """Calls `SayHello` over all connections, with `streams` calls at a time on each. Returns the calls per second.

        `amount` is the number of calls or their duration, in flags of h2load.
        """
        calls = self._h2load(address, (f"--clients={connections}", f"--max-concurrent-streams={streams}", *amount))
        # A call with an error status of gRPC is a success of HTTP, but has no message.
        if calls.data_bytes < calls.made * reply_bytes:
            raise Failed(f"{calls.made} calls were answered with {calls.data_bytes} bytes: not all succeeded")
        return calls.rate

    def hello_latencies(
        self, address: str, connections: int, rate: float, amount: Sequence[str]
    ) -> tuple[list[int], float]:
        """Calls `SayHello` at a fixed rate. Returns the microseconds of each call, and the actual rate.

        Each connection has one call at a time: otherwise h2load, whose clock is coarse, sends calls in bursts.
        """
        log = self.scratch / "h2load.log"
        # h2load appends to an existing log.
        log.unlink(missing_ok=True)
        flags = (f"--clients={connections}", f"--rps={rate / connections:.3f}", f"--log-file={log}", *amount)
        calls = self._h2load(address, flags)
        return [int(line.split("\t")[2]) for line in log.read_text().splitlines()], calls.rate

    def _token_flags(self) -> tuple[str, ...]:
        return ("--token-file", str(self.token)) if self.token else ()

    def _authorization_flags(self) -> tuple[str, ...]:
        # h2load takes headers only as flags, which other users of this machine can read. The token is valid only for
        # servers of the benchmark.
        return (f"--header=authorization: Bearer {self.token.read_text()}",) if self.token else ()

    def _h2load(self, address: str, flags: Sequence[str]) -> Calls:
        request = self.scratch / "request"
        request.write_bytes(REQUEST)
        output = run(
            (
                H2LOAD,
                *flags,
                f"--data={request}",
                "--header=content-type: application/grpc",
                "--header=te: trailers",
                *self._authorization_flags(),
                f"http://{address}/muxs.Greeter/SayHello",
            ),
            self.core,
            RUN_TIMEOUT,
        )
        return read_h2load(output)


def read_h2load(output: str) -> Calls:
    """Parses the report of h2load. Fails unless every call has succeeded."""

    def number(pattern: str) -> float:
        found = re.search(pattern, output)
        if not found:
            raise Failed("h2load made no report that can be read", output)
        return float(found[1])

    made = number(r"(\d+) done")
    # h2load does not count a call among the 2xx if its headers arrived before the measurement began.
    others = sum(number(rf"(\d+) {status}xx") for status in (3, 4, 5))
    if not made == number(r"(\d+) succeeded") > 0 == others:
        raise Failed("not all calls of h2load succeeded", output)
    return Calls(
        rate=number(r"([\d.]+) req/s"),
        made=int(made),
        data_bytes=int(number(r"\((\d+)\) data")),
    )
