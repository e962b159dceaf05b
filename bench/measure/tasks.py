"""What is done in one timed run, and what it shows. The numbers of each task are in `works`."""

import statistics
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from .clients import REPLY_BYTES
from .peers import Speaks
from .process import Failed
from .target import SOURCE, Files, Target

KIB = 1 << 10


@dataclass(frozen=True)
class Figure:
    """Something that a run shows."""

    key: str
    unit: str
    # Or neither: it only says how the others came about.
    more_is_better: bool | None = True


Figures = Mapping[str, float]
# One run.
Timed = Callable[[], Figures]


class Unable(Exception):
    """A peer cannot take part, and that is no failure."""


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """Something that a client does with a target."""

    figures: ClassVar[tuple[Figure, ...]]
    # The program that it calls the server with.
    client: ClassVar[str] = "load"
    # Each run starts a server of its own.
    starts_servers: ClassVar[bool] = False

    files: Files = Files()

    @abstractmethod
    def warm_up(self, target: Target) -> Timed:
        """Does it once, looks whether it is right, and gives what does it once more."""


GIGABYTES = Figure("speed", "GB/s")


@dataclass(frozen=True, kw_only=True)
class Transfer(Task):
    """Moves a file, several times at once if there are several streams."""

    figures = (GIGABYTES,)

    size: int
    streams: int = 1

    @abstractmethod
    def move(self, target: Target, size: int) -> float:
        """The seconds that it takes."""

    def timed(self, target: Target) -> Figures:
        return {GIGABYTES.key: self.size * self.streams / self.move(target, self.size) / 1e9}


READERS = {
    Speaks.GRPC: ("read", "--filename", SOURCE),
    Speaks.HTTP1: ("get", "--path", f"/{SOURCE}", "--http1"),
    Speaks.HTTP2: ("get", "--path", f"/{SOURCE}", "--http2"),
    Speaks.RAW: ("raw-read",),
}


@dataclass(frozen=True, kw_only=True)
class Read(Transfer):
    """ReadStream, or what comes next to it where there is no gRPC."""

    def warm_up(self, target: Target) -> Timed:
        if target.peer.speaks is Speaks.GRPC:
            target.clients.load("check", target.address, "--filename", SOURCE, "--bytes", str(self.size))
        self.move(target, self.size)
        return lambda: self.timed(target)

    def move(self, target: Target, size: int) -> float:
        if target.peer.speaks is Speaks.NOTHING:
            return self._alone(target)
        what, *flags = READERS[target.peer.speaks]
        numbers = ("--bytes", str(size), "--streams", str(self.streams))
        return target.clients.load(what, target.address, *flags, *numbers)["seconds"]

    @staticmethod
    def _alone(target: Target) -> float:
        command = target.command(target.peer.command)
        try:
            if target.peer.reports:
                return target.clients.reporting(command)["seconds"]
            return target.clients.timed(command)
        finally:
            target.empty()


WRITERS = {Speaks.GRPC: ("write", "--filename", "written"), Speaks.RAW: ("raw-write",)}


@dataclass(frozen=True, kw_only=True)
class Write(Transfer):
    """WriteStream, or what comes next to it where there is no gRPC."""

    # The warm-up moves no more than this.
    warm_up_size: int

    def warm_up(self, target: Target) -> Timed:
        self.move(target, min(self.size, self.warm_up_size))
        return lambda: self.timed(target)

    def move(self, target: Target, size: int) -> float:
        what, *flags = WRITERS[target.peer.speaks]
        numbers = ("--bytes", str(size), "--streams", str(self.streams))
        try:
            seconds = target.clients.load(what, target.address, *flags, *numbers)["seconds"]
            written = target.written()
            # The floor keeps nothing.
            if target.peer.speaks is Speaks.GRPC and written != [size] * self.streams:
                raise Failed(f"files of {written} bytes were written, not {self.streams} of {size}")
            return seconds
        finally:
            target.empty()


PEAK = Figure("peak", "KiB at most", more_is_better=False)
AFTER = Figure("after", "KiB after", more_is_better=False)


