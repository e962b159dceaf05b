"""The works: which peers do which tasks, and with which sizes."""

from collections.abc import Sequence
from dataclasses import dataclass

from .target import Files
from .tasks import (
    AtRest,
    Growth,
    IndexedUnary,
    Latency,
    Messages,
    PerConnection,
    PingPong,
    Read,
    Task,
    Transfer,
    Unary,
    WhileRead,
    Write,
    WriteSmallFiles,
)

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30

# The peers that serve gRPC, by their keys.
GRPC = ("muxs", "tonic-default", "cpp", "grpcio", "grpcio-aio", "grpc-js")
# The peers that serve thousands of calls a second.
FAST = ("muxs", "tonic-default", "cpp")
# muxs with more and more features.
LAYERED = ("muxs", "muxs-header", "muxs-metrics", "muxs-tokens", "muxs-both")
UNARY_FLOORS = ("constant", "nginx-http2")


@dataclass(frozen=True)
class Case:
    """One task for some peers."""

    name: str
    peers: tuple[str, ...]
    task: Task
    # The most rounds that are useful: a case may take long, or vary little.
    rounds_at_most: int = 100
    # Whether the case is in the plot.
    plotted: bool = False


@dataclass(frozen=True)
class Work:
    """Cases with the same figures, which form one table."""

    key: str
    title: str
    note: str
    cases: tuple[Case, ...]
    # Whether the table shows the figures of the peers as parts of those of muxs.
    parts_of_muxs: bool = False
    # The peer that all others are compared with as well, in a column of its own.
    floor: str | None = None


@dataclass(frozen=True)
class Scale:
    """The sizes and counts of all works."""

    # The size of the file for one reader, and for each of several; the same for writers.
    read: int
    read_each: int
    write: int
    write_each: int
    several: int
    # The bytes that are written to warm up.
    warm_up_size: int
    small_files: int
    # How long a client sends messages, in seconds.
    seconds: float
    # The connections and streams of unary calls, and the number of calls or their duration, in flags of h2load.
    grid: tuple[int, ...]
    calls: tuple[str, ...]
    calls_for_latency: tuple[str, ...]
    idle_connections: int
    stream_connections: int
    streams: int
    growing_sizes: tuple[int, ...]
    # The numbers of connections, each with a duration: more connections take longer until all are busy.
    growing_connections: dict[int, tuple[str, ...]]


def timed_calls(seconds: float, warm_up: float = 0) -> tuple[str, ...]:
    return (f"--duration={seconds * 1000:.0f}ms", f"--warm-up-time={warm_up * 1000:.0f}ms")


FULL = Scale(
    read=GIB,
    read_each=256 * MIB,
    write=GIB,
    write_each=128 * MIB,
    several=8,
    warm_up_size=64 * MIB,
    small_files=4_096,
    seconds=1,
    grid=(1, 10, 100),
    calls=timed_calls(0.7, 0.2),
    calls_for_latency=timed_calls(1),
    idle_connections=1_000,
    stream_connections=100,
    streams=10,
    growing_sizes=(64 * MIB, 256 * MIB, GIB, 4 * GIB, 16 * GIB),
    growing_connections={
        1: timed_calls(0.7, 0.2),
        10: timed_calls(0.7, 0.2),
        100: timed_calls(0.7, 0.2),
        1_000: timed_calls(1, 1),
        10_000: timed_calls(4, 3),
    },
)

# Only shows that everything works.
SMOKE = Scale(
    read=8 * MIB,
    read_each=2 * MIB,
    write=8 * MIB,
    write_each=2 * MIB,
    several=2,
    warm_up_size=MIB,
    small_files=96,
    seconds=0.1,
    grid=(10,),
    calls=("--requests=200",),
    calls_for_latency=("--requests=200",),
    idle_connections=20,
    stream_connections=5,
    streams=2,
    growing_sizes=(MIB, 8 * MIB),
    growing_connections={1: ("--requests=200",), 50: ("--requests=200",)},
)


def bytes_in_words(size: int) -> str:
    return f"{size // GIB} GiB" if size >= GIB else f"{size // MIB} MiB"


