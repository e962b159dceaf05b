"""The commands and code of the README, unchanged."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from conftest import TARGET
from test_reflection import needs_grpcurl

README = (Path(__file__).parents[2] / "README.md").read_text()
DEFAULT_ADDRESS = "127.0.0.1:50051"


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands(first_word):
    """The block of commands that begins with `first_word`."""
    [lines] = [block for block in blocks("sh") if block.startswith(first_word)]
    return lines.splitlines()


def test_python_lines_print_what_they_should(address):
    [program] = blocks("python")
    [sentence] = [line for line in README.splitlines() if line.startswith("prints `")]
    output = "".join(f"{line}\n" for line in re.findall("`(.*?)`", sentence))
    program = program.replace(DEFAULT_ADDRESS, address)
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20)
    assert (run.stdout, run.stderr) == (output, "")


@needs_grpcurl
def test_grpcurl_lines_succeed(address):
    for line in commands("grpcurl"):
        command = shlex.split(line.replace(DEFAULT_ADDRESS, address))
        run = subprocess.run(command, capture_output=True, text=True, timeout=20)
        assert run.returncode == 0, f"{line}\n{run.stderr}"


def test_command_lines_move_files(address, tmp_path):
    (tmp_path / "big.iso").write_bytes(os.urandom(3_000_000))
    (tmp_path / "src").mkdir()
    (tmp_path / "src/main.rs").write_text("fn main() {}\n")
    path = f"{TARGET / 'debug'}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "MUXS_ADDR": f"http://{address}"}
    lines = commands("muxs put")
    assert len(lines) == 4
    for line in lines:
        shell = ["bash", "-o", "pipefail", "-c", line]
        run = subprocess.run(
            shell, cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
        )
        assert run.returncode == 0, f"{line}\n{run.stderr}"
    assert (tmp_path / "copy.iso").read_bytes() == (tmp_path / "big.iso").read_bytes()