@dataclass(frozen=True, kw_only=True)
class Growth(Task):
    """A transfer, and what memory the server takes for it."""

    figures = (GIGABYTES, PEAK, AFTER)

    transfer: Transfer

    def warm_up(self, target: Target) -> Timed:
        # Nothing: what the server takes for its first transfer counts, too.
        def timed() -> Figures:
            target.server.forget_peak()
            speed = self.transfer.timed(target)
            return {**speed, PEAK.key: target.server.peak() / KIB, AFTER.key: target.server.resident() / KIB}

        return timed


CALL_RATE = Figure("rate", "calls/s")


def check_hello(target: Target) -> int:
    """The size of an answer. One of another size than the greeting is none; who speaks no gRPC answers anything."""
    size = target.clients.say_hello(target.address)
    if target.peer.speaks is Speaks.GRPC and size != REPLY_BYTES:
        raise Failed(f"SayHello was answered with {size} bytes, not {REPLY_BYTES}")
    return size


@dataclass(frozen=True, kw_only=True)
class Unary(Task):
    """SayHello, over and over."""

    figures = (CALL_RATE,)
    client = "h2load"

    connections: int
    streams: int
    # How much, in flags of h2load.
    amount: tuple[str, ...]

    def warm_up(self, target: Target) -> Timed:
        reply_bytes = check_hello(target)

        def rate(amount: tuple[str, ...]) -> float:
            return target.clients.say_hellos(target.address, self.connections, self.streams, amount, reply_bytes)

        # Each connection as many as it can have at a time: it has to bear that, however long it takes.
        rate((f"--requests={self.connections * self.streams}",))
        rate(self.amount)
        return lambda: {CALL_RATE.key: rate(self.amount)}


MESSAGE_RATE = Figure("rate", "messages/s")


@dataclass(frozen=True, kw_only=True)
class Messages(Task):
    """One call with as many messages as take about so long."""

    figures = (MESSAGE_RATE,)

    # What `load` is told to do; nothing: the peer's own client does it.
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
    """SayHello, over and over, from a client that lets HTTP/2 index the access token: as many calls as take about so
    long."""

    # A message each.
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
    """SayHello at half of the rate that a peer can, or at half of what the slowest of some peers can."""

    figures = (P50, P99, SENT_RATE)
    client = "h2load"

    connections: int
    # How much, in flags of h2load.
    amount: tuple[str, ...]
    # Half of the slowest of these is the rate for all; nobody: each has its own.
    common_to: tuple[str, ...] = ()
    # What each peer can, known once it is warm.
    abilities: dict[str, float] = field(default_factory=dict, compare=False)

    def warm_up(self, target: Target) -> Timed:
        reply_bytes = check_hello(target)
        able = target.clients.say_hellos(target.address, self.connections, 1, self.amount, reply_bytes)
        self.abilities[target.peer.key] = able
        return lambda: self.timed(target)

    def timed(self, target: Target) -> Figures:
        able = self.abilities[target.peer.key]
        rate = min((self.abilities[key] for key in self.common_to if key in self.abilities), default=able) / 2
        # Beyond that a queue grows without end, and its length is not a latency.
        if rate > 0.9 * able:
            raise Unable(f"it can do {able:.0f} calls/s, and {rate:.0f} are sent")
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
        # Nothing: each run has a server that has just started.
        def timed() -> Figures:
            with target.serving():
                return {RESIDENT.key: self.memory(target) / KIB}

        return timed

    def memory(self, target: Target) -> float:
        return target.server.resident()


@dataclass(frozen=True, kw_only=True)
class PerConnection(AtRest):
    """What memory a connection takes, or a stream with its part of a connection."""

    connections: int
    streams: int = 0

    def memory(self, target: Target) -> float:
        before = target.server.resident()
        with target.clients.idle(target.address, self.connections, self.streams):
            return (target.server.resident() - before) / (self.connections * max(1, self.streams))


@dataclass(frozen=True, kw_only=True)
class WhileRead(AtRest):
    """The most memory that a server has while a file is read."""

    read: Read

    def memory(self, target: Target) -> float:
        target.server.forget_peak()
        self.read.move(target, self.read.size)
        return target.server.peak()