def works(scale: Scale) -> tuple[Work, ...]:
    return (
        reading(scale),
        writing(scale, in_memory=True),
        writing(scale, in_memory=False),
        small_files(scale),
        unary(scale),
        messages(scale),
        ping_pong(scale),
        latency(scale),
        memory(scale),
        growth_of_reading(scale),
        growth_of_writing(scale),
        growth_with_connections(scale),
        layers(scale),
        layers_of_reading(scale),
    )


def reading(scale: Scale) -> Work:
    peers = ("pread-write", "hot-write", "sendfile", "nginx-http1", "nginx-http2", *GRPC)

    def case(streams: int, size: int, *others: str) -> Case:
        task = Read(size=size, streams=streams, files=Files(size=size))
        return Case(f"{streams} × {bytes_in_words(size)}", (*others, *peers), task, plotted=True)

    return Work(
        "read",
        "ReadStream",
        "A file is read, once or several times at once, each time over a connection of its own. It is on a disk, and "
        "in the page cache. The floors are what the machine gives: `memcpy` and `crc` go over a hot buffer of 256 KiB, "
        "`cp` copies the file to memory, the others send it, or a hot buffer, over bare TCP.",
        (
            case(1, scale.read, "memcpy", "crc", "cp"),
            case(scale.several, scale.read_each),
        ),
    )


def writing(scale: Scale, in_memory: bool) -> Work:
    peers = ("recv-pwrite", "muxs", "tonic", *GRPC[1:])

    def case(streams: int, size: int) -> Case:
        task = Write(size=size, streams=streams, warm_up_size=scale.warm_up_size, files=Files(in_memory=in_memory))
        # Disks are slow.
        rounds = 100 if in_memory else 3
        return Case(f"{streams} × {bytes_in_words(size)}", peers, task, rounds_at_most=rounds, plotted=True)

    place = "to memory" if in_memory else "to a disk"
    return Work(
        "write-memory" if in_memory else "write-disk",
        f"WriteStream {place}",
        "Files are written at once, each over a connection of its own, and made durable as each server does it. "
        "muxs also makes what it has durable every 64 MiB, so that an upload can be resumed; the others cannot do "
        "that. `recv-pwrite` takes bytes from bare TCP and does not sync. What was written is deleted after each run, "
        "and the disk is in sync before the next.",
        (case(1, scale.write), case(scale.several, scale.write_each)),
    )


def small_files(scale: Scale) -> Work:
    floor = "fsync-rename"
    size = 16 * KIB
    connections, streams = 4, 8

    def case(title: str, method: str, folders: int, *peers: str) -> Case:
        task = WriteSmallFiles(
            method=method,
            count=scale.small_files,
            size=size,
            folders=folders,
            connections=connections,
            streams=streams,
        )
        into = "one folder" if folders == 1 else f"{folders} folders"
        return Case(f"{title}, into {into}", (floor, *peers), task, plotted=folders == 1)

    return Work(
        "small-files",
        "Small files to a disk",
        f"{scale.small_files:,} files of {size // KIB} KiB, each by a call of its own, {connections * streams} at "
        f"once: {streams} on each of {connections} connections. Each file is durable before its call is answered, as each "
        "server does it; tonic and gRPC C++ do not sync the folder, so a crash can lose files they have answered for. "
        f"The floor is a program with {connections * streams} threads, on the core of the clients: each creates a file "
        "in a staging folder, writes it, syncs it, renames it into place and syncs that folder. What was written is "
        "deleted after each run, and the disk is in sync before the next.",
        (
            case("WriteStream", "write-stream", 1, *FAST),
            # The other peers do not implement Write.
            case("Write", "write", 1, "muxs"),
            case("WriteStream", "write-stream", 32, *FAST),
            case("Write", "write", 32, "muxs"),
        ),
        floor=floor,
    )


