"""The peers: what each is, how it is started, and its version."""

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
    """The paths of the programs."""

    muxs: str
    tools: str
    cpp: str
    python: str
    nginx: str

    def values(self) -> dict[str, str]:
        """The values for names in braces in commands."""
        return vars(self) | {"peers": str(REPOSITORY / "bench" / "peers")}


class Protocol(enum.Enum):
    """The protocol by which a client transfers files from or to a peer."""

    GRPC = enum.auto()
    HTTP1 = enum.auto()
    HTTP2 = enum.auto()
    # Bytes over TCP, without framing.
    RAW = enum.auto()
    # None: the peer is a program that does its work and exits.
    NOTHING = enum.auto()


@dataclass(frozen=True)
class Peer:
    """A program that is measured. Names in braces in its commands are replaced: see `Places` and `Target`."""

    key: str
    title: str
    protocol: Protocol
    command: tuple[str, ...]
    version: Callable[[Places], str]
    # A part of the line that the peer prints when it accepts connections.
    ready: str = "listening"
    # Files that the program requires.
    needs: tuple[str, ...] = ()
    # The command that calls BidiHello with the client of the peer's own library.
    own_bidi: tuple[str, ...] = ()
    # Whether the program reports its time in JSON. Otherwise the whole run is timed.
    reports: bool = False
    # The template of the configuration file, and the values for @NAMES@ in it.
    config: str | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    # Whether clients send an access token: see `Token`.
    takes_token: bool = False

    def find_missing(self, places: Places) -> str | None:
        """Returns which program or file is missing, or None."""
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
    """The versions of crates in Cargo.lock."""

    def version(_: Places) -> str:
        with open(REPOSITORY / "Cargo.lock", "rb") as lock:
            packages = tomllib.load(lock)["package"]
        return ", ".join(
            f"{crate} {package['version']}" for crate in crates for package in packages if package["name"] == crate
        )

    return version


def version_of(pattern: str, *command: str) -> Callable[[Places], str]:
    """The version in the output of a command."""

    def version(places: Places) -> str:
        output = run([part.format(**places.values()) for part in command])
        found = re.search(pattern, output)
        return found[0] if found else "unknown"

    return version


NGINX_CONF = "{peers}/nginx.conf"
# An address that no client calls.
UNUSED_ADDRESS = "unix:{root}/nobody"
GRPC_JS = "{peers}/node/node_modules/@grpc/grpc-js/package.json"

RUST = version_of(r"rustc [\d.]+", "rustc", "--version")


def floor(mode: str, *flags: str) -> Peer:
    serve = ("{tools}/floor", "serve", "--listen", "{address}", "--mode", mode, "--root", "{root}")
    return Peer(mode, f"`{mode}`", Protocol.RAW, (*serve, *flags), RUST)


def standalone(what: str) -> Peer:
    command = ("{tools}/floor", what, "--bytes", "{bytes}")
    return Peer(what, f"`{what}`", Protocol.NOTHING, command, RUST, reports=True)


def nginx(key: str, title: str, protocol: Protocol, http1: str, http2: str) -> Peer:
    return Peer(
        key,
        title,
        protocol,
        ("{nginx}", "-p", "{root}", "-c", "{config}", "-e", "stderr", "-g", "error_log stderr notice;"),
        # nginx prints its version to standard error.
        version_of(r"[\d.]+", "sh", "-c", "{nginx} -v 2>&1"),
        # nginx listens before it starts workers.
        ready="start worker process",
        needs=(NGINX_CONF,),
        config=NGINX_CONF,
        settings={"HTTP1": http1, "HTTP2": http2, "ROOT": "{root}", "PREFIX": "{root}"},
    )


def stock(key: str, title: str, *flags: str) -> Peer:
    command = ("{tools}/stock", "--listen", "{address}", "--root", "{root}", *flags)
    own_bidi = ("{tools}/load", "own-bidi")
    return Peer(key, title, Protocol.GRPC, command, locked("tonic", "hyper", "h2"), own_bidi=own_bidi)


def python(key: str, title: str, *flags: str) -> Peer:
    server = "{peers}/python/server.py"
    command = ("{python}", server, "--listen", "{address}", "--root", "{root}", *flags)
    print_versions = "import grpc, platform; print('grpcio', grpc.__version__ + ', Python', platform.python_version())"
    return Peer(
        key, title, Protocol.GRPC, command, version_of("grpcio.*", "{python}", "-c", print_versions), needs=(server,)
    )


