"""A peer at work: the folder it serves, the files it finds there, and its server."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from .clients import Clients
from .peers import Peer, Places, Speaks
from .process import Background, Failed, free_port, run

SOURCE = "source"
BLOCK = 1 << 20


@dataclass(frozen=True)
class Files:
    """What a server finds in its folder."""

    # The folder is in memory (tmpfs), not on a disk.
    in_memory: bool = False
    # The size of the file to read, if there is one.
    size: int = 0
    # That file is a hole: it takes no room on the disk, and reads as zeros.
    sparse: bool = False


@dataclass(frozen=True)
class Token:
    """An access token that is good for a while, and the keys that a server knows it by. Nobody is at its issuer's."""

    folder: Path
    issuer: str = "http://127.0.0.1:9000"
    audience: str = "https://files.example.com"

    @property
    def path(self) -> Path:
        return self.folder / "token"

    def values(self) -> dict[str, str]:
        """What a command may name in braces."""
        jwks = str(self.folder / "jwks.json")
        return {"issuer": self.issuer, "audience": self.audience, "jwks": jwks}

    def make(self, tools: str) -> None:
        """Makes it when it is first asked for: the tools have a program for that."""
        if self.path.exists():
            return
        self.folder.mkdir(exist_ok=True)
        names = ("--issuer", self.issuer, "--audience", self.audience)
        run((f"{tools}/token", "--folder", str(self.folder), *names))


@dataclass(frozen=True)
class Bench:
    """What all peers share."""

    places: Places
    clients: Clients
    server_core: int | None
    disk: Path
    memory: Path

    @property
    def token(self) -> Token:
        return Token(self.memory / "token")

    def source(self, files: Files) -> Path:
        """The file to read, made when it is first asked for. It is in the page cache then."""
        path = self.disk / f"{'hole' if files.sparse else 'noise'}-{files.size}"
        if path.exists():
            return path
        noise = bytearray(os.urandom(BLOCK))
        with open(path, "wb") as file:
            if files.sparse:
                file.truncate(files.size)
            else:
                for start in range(0, files.size, BLOCK):
                    file.write(noise[: files.size - start])
            # So that nothing is written back while something is measured.
            os.fsync(file.fileno())
        # What was written is in the page cache already; a hole is not.
        if files.sparse:
            with open(path, "rb", buffering=0) as file:
                while file.readinto(noise):
                    pass
        return path


class Target:
    """A peer with a folder of its own."""

    def __init__(self, bench: Bench, peer: Peer, files: Files, root: Path) -> None:
        self.bench = bench
        self.clients = replace(bench.clients, token=bench.token.path) if peer.takes_token else bench.clients
        self.peer = peer
        self.files = files
        self.root = root
        self.address = ""
        self._server: Background | None = None
        self._config = root / "config"
        # Where a peer that copies puts the copy: in memory, so that no disk is measured.
        self._copy = bench.memory / f"{root.name}-copy"

    @property
    def server(self) -> Background:
        if self._server is None:
            raise Failed("no server is running")
        return self._server

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """Its server runs, if it has one."""
        if self.peer.speaks is Speaks.NOTHING:
            yield
            return
        self.address = f"127.0.0.1:{free_port()}"
        if self.peer.takes_token:
            self.bench.token.make(self.bench.places.tools)
        self._configure()
        self._server = Background(self.command(self.peer.command), self.peer.ready, self.bench.server_core)
        try:
            yield
        finally:
            self._server.stop()
            self._server = None

    def command(self, template: Iterable[str]) -> tuple[str, ...]:
        """A command of the peer with everything that it names."""
        values = self.bench.places.values() | self.bench.token.values() | {
            "config": str(self._config),
            "address": self.address,
            "port": self.address.rpartition(":")[2],
            "root": str(self.root),
            "filename": SOURCE,
            "bytes": str(self.files.size),
            "copy": str(self._copy),
        }
        return tuple(part.format(**values) for part in template)

    def _configure(self) -> None:
        if self.peer.config is None:
            return
        (template,) = self.command((self.peer.config,))
        content = Path(template).read_text()
        for name, value in zip(self.peer.settings, self.command(self.peer.settings.values())):
            content = content.replace(f"@{name}@", value)
        self._config.write_text(content)

    def written(self) -> list[int]:
        """The sizes of the files that were written."""
        return [path.stat().st_size for path in self._written()]

    def empty(self) -> None:
        """Deletes what was written."""
        for path in self._written():
            path.unlink()
        self._copy.unlink(missing_ok=True)
        # So that no one waits for the disk to write what was another's.
        if not self.files.in_memory:
            os.sync()

    def _written(self) -> list[Path]:
        return [path for path in self.root.iterdir() if path.is_file() and path.name != SOURCE]


@contextlib.contextmanager
def target(bench: Bench, peer: Peer, files: Files) -> Iterator[Target]:
    """A peer with a new folder, which is deleted in the end."""
    parent = bench.memory if files.in_memory else bench.disk
    root = Path(tempfile.mkdtemp(prefix=f"{peer.key}-", dir=parent))
    try:
        if files.size:
            os.link(bench.source(files), root / SOURCE)
        yield Target(bench, peer, files, root)
    finally:
        shutil.rmtree(root)