def unary(scale: Scale) -> Work:
    def case(connections: int, streams: int) -> Case:
        # Slow peers take long, and show little at the edges of the grid.
        middle = connections == streams == 10
        task = Unary(connections=connections, streams=streams, amount=scale.calls)
        return Case(
            f"{connections} × {streams}",
            (*UNARY_FLOORS, *(GRPC if middle else FAST)),
            task,
            plotted=streams == 1 or middle,
        )

    return Work(
        "unary",
        "SayHello",
        "h2load calls over so many connections × with so many calls at a time on each. It takes an answer of status "
        "2xx for a success, and gRPC tells a failure behind that; so the size of the answers is checked, too. "
        "`constant` and nginx always give the same answer, without looking at the call.",
        tuple(case(connections, streams) for connections in scale.grid for streams in scale.grid),
    )


def messages(scale: Scale) -> Work:
    def case(name: str, *how: str) -> Case:
        return Case(name, GRPC, Messages(how=how, seconds=scale.seconds), plotted=True)

    return Work(
        "messages",
        "Messages",
        "One call with many messages. The client is the same for all, but for the last case: there tonic's client "
        "calls muxs and tonic, and gRPC C++'s calls gRPC C++.",
        (
            case("LotsOfReplies", "replies"),
            case("LotsOfGreetings", "greetings"),
            case("BidiHello", "bidi", "--pipelined"),
            Case("BidiHello, each with its own client", FAST, Messages(how=(), seconds=scale.seconds)),
        ),
    )


def ping_pong(scale: Scale) -> Work:
    task = PingPong(how=("bidi", "--ping-pong"), seconds=scale.seconds)
    return Work(
        "ping-pong",
        "BidiHello, one message at a time",
        "One call in which each message waits for the answer to the last.",
        (Case("BidiHello", GRPC, task),),
    )


def latency(scale: Scale) -> Work:
    def case(name: str, *common_to: str) -> Case:
        task = Latency(connections=10, amount=scale.calls_for_latency, common_to=common_to)
        return Case(name, ("constant", *GRPC), task, plotted=True)

    return Work(
        "latency",
        "Latency of SayHello",
        "h2load sends over 10 connections at a fixed rate, one call at a time on each: one that is due waits, "
        "uncounted, for the answer to the last. Half of its own: of the calls per second that the peer can answer over "
        "10 × 1. The same for all: half of the less of what tonic and gRPC C++ can.",
        (
            case("half of its own"),
            case("the same for all", "tonic-default", "cpp"),
        ),
    )


def memory(scale: Scale) -> Work:
    idle = PerConnection(connections=scale.idle_connections)
    streams = PerConnection(connections=scale.stream_connections, streams=scale.streams)
    reader = WhileRead(read=Read(size=scale.read), files=Files(size=scale.read))

    def case(name: str, task: Task) -> Case:
        return Case(name, GRPC, task, rounds_at_most=3, plotted=True)

    return Work(
        "memory",
        "Memory",
        "What the kernel says of a server that has just started (resident set): at rest; what it is more for each of "
        f"{scale.idle_connections:,} connections; for each call of BidiHello that has been answered once and goes on, "
        f"{scale.streams} on each of {scale.stream_connections} connections; and the most while a file is read.",
        (
            case("at rest", AtRest()),
            case("each idle connection", idle),
            case("each open call", streams),
            case(f"at most, while {bytes_in_words(scale.read)} is read", reader),
        ),
    )


def growth(key: str, title: str, note: str, transfers: tuple[Transfer, ...]) -> Work:
    return Work(
        key,
        title,
        note,
        tuple(
            Case(
                bytes_in_words(transfer.size),
                ("muxs",),
                Growth(transfer=transfer, files=transfer.files),
                rounds_at_most=3 if transfer.size <= 4 * GIB else 1,
            )
            for transfer in transfers
        ),
    )


def growth_of_reading(scale: Scale) -> Work:
    return growth(
        "growth-read",
        "ReadStream, larger and larger",
        "What a larger file changes: the speed, and the memory of the server, the most in a run and after it. The file "
        "is a hole, which takes no room on the disk, and is in the page cache as zeros.",
        tuple(Read(size=size, files=Files(size=size, sparse=True)) for size in scale.growing_sizes),
    )


