"""The tasks that are timed, and their figures. The numbers of each task are in `works`."""

import statistics
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from .clients import REPLY_BYTES
from .peers import Protocol
from .process import Failed
from .target import SOURCE, Files, Target

KIB = 1 << 10


@dataclass(frozen=True)
class Figure:
    """A quantity that a run measures."""

    key: str
    unit: str
    # None: the figure only explains the others.
    more_is_better: bool | None = True


Figures = Mapping[str, float]
# Runs a task once.
Timed = Callable[[], Figures]


class NotApplicable(Exception):
    """A peer cannot take part, without having failed."""


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """A task of a client with a target."""

    figures: ClassVar[tuple[Figure, ...]]
    # The client program.
    client: ClassVar[str] = "load"
    # Whether each run starts a server of its own.
    starts_servers: ClassVar[bool] = False

    files: Files = Files()

    @abstractmethod
    def warm_up(self, target: Target) -> Timed:
        """Runs the task once, checks the result, and returns the function that runs it again."""


GIGABYTES = Figure("speed", "GB/s")


@dataclass(frozen=True, kw_only=True)
class Transfer(Task):
    """Transfers a file, over each of several streams at the same time."""

    figures = (GIGABYTES,)

    size: int
    streams: int = 1

    @abstractmethod
    def move(self, target: Target, size: int) -> float:
        """Transfers the file, and returns the seconds that it takes."""

    def timed(self, target: Target) -> Figures:
        return {GIGABYTES.key: self.size * self.streams / self.move(target, self.size) / 1e9}


READERS = {
    Protocol.GRPC: ("read", "--filename", SOURCE),
    Protocol.HTTP1: ("get", "--path", f"/{SOURCE}", "--http1"),
    Protocol.HTTP2: ("get", "--path", f"/{SOURCE}", "--http2"),
    Protocol.RAW: ("raw-read",),
}


@dataclass(frozen=True, kw_only=True)
class Read(Transfer):
    """ReadStream, or the closest equivalent of a peer without gRPC."""

    def warm_up(self, target: Target) -> Timed:
        if target.peer.protocol is Protocol.GRPC:
            target.clients.load("check", target.address, "--filename", SOURCE, "--bytes", str(self.size))
        self.move(target, self.size)
        return lambda: self.timed(target)

    def move(self, target: Target, size: int) -> float:
        if target.peer.protocol is Protocol.NOTHING:
            return self._run_standalone(target)
        what, *flags = READERS[target.peer.protocol]
        numbers = ("--bytes", str(size), "--streams", str(self.streams))
        return target.clients.load(what, target.address, *flags, *numbers)["seconds"]

    @staticmethod
    def _run_standalone(target: Target) -> float:
        command = target.command(target.peer.command)
        try:
            if target.peer.reports:
                return target.clients.reporting(command)["seconds"]
            return target.clients.timed(command)
        finally:
            target.delete_written()


WRITERS = {Protocol.GRPC: ("write", "--filename", "written"), Protocol.RAW: ("raw-write",)}


@dataclass(frozen=True, kw_only=True)
class Write(Transfer):
    """WriteStream, or the closest equivalent of a peer without gRPC."""

    # The most bytes that the warm-up transfers.
    warm_up_size: int

    def warm_up(self, target: Target) -> Timed:
        self.move(target, min(self.size, self.warm_up_size))
        return lambda: self.timed(target)

    def move(self, target: Target, size: int) -> float:
        what, *flags = WRITERS[target.peer.protocol]
        numbers = ("--bytes", str(size), "--streams", str(self.streams))
        try:
            seconds = target.clients.load(what, target.address, *flags, *numbers)["seconds"]
            written = target.written_sizes()
            # The floor deletes its files.
            if target.peer.protocol is Protocol.GRPC and written != [size] * self.streams:
                raise Failed(f"files of {written} bytes were written, not {self.streams} of {size}")
            return seconds
        finally:
            target.delete_written()


FILE_RATE = Figure("rate", "files/s")


