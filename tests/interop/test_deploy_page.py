"""muxs behind nginx and behind Envoy, each with the configuration of the page about deployment."""

import contextlib
import json
import os
import queue
import random
import re
import shutil
import signal
import socket
import subprocess
import urllib.request

import grpc
import pytest
from conftest import TARGET, served
from error_details import assert_failure
from google.protobuf.duration_pb2 import Duration
from grpc import StatusCode
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from mux_pb2 import HelloRequest, ReadStreamRequest, StatRequest
from mux_pb2_grpc import GreeterStub
from pages import Page
from uploads import MIB, BlockingClient, chunks, finish, opening
from waiting import silence_after, until

PAGE = Page("deploy.md")
BACKUP, CLEAN = Page("deploy.md", "Back up and restore"), Page("deploy.md", "Clean")
TIMEOUT = 50

# Moving this much takes long on a busy machine.
pytestmark = pytest.mark.timeout(120)

# More than 100 MB.
CONTENT = random.Random(1).randbytes(104 * MIB)


def configuration(language, containing):
    [block] = PAGE.blocks(language, containing=containing)
    return block


def replaced(text, **replacements):
    """A configuration with other paths and ports. All that is to be replaced has to be there."""
    for old, new in replacements.items():
        assert old in text, f"the page has no {old}"
        text = text.replace(old, str(new))
    return text


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


