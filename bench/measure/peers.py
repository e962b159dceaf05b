"""The peers: what each of them is, how it is started, which version it is."""

import enum
import json
import re
import shutil
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from .process import run

REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Places:
    """Where the programs are."""

    muxs: str
    tools: str
    cpp: str
    python: str
    nginx: str

    def values(self) -> dict[str, str]:
        """What a command may name in braces."""
        return vars(self) | {"peers": str(REPOSITORY / "bench" / "peers")}


class Speaks(enum.Enum):
    """How a client gets a file from it, or to it."""

    GRPC = enum.auto()
    HTTP1 = enum.auto()
    HTTP2 = enum.auto()
    # Bytes over TCP, with nothing around them.
    RAW = enum.auto()
    # Nothing: it is a program that does its work and ends.
    NOTHING = enum.auto()


@dataclass(frozen=True)
class Peer:
    """One that is measured. Commands name in braces what is known only when it starts: see `Places` and `Target`."""

    key: str
    title: str
    speaks: Speaks
    command: tuple[str, ...]
    version: Callable[[Places], str]
    # What it says when it accepts connections.
    ready: str = "listening"
    # Files that have to be there beside the program.
    needs: tuple[str, ...] = ()
    # BidiHello from a client of its own library.
    own_bidi: tuple[str, ...] = ()
    # Its program says in JSON how long it took; of one that does not, the whole run is timed.
    reports: bool = False
    # The template of a file that it is configured with, and what stands for @NAMES@ in it.
    config: str | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    # Who calls it says so: see `Token`.
    takes_token: bool = False

    def lacks(self, places: Places) -> str | None:
        """What is not there of it."""
        for path in (self.command[0], *self.needs):
            path = path.format(**places.values())
            if not (shutil.which(path) or Path(path).is_file()):
                return f"there is no {Path(path).name}"
        return None


def muxs_version(places: Places) -> str:
    number = run((places.muxs, "--version")).split()[-1]
    commit = run(("git", "-C", str(REPOSITORY), "describe", "--always", "--dirty")).strip()
    return f"{number} ({commit})"


def node_version(places: Places) -> str:
    package = json.loads(Path(GRPC_JS.format(**places.values())).read_text())
    return f"{package['version']}, Node.js {run(('node', '--version')).strip()}"


def locked(*crates: str) -> Callable[[Places], str]:
    """The versions of crates that Cargo has locked."""

    def version(_: Places) -> str:
        with open(REPOSITORY / "Cargo.lock", "rb") as lock:
            packages = tomllib.load(lock)["package"]
        return ", ".join(
            f"{crate} {package['version']}" for crate in crates for package in packages if package["name"] == crate
        )

    return version


def said(pattern: str, *command: str) -> Callable[[Places], str]:
    """The version that a program tells."""

    def version(places: Places) -> str:
        output = run([part.format(**places.values()) for part in command])
        found = re.search(pattern, output)
        return found[0] if found else "unknown"

    return version


NGINX_CONF = "{peers}/nginx.conf"
# An address that nobody calls.
NOBODY = "unix:{root}/nobody"
GRPC_JS = "{peers}/node/node_modules/@grpc/grpc-js/package.json"

RUST = said(r"rustc [\d.]+", "rustc", "--version")


def floor(mode: str, *flags: str) -> Peer:
    serve = ("{tools}/floor", "serve", "--listen", "{address}", "--mode", mode, "--root", "{root}")
    return Peer(mode, f"`{mode}`", Speaks.RAW, (*serve, *flags), RUST)


def alone(what: str) -> Peer:
    command = ("{tools}/floor", what, "--bytes", "{bytes}")
    return Peer(what, f"`{what}`", Speaks.NOTHING, command, RUST, reports=True)


def nginx(key: str, title: str, speaks: Speaks, http1: str, http2: str) -> Peer:
    return Peer(
        key,
        title,
        speaks,
        ("{nginx}", "-p", "{root}", "-c", "{config}", "-e", "stderr", "-g", "error_log stderr notice;"),
        # It says so on standard error.
        said(r"[\d.]+", "sh", "-c", "{nginx} -v 2>&1"),
        # It listens by then.
        ready="start worker process",
        needs=(NGINX_CONF,),
        config=NGINX_CONF,
        settings={"HTTP1": http1, "HTTP2": http2, "ROOT": "{root}", "PREFIX": "{root}"},
    )