@dataclass(frozen=True, kw_only=True)
class WriteSmallFiles(Task):
    """Small files, many at once, each written by a call of its own. A peer without a server has as many threads."""

    figures = (FILE_RATE,)

    # The method, in the words of `load`.
    method: str
    count: int
    # The size of each file in bytes.
    size: int
    # The files go into so many folders in turn.
    folders: int
    connections: int
    # The calls at a time on each connection.
    streams: int

    def warm_up(self, target: Target) -> Timed:
        # Not every peer creates folders.
        for number in range(self.folders):
            (target.root / str(number)).mkdir(exist_ok=True)
        self.write(target)
        return lambda: {FILE_RATE.key: self.count / self.write(target)}

    def write(self, target: Target) -> float:
        """Writes the files, and returns the seconds that it takes."""
        numbers = ("--files", str(self.count), "--bytes", str(self.size), "--folders", str(self.folders))
        try:
            if target.peer.protocol is Protocol.NOTHING:
                threads = ("--threads", str(self.connections * self.streams))
                report = target.clients.reporting((*target.command(target.peer.command), *numbers, *threads))
            else:
                calls = ("--connections", str(self.connections), "--streams", str(self.streams))
                how = ("--method", self.method, *numbers, *calls)
                report = target.clients.load("small-files", target.address, *how)
            written = target.written_sizes()
            if written != [self.size] * self.count:
                raise Failed(f"{len(written)} files of {sum(written)} bytes, not {self.count} of {self.size} each")
            return report["seconds"]
        finally:
            target.delete_written()


PEAK = Figure("peak", "KiB at most", more_is_better=False)
AFTER = Figure("after", "KiB after", more_is_better=False)


@dataclass(frozen=True, kw_only=True)
class Growth(Task):
    """A transfer, and the memory that the server takes for it."""

    figures = (GIGABYTES, PEAK, AFTER)

    transfer: Transfer

    def warm_up(self, target: Target) -> Timed:
        # No warm-up: the memory for the first transfer counts as well.
        def timed() -> Figures:
            target.server.reset_peak()
            speed = self.transfer.timed(target)
            return {**speed, PEAK.key: target.server.peak() / KIB, AFTER.key: target.server.resident() / KIB}

        return timed


CALL_RATE = Figure("rate", "calls/s")


def check_hello(target: Target) -> int:
    """Calls SayHello, and returns the size of the answer in bytes.

    The answer of a peer with gRPC must have the size of the greeting. Other peers have a constant answer.
    """
    size = target.clients.say_hello(target.address)
    if target.peer.protocol is Protocol.GRPC and size != REPLY_BYTES:
        raise Failed(f"SayHello was answered with {size} bytes, not {REPLY_BYTES}")
    return size


@dataclass(frozen=True, kw_only=True)
class Unary(Task):
    """SayHello, repeatedly."""

    figures = (CALL_RATE,)
    client = "h2load"

    connections: int
    streams: int
    # The number of calls or their duration, in flags of h2load.
    amount: tuple[str, ...]

    def warm_up(self, target: Target) -> Timed:
        reply_bytes = check_hello(target)

        def rate(amount: tuple[str, ...]) -> float:
            return target.clients.say_hellos(target.address, self.connections, self.streams, amount, reply_bytes)

        # All connections with all their calls at once must work, however long that takes.
        rate((f"--requests={self.connections * self.streams}",))
        rate(self.amount)
        return lambda: {CALL_RATE.key: rate(self.amount)}


MESSAGE_RATE = Figure("rate", "messages/s")


@dataclass(frozen=True, kw_only=True)
class Messages(Task):
    """One call, with as many messages as take about `seconds`."""

    figures = (MESSAGE_RATE,)

    # The arguments of `load`. Empty: the client of the peer's own library calls it.
    how: tuple[str, ...]
    seconds: float

    def warm_up(self, target: Target) -> Timed:
        messages = 1_000
        while (seconds := self.send(target, messages)["seconds"]) < self.seconds / 4:
            messages *= 2 if seconds > self.seconds / 8 else 4
        messages = max(1, round(messages * self.seconds / seconds))

        def timed() -> Figures:
            report = self.send(target, messages)
            return {MESSAGE_RATE.key: report["messages"] / report["seconds"], **self.more(report)}

        return timed

    def send(self, target: Target, messages: int) -> Mapping[str, float]:
        if self.how:
            what, *flags = self.how
            return target.clients.load(what, target.address, *flags, "--messages", str(messages))
        own = target.command(target.peer.own_bidi)
        return target.clients.reporting((*own, "--address", target.address, "--messages", str(messages)))

    def more(self, report: Mapping[str, float]) -> Figures:
        return {}