class Proxy:
    """A proxy in front of a server. It can be killed and started again."""

    def __init__(self, folder, server, pki):
        self.folder, self.pki = folder, pki
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.log = folder / "proxy.log"
        self.command = self.configure(self.port, server.socket, pki)
        self.start()

    def start(self):
        with open(self.log, "a") as log:
            # A group of its own: nginx has a process for each worker.
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log, start_new_session=True)
        until(self.listens, f"{self.name} listens")

    def listens(self):
        assert self.process.poll() is None, self.log.read_text()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True

    def kill(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def channel(self):
        return grpc.secure_channel(self.address, self.pki.trust())

    def client(self):
        return BlockingClient(self.address, credentials=self.pki.trust())


class Nginx(Proxy):
    name = "nginx"
    program = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
    read_timeout = "150s"

    def configure(self, port, socket, pki):
        site = replaced(
            configuration("nginx", "grpc_pass"),
            **{
                "unix:/run/muxs.sock": socket,
                "listen 443 ": f"listen 127.0.0.1:{port} ",
                "/etc/letsencrypt/live/files.example.com/fullchain.pem": pki.cert,
                "/etc/letsencrypt/live/files.example.com/privkey.pem": pki.key,
                "grpc_read_timeout 150s": f"grpc_read_timeout {self.read_timeout}",
            },
        )
        # nginx started by root would have workers that may not open the socket.
        user = "user root;" if os.geteuid() == 0 else ""
        paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        temporary = "".join(f"{path}_temp_path {self.folder}/{path};" for path in paths)
        config = self.folder / "nginx.conf"
        config.write_text(
            f"{user} daemon off; pid {self.folder}/pid; error_log stderr notice; worker_processes 2;"
            f"events {{ worker_connections 512; }} http {{ access_log off; {temporary}\n{site}\n}}"
        )
        return [self.program, "-e", "stderr", "-p", self.folder, "-c", config]


class ImpatientNginx(Nginx):
    read_timeout = "2s"


class Envoy(Proxy):
    name = "envoy"
    program = shutil.which("envoy")

    def configure(self, port, socket, pki):
        config = self.folder / "envoy.yaml"
        config.write_text(
            replaced(
                configuration("yaml", "static_resources"),
                **{
                    "/run/muxs.sock": socket.removeprefix("unix:"),
                    "address: 0.0.0.0, port_value: 443": f"address: 127.0.0.1, port_value: {port}",
                    "/etc/envoy/fullchain.pem": pki.cert,
                    "/etc/envoy/privkey.pem": pki.key,
                },
            )
        )
        return [self.program, "-c", config, "--concurrency", "2", "--use-dynamic-base-id", "--log-level", "warning"]


def proxied(kind, server, pki, folder):
    if kind.program is None:
        pytest.skip(f"THERE IS NO {kind.name}; ITS CONFIGURATION IN docs/deploy.md HAS NOT BEEN TESTED")
    return kind(folder, server, pki)


@pytest.fixture(scope="module")
def server(log, tmp_path_factory):
    """A server that listens on a Unix domain socket, with metrics."""
    # Not below target: the path of a socket is at most 107 bytes long.
    folder = tmp_path_factory.mktemp("s")
    path = f"unix:{folder}/muxs.sock"
    flags = ["--listen", path, "--admin-listen", ":0", "--checkpoint-bytes", "16MiB", "--keepalive-interval", "500ms"]
    with served(*flags) as server:
        server.socket = path
        lines = [server.process.stdout.readline() for _ in range(2)]
        [admin] = [line for line in lines if line.startswith("muxs admin on ")]
        server.admin = admin.removeprefix("muxs admin on ").strip()
        yield server
        server.stop()


@pytest.fixture(scope="module", params=[Nginx, Envoy], ids=["nginx", "envoy"])
def proxy(request, server, pki, tmp_path_factory):
    proxy = proxied(request.param, server, pki, tmp_path_factory.mktemp("proxy"))
    yield proxy
    proxy.kill()


@pytest.fixture
def client(proxy):
    client = proxy.client()
    yield client
    client.close()


@pytest.fixture
def greeter(proxy):
    with proxy.channel() as channel:
        yield GreeterStub(channel)


def muxs(proxy, *arguments, cwd):
    command = [TARGET / "debug" / "muxs", "--addr", f"https://{proxy.address}", "--ca", proxy.pki.ca, *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode == 0, done.stderr
    return done


def ended(server, method, code):
    """How many calls of a method have ended with a code, by the server's metrics."""
    with urllib.request.urlopen(f"{server.admin}/metrics", timeout=TIMEOUT) as metrics:
        text = metrics.read().decode()
    lines = [line for line in text.splitlines() if line.startswith("grpc_server_handled_total")]
    lines = [line for line in lines if f'grpc_method="{method}"' in line and f'grpc_code="{code}"' in line]
    return sum(float(line.split()[-1]) for line in lines)


def assert_is(path, content):
    # Not `==` on the bytes themselves: a failure would print them.
    assert (path.read_bytes() == content) is True


def test_file_of_more_than_100_mb_is_uploaded_and_downloaded(proxy, server, tmp_path):
    (tmp_path / "big.bin").write_bytes(CONTENT)
    muxs(proxy, "put", "big.bin", f"{proxy.name}/big.bin", cwd=tmp_path)
    assert_is(server.root / proxy.name / "big.bin", CONTENT)
    muxs(proxy, "get", f"{proxy.name}/big.bin", "copy.bin", cwd=tmp_path)
    assert_is(tmp_path / "copy.bin", CONTENT)


def test_upload_resumes_after_the_proxy_was_killed(proxy, server, client, filename):
    filename = f"{proxy.name}/{filename}"
    half = len(CONTENT) // 2
    stream = client.stream(opening(filename, "id"), *chunks(CONTENT[:half], size=MIB))
    while stream.answer().progress.persisted_size < half // 2:
        pass
    proxy.kill()
    with pytest.raises(grpc.RpcError) as failed:
        while stream.answer():
            pass
    assert failed.value.code() == StatusCode.UNAVAILABLE
    proxy.start()
    again = proxy.client()
    stream = again.stream(opening(filename, "id"))
    start = stream.answer().progress.persisted_size
    assert half // 2 <= start <= half
    stream.send(*chunks(CONTENT, start, size=MIB), finish(CONTENT))
    while not (answer := stream.answer()).HasField("committed"):
        pass
    again.close()
    assert_is(server.root / filename, CONTENT)


def test_chat_runs_in_lock_step(greeter):
    names = queue.SimpleQueue()
    replies = greeter.BidiHello(iter(names.get, None), timeout=TIMEOUT)
    for number in range(200):
        names.put(HelloRequest(name=str(number)))
        assert next(replies).message == f"Hello, {number}!"
    # The end of the requests reaches the server, and its end the client.
    names.put(None)
    assert list(replies) == []
    assert replies.code() == StatusCode.OK


def test_end_of_requests_reaches_the_server(greeter):
    names = (HelloRequest(name=name) for name in "AB")
    assert greeter.LotsOfGreetings(names, timeout=TIMEOUT).message == "Hello, A and B!"


def test_stopped_readers_do_not_stop_other_calls(proxy, server, client):
    (server.root / proxy.name).mkdir(exist_ok=True)
    content = CONTENT[: 8 * MIB]
    (server.root / proxy.name / "slow.bin").write_bytes(content)
    readings = [client.reading(ReadStreamRequest(filename=f"{proxy.name}/slow.bin")) for _ in range(20)]
    for reading in readings:
        assert reading.answer().HasField("info")
    client.unary("Stat", StatRequest(filename=f"{proxy.name}/slow.bin"))
    # Those that read again get the rest.
    got = b"".join(answer.chunk.data for answer in iter(readings[0].answer, None))
    assert (got == content) is True
    for reading in readings[1:]:
        reading.cancel()


def test_early_refusal_reaches_a_client_that_still_sends(client):
    stream = client.stream(opening("../outside", "id"), *chunks(CONTENT, size=MIB))
    with pytest.raises(grpc.RpcError) as failed:
        while stream.answer():
            pass
    assert_failure(failed.value, StatusCode.INVALID_ARGUMENT, "FILENAME_INVALID")


def test_failure_without_an_answer_has_its_reason(client):
    with pytest.raises(grpc.RpcError) as failed:
        client.unary("Stat", StatRequest(filename="absent"))
    assert_failure(failed.value, StatusCode.NOT_FOUND, "NOT_FOUND")


def test_server_sees_a_client_that_goes(proxy, server):
    before = ended(server, "BidiHello", "Canceled")
    with proxy.channel() as channel:
        chat = GreeterStub(channel).BidiHello(silence_after(HelloRequest(name="you")), timeout=TIMEOUT)
        next(chat)
    until(lambda: ended(server, "BidiHello", "Canceled") == before + 1, "the server knows that the client is gone")


def test_server_sees_a_call_that_its_client_cancels(proxy, server, greeter):
    before = ended(server, "LotsOfReplies", "Canceled")
    hour = Duration(seconds=3600)
    replies = greeter.LotsOfReplies(HelloRequest(name="you", interval=hour), timeout=TIMEOUT)
    next(replies)
    replies.cancel()
    until(lambda: ended(server, "LotsOfReplies", "Canceled") == before + 1, "the server knows that the call is over")
    # The connection of the client serves its other calls.
    assert greeter.SayHello(HelloRequest(name="you"), timeout=TIMEOUT).message == "Hello, you!"


def lines_of_curl(proxy, method, request, folder, *headers):
    """The status, headers and trailers of a call by curl, which knows nothing of gRPC."""
    if not shutil.which("curl"):
        pytest.skip("there is no curl")
    request = request.SerializeToString()
    (folder / "message").write_bytes(b"\0" + len(request).to_bytes(4, "big") + request)
    headers = ["content-type: application/grpc", "te: trailers", *headers]
    command = ["curl", "--silent", "--http2", "--cacert", proxy.pki.ca, "--data-binary", "@message", "--dump-header"]
    command += ["-", "--output", "body", *(part for header in headers for part in ("--header", header))]
    command += [f"https://{proxy.address}/muxs.Greeter/{method}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT)
    return [line.strip() for line in done.stdout.splitlines()]


def test_deadline_reaches_the_server_and_its_answer_the_client(proxy, server, tmp_path):
    """By curl, which has no clock of its own for the deadline."""
    request = HelloRequest(name="you", interval=Duration(seconds=3600))
    lines = lines_of_curl(proxy, "LotsOfReplies", request, tmp_path, "grpc-timeout: 300m")
    assert f"grpc-status: {StatusCode.DEADLINE_EXCEEDED.value[0]}" in lines


def test_pings_of_the_server_keep_a_silent_stream_behind_nginx(server, pki, tmp_path):
    nginx = proxied(ImpatientNginx, server, pki, tmp_path)
    try:
        with nginx.channel() as channel:
            request = HelloRequest(name="you", replies=2, interval=Duration(seconds=5))
            assert len(list(GreeterStub(channel).LotsOfReplies(request, timeout=TIMEOUT))) == 2
    finally:
        nginx.kill()


def test_health_is_that_of_the_server(proxy):
    with proxy.channel() as channel:
        answer = HealthStub(channel).Check(HealthCheckRequest(), timeout=TIMEOUT)
    assert answer.status == HealthCheckResponse.SERVING


def test_failure_is_unavailable_while_the_server_is_away(proxy, server, tmp_path):
    away = type(proxy)(tmp_path, Absent(server.socket + ".none"), proxy.pki)
    try:
        with away.channel() as channel, pytest.raises(grpc.RpcError) as failed:
            GreeterStub(channel).SayHello(HelloRequest(name="you"), timeout=TIMEOUT)
        assert failed.value.code() == StatusCode.UNAVAILABLE
        # grpcio also understands HTTP 502. Others take only this for an answer of gRPC.
        lines = lines_of_curl(away, "SayHello", HelloRequest(name="you"), tmp_path)
        unavailable = f"grpc-status: {StatusCode.UNAVAILABLE.value[0]}"
        assert {"HTTP/2 200", "content-type: application/grpc", unavailable} <= set(lines), lines
    finally:
        away.kill()


class Absent:
    """A server that does not listen."""

    def __init__(self, socket):
        self.socket = socket


def half_sent(server, filename, content, upload_id="id"):
    """Leaves an upload of which half is durable. Returns how much that is."""
    client = BlockingClient(server.address)
    stream = client.stream(opening(filename, upload_id), *chunks(content[: len(content) // 2]))
    while not (persisted := stream.answer().progress.persisted_size):
        pass
    client.close()
    return persisted


def resumed(server, filename, content):
    """Continues an upload to its end. Returns from where."""
    client = BlockingClient(server.address)
    stream = client.stream(opening(filename, "id"))
    start = stream.answer().progress.persisted_size
    stream.send(*chunks(content, start), finish(content))
    while not stream.answer().HasField("committed"):
        pass
    client.close()
    assert_is(server.root / filename, content)
    return start


def run_as_root_would(command, **replacements):
    """Runs a command of the page without its `sudo`, and with other paths."""
    command = replaced(command.removeprefix("sudo "), **replacements)
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=TIMEOUT)


BACKED_UP = CONTENT[: 4 * MIB]


@pytest.mark.parametrize("program", ["tar", "rsync"])
def test_backup_of_a_busy_server_is_restored(own_server, tmp_path, program):
    if not shutil.which(program):
        pytest.skip(f"THERE IS NO {program}; THE BACKUP OF docs/deploy.md WITH IT HAS NOT BEEN TESTED")
    (tmp_path / "restored").mkdir()
    here = {"/var/lib/muxs/": f"{own_server.root}/"}
    there = {"/var/lib/muxs/": f"{tmp_path}/restored/"}
    resumed(own_server, "folder/whole.bin", BACKED_UP)
    assert half_sent(own_server, "half.bin", BACKED_UP) > 0
    [back_up] = BACKUP.commands("sudo tar --create" if program == "tar" else "sudo rsync --archive --xattrs --delete")
    if program == "tar":
        archive = {"/backup/muxs.tar": tmp_path / "muxs.tar"}
        [restore] = BACKUP.commands("sudo tar --extract")
        done = [run_as_root_would(back_up, **here, **archive), run_as_root_would(restore, **there, **archive)]
    else:
        copy = {"/backup/muxs/": f"{tmp_path}/copy/"}
        [restore] = BACKUP.commands("sudo rsync --archive --xattrs /backup")
        done = [run_as_root_would(back_up, **here, **copy), run_as_root_would(restore, **there, **copy)]
    assert all(run.returncode == 0 for run in done), done
    assert sorted(path.name for path in (tmp_path / "restored").rglob("*")) == ["folder", "whole.bin"]
    client = BlockingClient(own_server.address)
    before = client.unary("Stat", StatRequest(filename="folder/whole.bin"))
    client.close()
    own_server.kill()
    own_server.root = tmp_path / "restored"
    own_server.start()
    assert_is(own_server.root / "folder" / "whole.bin", BACKED_UP)
    client = BlockingClient(own_server.address)
    after = client.unary("Stat", StatRequest(filename="folder/whole.bin"))
    client.close()
    # The checksum and the time come back, and the etag does not.
    assert (after.crc32c, after.modified_at) == (before.crc32c, before.modified_at)
    assert after.crc32c and after.etag != before.etag
    assert resumed(own_server, "half.bin", BACKED_UP) == 0


[JOURNAL_LINE] = CLEAN.blocks("text", containing='"Opened"')


def opened(line):
    """The upload of the first line of a journal."""
    checksum, _, record = line.partition(" ")
    assert re.fullmatch(r"[0-9a-f]{8}", checksum)
    return json.loads(record)["Opened"]


@pytest.fixture
def patient_server(log):
    """A server that removes no upload by itself."""
    with served("--upload-ttl", "30d") as server:
        yield server


def test_journals_that_are_deleted_free_their_uploads(patient_server):
    for name in ["old", "new"]:
        half_sent(patient_server, name, BACKED_UP)
    patient_server.stop()
    uploads = patient_server.root / ".muxs" / "uploads"
    [old] = [journal for journal in uploads.glob("*.journal") if '"old"' in journal.read_text()]
    os.utime(old, (0, old.stat().st_mtime - 3 * 24 * 60 * 60))
    [see] = CLEAN.blocks("sh", containing="head --lines=1")
    seen = run_as_root_would(see, **{"/var/lib/muxs/.muxs/uploads": uploads})
    assert '"filename":"old"' in seen.stdout and '"filename":"new"' in seen.stdout, seen
    [line] = [line for line in seen.stdout.splitlines() if '"filename":"old"' in line]
    assert opened(line).keys() == opened(JOURNAL_LINE).keys()
    [delete] = CLEAN.commands("sudo find")
    assert run_as_root_would(delete, **{"/var/lib/muxs/.muxs/uploads/": uploads}).returncode == 0
    patient_server.start()
    until(lambda: not old.with_suffix(".data").exists(), "the bytes without a journal are removed")
    assert resumed(patient_server, "old", BACKED_UP) == 0
    assert resumed(patient_server, "new", BACKED_UP) > 0


def test_operator_aborts_an_upload(own_server):
    upload = opened(JOURNAL_LINE)
    half_sent(own_server, upload["filename"], BACKED_UP, upload["upload_id"])
    [abort] = CLEAN.commands("sudo muxs")
    there = {"muxs --addr unix:/run/muxs.sock": f"{TARGET}/debug/muxs --addr http://{own_server.address}"}
    done = run_as_root_would(abort, **there)
    assert done.returncode == 0, done
    assert list((own_server.root / ".muxs" / "uploads").iterdir()) == []