def growth_of_writing(scale: Scale) -> Work:
    return growth(
        "growth-write",
        "WriteStream to a disk, larger and larger",
        "The same for files that are written.",
        tuple(Write(size=size, warm_up_size=scale.warm_up_size) for size in scale.growing_sizes),
    )


def growth_with_connections(scale: Scale) -> Work:
    def case(connections: int, amount: tuple[str, ...]) -> Case:
        task = Unary(connections=connections, streams=1, amount=amount)
        return Case(f"{connections:,}", FAST, task, rounds_at_most=3)

    return Work(
        "growth-connections",
        "SayHello over more and more connections",
        "h2load calls over so many connections, with one call at a time on each.",
        tuple(case(*pair) for pair in scale.growing_connections.items()),
    )


def layers(scale: Scale) -> Work:
    def h2load(connections: int) -> Case:
        task = Unary(connections=connections, streams=10, amount=scale.calls)
        return Case(f"h2load, {connections} × 10", LAYERED, task)

    def indexed(connections: int) -> Case:
        how = ("hellos", "--connections", str(connections), "--streams", "10")
        task = IndexedUnary(how=how, seconds=scale.seconds)
        return Case(f"indexed, {connections} × 10", ("constant", *LAYERED), task)

    # One connection shows little of a server with tokens.
    connections = [many for many in scale.grid if many > 1]
    return Work(
        "layers",
        "What access tokens and metrics cost: SayHello",
        "muxs beside itself: with `--admin-listen`, so that calls are counted; with `--auth-issuer`, so that each call "
        "needs an access token (RFC 9068, RS256 with 2048 bits); with both. All calls bring the same token, whose "
        "signature muxs checks the first time and remembers. *Token not looked at* is muxs without all that, called "
        "with the same header: what HTTP/2 itself takes for it. h2load never lets a server index that header, so that "
        "each call brings all of it. *Indexed* is our own client, which lets HTTP/2 index it, as gRPC's C core and Go "
        "do: it comes once on a connection; `constant`, which does nothing but HTTP/2, is called without it and shows how "
        "far that client goes. Connections × calls at a time on each. In the last column muxs is 1.",
        tuple(case(many) for case in (h2load, indexed) for many in connections),
        parts_of_muxs=True,
    )


def layers_of_reading(scale: Scale) -> Work:
    task = Read(size=scale.read, files=Files(size=scale.read))
    return Work(
        "layers-read",
        "What access tokens and metrics cost: ReadStream",
        f"The same where one call reads {bytes_in_words(scale.read)}, from the page cache, and our own client.",
        (Case(f"1 × {bytes_in_words(scale.read)}", LAYERED, task),),
        parts_of_muxs=True,
    )


def ablation(scale: Scale, levers: Sequence[str]) -> tuple[Work, ...]:
    """muxs beside builds without each lever. The first word of a lever's name selects the works that show it."""

    def beside(*kinds: str) -> tuple[str, ...]:
        return ("muxs", *(lever for lever in levers if lever.split("-")[0] in (*kinds, "all")))

    def bytes_moved(kind: str, title: str, task: Transfer) -> Work:
        note = f"{bytes_in_words(task.size)}, once; the files are in memory."
        return Work(f"without-{kind}", title, note, (Case(title, beside(kind), task),))

    calls = tuple(
        Case(
            f"{connections} × 10",
            beside("call", "message"),
            Unary(connections=connections, streams=10, amount=scale.calls),
        )
        for connections in (10, 100)
    )
    greetings = Messages(how=("greetings",), seconds=scale.seconds)
    in_memory = Files(in_memory=True)
    return (
        bytes_moved("read", "ReadStream", Read(size=scale.read, files=Files(size=scale.read))),
        bytes_moved("write", "WriteStream", Write(size=scale.write, warm_up_size=scale.warm_up_size, files=in_memory)),
        Work("without-call", "SayHello", "h2load, connections × calls at a time on each.", calls),
        Work(
            "without-message",
            "LotsOfGreetings",
            "One call with many messages.",
            (Case("LotsOfGreetings", beside("call", "message"), greetings),),
        ),
    )