@dataclass(frozen=True, kw_only=True)
class IndexedUnary(Messages):
    """SayHello, repeatedly, from a client that lets HTTP/2 index the access token.

    As many calls are made as take about `seconds`.
    """

    # Each call has one message.
    figures = (CALL_RATE,)


P50 = Figure("p50", "µs p50", more_is_better=False)
P99 = Figure("p99", "µs p99", more_is_better=False)


@dataclass(frozen=True, kw_only=True)
class PingPong(Messages):
    """One call in which each message waits for the answer to the last."""

    figures = (MESSAGE_RATE, P50, P99)

    def more(self, report: Mapping[str, float]) -> Figures:
        return {P50.key: report["p50_us"], P99.key: report["p99_us"]}


SENT_RATE = Figure("sent", "calls/s sent", more_is_better=None)


@dataclass(frozen=True, kw_only=True)
class Latency(Task):
    """SayHello at half of the peer's maximum rate, or at half of that of the slowest of some peers."""

    figures = (P50, P99, SENT_RATE)
    client = "h2load"

    connections: int
    # The number of calls or their duration, in flags of h2load.
    amount: tuple[str, ...]
    # The peers whose slowest sets the rate. Empty: each peer has its own rate.
    common_to: tuple[str, ...] = ()
    # The maximum rate of each peer, measured in its warm-up.
    max_rates: dict[str, float] = field(default_factory=dict, compare=False)

    def warm_up(self, target: Target) -> Timed:
        reply_bytes = check_hello(target)
        max_rate = target.clients.say_hellos(target.address, self.connections, 1, self.amount, reply_bytes)
        self.max_rates[target.peer.key] = max_rate
        return lambda: self.timed(target)

    def timed(self, target: Target) -> Figures:
        max_rate = self.max_rates[target.peer.key]
        rate = min((self.max_rates[key] for key in self.common_to if key in self.max_rates), default=max_rate) / 2
        # Near the maximum rate the queue grows without end, and its length is not a latency.
        if rate > 0.9 * max_rate:
            raise NotApplicable(f"it can do {max_rate:.0f} calls/s, and {rate:.0f} are sent")
        latencies, sent = target.clients.hello_latencies(target.address, self.connections, rate, self.amount)
        cuts = statistics.quantiles(latencies, n=100)
        return {P50.key: cuts[49], P99.key: cuts[98], SENT_RATE.key: sent}


RESIDENT = Figure("memory", "KiB", more_is_better=False)


@dataclass(frozen=True, kw_only=True)
class AtRest(Task):
    """The memory of a server that has just started."""

    figures = (RESIDENT,)
    starts_servers = True

    def warm_up(self, target: Target) -> Timed:
        # No warm-up: each run has a server that has just started.
        def timed() -> Figures:
            with target.serving():
                return {RESIDENT.key: self.memory(target) / KIB}

        return timed

    def memory(self, target: Target) -> float:
        return target.server.resident()


@dataclass(frozen=True, kw_only=True)
class PerConnection(AtRest):
    """The memory of a connection, or of a stream with its share of a connection."""

    connections: int
    streams: int = 0

    def memory(self, target: Target) -> float:
        before = target.server.resident()
        with target.clients.idle(target.address, self.connections, self.streams):
            return (target.server.resident() - before) / (self.connections * max(1, self.streams))


@dataclass(frozen=True, kw_only=True)
class WhileRead(AtRest):
    """The peak memory of a server while a file is read."""

    read: Read

    def memory(self, target: Target) -> float:
        target.server.reset_peak()
        self.read.move(target, self.read.size)
        return target.server.peak()
