"""Calls the programs that put load on a server, and reads what they measured."""

import contextlib
import json
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .process import Background, Failed, run

# A peer that takes longer for one run is taken for one that hangs.
RUN_WITHIN = 300.0

H2LOAD = "h2load"

# `HelloRequest{name: "you"}` as gRPC sends it: not compressed, 5 bytes long, field 1, 3 bytes.
REQUEST = b"\x00" + (5).to_bytes(4, "big") + b"\x0a\x03you"
# So long is the answer to it, `HelloReply{message: "Hello, you!"}`.
REPLY_BYTES = 5 + 2 + len("Hello, you!")


@dataclass(frozen=True)
class Calls:
    """What h2load says about the calls it made."""

    rate: float
    made: int
    data_bytes: int


@dataclass(frozen=True)
class Clients:
    """The clients, all on the same core."""

    load_program: str
    scratch: Path
    core: int | None
    # A file with the access token that they send, if they send one.
    token: Path | None = None

    def load(self, what: str, address: str, *flags: str) -> dict[str, Any]:
        """One run of `load`, which ends well only if everything was as it has to be."""
        return self.reporting((self.load_program, what, "--address", address, *self._token_file(), *flags))

    def reporting(self, command: Sequence[str]) -> dict[str, Any]:
        """One run of a program that reports in a line of JSON."""
        return json.loads(run(command, self.core, RUN_WITHIN))

    def timed(self, command: Sequence[str]) -> float:
        """One run of a program that reports nothing: the seconds that it takes."""
        start = time.perf_counter()
        run(command, self.core, RUN_WITHIN)
        return time.perf_counter() - start

    @contextlib.contextmanager
    def idle(self, address: str, connections: int, streams: int) -> Iterator[None]:
        """Holds connections open, with calls on each that have been answered once and go on."""
        load = (self.load_program, "idle", "--address", address, *self._token_file())
        flags = ("--connections", str(connections), "--streams", str(streams))
        holder = Background((*load, *flags), '"ready":true', self.core)
        try:
            yield
        except BaseException:
            holder.stop()
            raise
        holder.finish()

    def say_hello(self, address: str) -> int:
        """One `SayHello`: the size of its answer."""
        return self._h2load(address, ("--requests=1",)).data_bytes

    def say_hellos(self, address: str, connections: int, streams: int, amount: Sequence[str], reply_bytes: int) -> float:
        """`SayHello`, so many at a time on each connection, and as many as h2load is told to: the calls per second."""
        calls = self._h2load(address, (f"--clients={connections}", f"--max-concurrent-streams={streams}", *amount))
        # A call that fails in gRPC's eyes is a success in HTTP's, but has no message.
        if calls.data_bytes < calls.made * reply_bytes:
            raise Failed(f"{calls.made} calls were answered with {calls.data_bytes} bytes: not all succeeded")
        return calls.rate

    def hello_latencies(
        self, address: str, connections: int, rate: float, amount: Sequence[str]
    ) -> tuple[list[int], float]:
        """`SayHello` at a fixed rate: the microseconds of each, and the rate that came of it.

        One at a time on a connection, for otherwise h2load, whose clock is coarse, sends heaps of them at once.
        """
        log = self.scratch / "h2load.log"
        # h2load adds to the end.
        log.unlink(missing_ok=True)
        flags = (f"--clients={connections}", f"--rps={rate / connections:.3f}", f"--log-file={log}", *amount)
        calls = self._h2load(address, flags)
        return [int(line.split("\t")[2]) for line in log.read_text().splitlines()], calls.rate

    def _token_file(self) -> tuple[str, ...]:
        return ("--token-file", str(self.token)) if self.token else ()

    def _authorization(self) -> tuple[str, ...]:
        # h2load takes it no other way: others on this machine can read it while it runs. It opens nothing but a server
        # of a benchmark.
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
                *self._authorization(),
                f"http://{address}/muxs.Greeter/SayHello",
            ),
            self.core,
            RUN_WITHIN,
        )
        return read_h2load(output)


def read_h2load(output: str) -> Calls:
    """Reads h2load's report. Every call has to have succeeded."""

    def number(pattern: str) -> float:
        found = re.search(pattern, output)
        if not found:
            raise Failed("h2load made no report that can be read", output)
        return float(found[1])

    made = number(r"(\d+) done")
    # A call whose head came before the measurement and its end within is not among the 2xx.
    others = sum(number(rf"(\d+) {status}xx") for status in (3, 4, 5))
    if not made == number(r"(\d+) succeeded") > 0 == others:
        raise Failed("not all calls of h2load succeeded", output)
    return Calls(
        rate=number(r"([\d.]+) req/s"),
        made=int(made),
        data_bytes=int(number(r"\((\d+)\) data")),
    )