ALL = (
    standalone("memcpy"),
    standalone("crc"),
    Peer(
        "cp",
        "`cp`",
        Protocol.NOTHING,
        ("cp", "{root}/{filename}", "{copy}"),
        version_of(r"cp .*", "cp", "--version"),
    ),
    Peer(
        "fsync-rename",
        "`fsync` + `rename`",
        Protocol.NOTHING,
        ("{tools}/floor", "fsync-rename", "--root", "{root}"),
        RUST,
        reports=True,
    ),
    floor("pread-write", "--filename", "{filename}"),
    floor("hot-write", "--bytes", "{bytes}"),
    floor("sendfile", "--filename", "{filename}"),
    floor("recv-pwrite"),
    Peer(
        "constant",
        "`constant`",
        Protocol.HTTP2,
        ("{tools}/constant", "--listen", "{address}"),
        locked("h2"),
    ),
    nginx("nginx-http1", "nginx HTTP/1.1", Protocol.HTTP1, http1="{address}", http2=UNUSED_ADDRESS),
    nginx("nginx-http2", "nginx HTTP/2", Protocol.HTTP2, http1=UNUSED_ADDRESS, http2="{address}"),
    Peer(
        "muxs",
        "muxs",
        Protocol.GRPC,
        # The other peers have no such limits, or higher ones.
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
        Protocol.GRPC,
        ("{cpp}/server", "--listen", "{address}", "--root", "{root}"),
        version_of(r".+", "pkg-config", "--modversion", "grpc++"),
        own_bidi=("{cpp}/client", "bidi"),
    ),
    python("grpcio", "grpcio"),
    python("grpcio-aio", "grpcio, asyncio", "--asyncio"),
    Peer(
        "grpc-js",
        "grpc-js",
        Protocol.GRPC,
        ("node", "{peers}/node/server.js", "--listen", "{address}", "--root", "{root}"),
        node_version,
        needs=("{peers}/node/server.js", GRPC_JS),
    ),
)

PEERS = {peer.key: peer for peer in ALL}


def muxs_without(key: str, program: str) -> Peer:
    """muxs built without one of its levers."""
    muxs = PEERS["muxs"]
    return replace(muxs, key=key, title=f"without `{key}`", command=(program, *muxs.command[1:]))


def other_muxs(key: str, program: str) -> Peer:
    """Another build of muxs."""
    muxs = PEERS["muxs"]

    def version(_: Places) -> str:
        return run((program, "--version")).split()[-1]

    return replace(
        muxs, key=key, title=f"muxs, {key}", command=(program, *muxs.command[1:]), version=version
    )


def muxs_with(key: str, title: str, *flags: str, takes_token: bool = False) -> Peer:
    """muxs with further features enabled."""
    muxs = PEERS["muxs"]
    needs = ("{tools}/token",) if takes_token else ()
    return replace(
        muxs, key=key, title=title, command=(*muxs.command, *flags), needs=needs, takes_token=takes_token
    )


ADMIN = ("--admin-listen", "127.0.0.1:0")
TOKENS = ("--auth-issuer", "{issuer}", "--auth-audience", "{audience}", "--auth-jwks", "{jwks}")
LAYERS = (
    # Clients send the header, and muxs ignores it.
    muxs_with("muxs-header", "muxs, token not looked at", takes_token=True),
    muxs_with("muxs-metrics", "muxs with metrics", *ADMIN),
    muxs_with("muxs-tokens", "muxs with tokens", *TOKENS, takes_token=True),
    muxs_with("muxs-both", "muxs with both", *TOKENS, *ADMIN, takes_token=True),
)
PEERS |= {peer.key: peer for peer in LAYERS}


def versions(places: Places) -> dict[str, str]:
    """Returns the versions of the clients and of the compilers."""
    commands = {
        "h2load": version_of(r"nghttp2/[\d.]+", "h2load", "--version"),
        "rustc": version_of(r"[\d.]+", "rustc", "--version"),
        "g++": version_of(r"[\d.]+", "g++", "-dumpfullversion"),
    }
    return {program: version(places) for program, version in commands.items() if shutil.which(program)}