def stock(key: str, title: str, *flags: str) -> Peer:
    command = ("{tools}/stock", "--listen", "{address}", "--root", "{root}", *flags)
    own_bidi = ("{tools}/load", "own-bidi")
    return Peer(key, title, Speaks.GRPC, command, locked("tonic", "hyper", "h2"), own_bidi=own_bidi)


def python(key: str, title: str, *flags: str) -> Peer:
    server = "{peers}/python/server.py"
    command = ("{python}", server, "--listen", "{address}", "--root", "{root}", *flags)
    print_versions = "import grpc, platform; print('grpcio', grpc.__version__ + ', Python', platform.python_version())"
    return Peer(
        key, title, Speaks.GRPC, command, said("grpcio.*", "{python}", "-c", print_versions), needs=(server,)
    )


ALL = (
    alone("memcpy"),
    alone("crc"),
    Peer("cp", "`cp`", Speaks.NOTHING, ("cp", "{root}/{filename}", "{copy}"), said(r"cp .*", "cp", "--version")),
    floor("pread-write", "--filename", "{filename}"),
    floor("hot-write", "--bytes", "{bytes}"),
    floor("sendfile", "--filename", "{filename}"),
    floor("recv-pwrite"),
    Peer(
        "constant",
        "`constant`",
        Speaks.HTTP2,
        ("{tools}/constant", "--listen", "{address}"),
        locked("h2"),
    ),
    nginx("nginx-http1", "nginx HTTP/1.1", Speaks.HTTP1, http1="{address}", http2=NOBODY),
    nginx("nginx-http2", "nginx HTTP/2", Speaks.HTTP2, http1=NOBODY, http2="{address}"),
    Peer(
        "muxs",
        "muxs",
        Speaks.GRPC,
        # The others have no such limits, or higher ones.
        (
            *("{muxs}", "--listen", "{address}", "--root", "{root}"),
            *("--max-connections-per-address", "10000", "--max-calls", "20000"),
        ),
        muxs_version,
        own_bidi=("{tools}/load", "own-bidi"),
    ),
    stock("tonic", "tonic, windows as muxs"),
    stock("tonic-default", "tonic", "--default"),
    Peer(
        "cpp",
        "gRPC C++",
        Speaks.GRPC,
        ("{cpp}/server", "--listen", "{address}", "--root", "{root}"),
        said(r".+", "pkg-config", "--modversion", "grpc++"),
        own_bidi=("{cpp}/client", "bidi"),
    ),
    python("grpcio", "grpcio"),
    python("grpcio-aio", "grpcio, asyncio", "--asyncio"),
    Peer(
        "grpc-js",
        "grpc-js",
        Speaks.GRPC,
        ("node", "{peers}/node/server.js", "--listen", "{address}", "--root", "{root}"),
        node_version,
        needs=("{peers}/node/server.js", GRPC_JS),
    ),
)

PEERS = {peer.key: peer for peer in ALL}


def without(key: str, program: str) -> Peer:
    """muxs as it would be without one of its levers."""
    muxs = PEERS["muxs"]
    return replace(muxs, key=key, title=f"without `{key}`", command=(program, *muxs.command[1:]))


def beside_itself(key: str, title: str, *flags: str, takes_token: bool = False) -> Peer:
    """muxs as it is when it has more to do."""
    muxs = PEERS["muxs"]
    needs = ("{tools}/token",) if takes_token else ()
    return replace(
        muxs, key=key, title=title, command=(*muxs.command, *flags), needs=needs, takes_token=takes_token
    )


ADMIN = ("--admin-listen", "127.0.0.1:0")
TOKENS = ("--auth-issuer", "{issuer}", "--auth-audience", "{audience}", "--auth-jwks", "{jwks}")
LAYERS = (
    # The header is there, and nobody looks at it.
    beside_itself("muxs-header", "muxs, token not looked at", takes_token=True),
    beside_itself("muxs-metrics", "muxs with metrics", *ADMIN),
    beside_itself("muxs-tokens", "muxs with tokens", *TOKENS, takes_token=True),
    beside_itself("muxs-both", "muxs with both", *TOKENS, *ADMIN, takes_token=True),
)
PEERS |= {peer.key: peer for peer in LAYERS}


def versions(places: Places) -> dict[str, str]:
    """Of what measures, and what the peers are built with."""
    told = {
        "h2load": said(r"nghttp2/[\d.]+", "h2load", "--version"),
        "rustc": said(r"[\d.]+", "rustc", "--version"),
        "g++": said(r"[\d.]+", "g++", "-dumpfullversion"),
    }
    return {program: version(places) for program, version in told.items() if shutil.which(program)}
