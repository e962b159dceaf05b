"""A peer that is measured: the directory it serves, the files in it, and its server."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from .clients import Clients
from .peers import Peer, Places, Protocol
from .process import Background, Failed, free_port, run

SOURCE = "source"
BLOCK = 1 << 20


@dataclass(frozen=True)
class Files:
    """The files in the directory of a server."""

    # Whether the directory is in memory (tmpfs), not on a disk.
    in_memory: bool = False
    # The size of the file to read in bytes, or 0 without such a file.
    size: int = 0
    # Whether that file is a hole, which takes no space on the disk and reads as zeros.
    sparse: bool = False


@dataclass(frozen=True)
class Token:
    """An access token, and the keys that verify it. The issuer's address has no server."""

    folder: Path
    issuer: str = "http://127.0.0.1:9000"
    audience: str = "https://files.example.com"

    @property
    def path(self) -> Path:
        return self.folder / "token"

    def values(self) -> dict[str, str]:
        """The values for names in braces in commands."""
        jwks = str(self.folder / "jwks.json")
        return {"issuer": self.issuer, "audience": self.audience, "jwks": jwks}

    def make(self, tools: str) -> None:
        """Makes the token on first use, with a program of the tools."""
        if self.path.exists():
            return
        self.folder.mkdir(exist_ok=True)
        names = ("--issuer", self.issuer, "--audience", self.audience)
        run((f"{tools}/token", "--folder", str(self.folder), *names))


@dataclass(frozen=True)
class Bench:
    """The state that all peers share."""

    places: Places
    clients: Clients
    server_core: int | None
    disk: Path
    memory: Path

    @property
    def token(self) -> Token:
        return Token(self.memory / "token")

    def source(self, files: Files) -> Path:
        """Returns the file to read, which is made on first use and is then in the page cache."""
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
            # Prevents writeback during a measurement.
            os.fsync(file.fileno())
        # Written bytes are in the page cache already; a hole is not.
        if files.sparse:
            with open(path, "rb", buffering=0) as file:
                while file.readinto(noise):
                    pass
        return path


class Target:
    """A peer with a directory of its own."""

    def __init__(self, bench: Bench, peer: Peer, files: Files, root: Path) -> None:
        self.bench = bench
        self.clients = replace(bench.clients, token=bench.token.path) if peer.takes_token else bench.clients
        self.peer = peer
        self.files = files
        self.root = root
        self.address = ""
        self._server: Background | None = None
        self._config = root / "config"
        # The copy of a peer that copies: in memory, so that no disk is measured.
        self._copy = bench.memory / f"{root.name}-copy"

    @property
    def server(self) -> Background:
        if self._server is None:
            raise Failed("no server is running")
        return self._server

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """Runs the peer's server, if it has one."""
        if self.peer.protocol is Protocol.NOTHING:
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
        """Replaces the names in braces in a command of the peer."""
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

    def written_sizes(self) -> list[int]:
        """Returns the sizes of the written files in bytes."""
        return [path.stat().st_size for path in self._written_files()]

    def delete_written(self) -> None:
        """Deletes the written files."""
        for path in self._written_files():
            path.unlink()
        self._copy.unlink(missing_ok=True)
        # Otherwise the next peer would wait for the writeback of this one.
        if not self.files.in_memory:
            os.sync()

    def _written_files(self) -> list[Path]:
        # Servers have hidden folders for files of their own.
        folders = [path for path in self.root.iterdir() if path.is_dir() and not path.name.startswith(".")]
        paths = [path for folder in (self.root, *folders) for path in folder.iterdir()]
        return [path for path in paths if path.is_file() and path.name != SOURCE]


@contextlib.contextmanager
def target(bench: Bench, peer: Peer, files: Files) -> Iterator[Target]:
    """Gives a peer a new directory, which is deleted at the end."""
    parent = bench.memory if files.in_memory else bench.disk
    root = Path(tempfile.mkdtemp(prefix=f"{peer.key}-", dir=parent))
    try:
        if files.size:
            os.link(bench.source(files), root / SOURCE)
        yield Target(bench, peer, files, root)
    finally:
        shutil.rmtree(root)
