"""What the servers do, whatever way they are called."""

import os
import sys
import tempfile
from pathlib import Path

import google_crc32c
import grpc

PROTOS = Path(__file__).resolve().parents[3] / "proto"

# Where grpcio-tools looks for the files to compile.
sys.path.insert(0, str(PROTOS))
pb, services = grpc.protos_and_services("mux.proto")

KIB = 1024
MIB = 1024 * KIB
MAX_NAME = 4096
MAX_CHUNK = MIB
DEFAULT_CHUNK = 256 * KIB


class Refused(Exception):
    """What a client is told instead of an answer."""

    def __init__(self, code, details):
        super().__init__(details)
        self.code = code
        self.details = details


def name_of(request):
    name = request.name
    if len(name.encode()) > MAX_NAME:
        raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "the name is too long")
    return name


def greeting(request):
    return pb.HelloReply(message=f"Hello, {name_of(request)}!")


class Guests:
    """Those who are greeted together: the first three by name."""

    def __init__(self):
        self.names = []
        self.others = 0

    def add(self, request):
        name = name_of(request)
        if len(self.names) < 3:
            self.names.append(name)
        else:
            self.others += 1

    def greeting(self):
        guests = self.names or ["nobody"]
        if self.others:
            guests = [*guests, f"{self.others} other" + "s" * (self.others > 1)]
        *firsts, last = guests
        together = f"{', '.join(firsts)} and {last}" if firsts else last
        return pb.HelloReply(message=f"Hello, {together}!")


class Paths:
    """The files below the root."""

    def __init__(self, root):
        self.root = root

    def of(self, filename):
        if any(part in ("", ".", "..") for part in filename.split("/")):
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, f"{filename!r} does not name a file below the root")
        return self.root / filename


class Download:
    """A file on its way to a client."""

    def __init__(self, paths, request):
        try:
            self.file = open(paths.of(request.filename), "rb", buffering=0)
        except OSError as error:
            raise Refused(grpc.StatusCode.NOT_FOUND, f"{request.filename}: {error.strerror}") from error
        size = os.fstat(self.file.fileno()).st_size
        self.info = pb.ReadStreamResponse(info=pb.FileInfo(filename=request.filename, size=size))
        self.offset = request.offset
        self.end = min(size, self.offset + request.length) if request.length else size
        self.max_chunk = min(request.max_chunk_bytes or DEFAULT_CHUNK, MAX_CHUNK)
        if self.offset > size:
            self.file.close()
            raise Refused(grpc.StatusCode.OUT_OF_RANGE, "the offset is beyond the end of the file")

    def next(self):
        """The next chunk, or None."""
        wanted = min(self.max_chunk, self.end - self.offset)
        if not wanted:
            return None
        data = os.pread(self.file.fileno(), wanted, self.offset)
        if not data:
            raise Refused(grpc.StatusCode.ABORTED, "the file has become shorter")
        chunk = pb.Chunk(offset=self.offset, crc32c=google_crc32c.value(data), data=data)
        self.offset += len(data)
        return pb.ReadStreamResponse(chunk=chunk)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()


class Upload:
    """A file on its way from a client, in a temporary file until it is whole."""

    def __init__(self, paths, opening):
        self.opening = opening
        self.target = paths.of(opening.filename)
        self.file = tempfile.NamedTemporaryFile(dir=paths.root, buffering=0, delete=False)
        self.size = 0
        self.crc32c = 0
        self.opened = pb.WriteStreamResponse(
            progress=pb.UploadProgress(upload_id=opening.upload_id, max_chunk_bytes=MAX_CHUNK)
        )

    def write(self, chunk):
        data = chunk.data
        if chunk.offset != self.size:
            raise Refused(grpc.StatusCode.ABORTED, f"expected offset {self.size}")
        if chunk.HasField("crc32c") and google_crc32c.value(data) != chunk.crc32c:
            raise Refused(grpc.StatusCode.ABORTED, "the chunk does not have its checksum")
        view = memoryview(data)
        while view:
            written = os.pwrite(self.file.fileno(), view, self.size)
            self.size += written
            view = view[written:]
        self.crc32c = google_crc32c.extend(self.crc32c, data)

    def finish(self, finish):
        if finish.size != self.size:
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, f"the size is {self.size}")
        if finish.HasField("crc32c") and finish.crc32c != self.crc32c:
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "the file does not have its checksum")
        os.fdatasync(self.file.fileno())
        os.rename(self.file.name, self.target)
        return pb.WriteStreamResponse(committed=pb.FileInfo(filename=self.opening.filename, size=self.size))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()
        # Not there any more if it has been finished.
        Path(self.file.name).unlink(missing_ok=True)


def opening_of(request):
    """Of the first request, or of None where there is none."""
    if request is None or request.WhichOneof("step") != "open":
        raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "the first step opens an upload")
    return request.open


def unexpected(step):
    """What is raised for a step out of order."""
    return Refused(grpc.StatusCode.INVALID_ARGUMENT, f"unexpected step: {step}")
