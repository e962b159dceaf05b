"""The commands and code of the README, unchanged."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

from test_reflection import needs_grpcurl

README = (Path(__file__).parents[2] / "README.md").read_text()
DEFAULT_ADDRESS = "127.0.0.1:50051"


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_python_lines_print_what_they_should(address):
    [program], [output] = blocks("python"), blocks("text")
    program = program.replace(DEFAULT_ADDRESS, address)
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20)
    assert (run.stdout, run.stderr) == (output, "")


@needs_grpcurl
def test_grpcurl_lines_succeed(address):
    [lines] = [block for block in blocks("sh") if block.startswith("grpcurl")]
    for line in lines.splitlines():
        command = shlex.split(line.replace(DEFAULT_ADDRESS, address))
        run = subprocess.run(command, capture_output=True, text=True, timeout=20)
        assert run.returncode == 0, f"{line}\n{run.stderr}"
