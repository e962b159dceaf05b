"""The pages of the documentation, whose programs and commands the tests run as they stand."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from conftest import TARGET

REPOSITORY = Path(__file__).parents[2]
PROGRAMS = "python", "js", "proto"

SERVER = "cargo run --bin server -- "
MUXS = "cargo run --bin muxs -- "


class Page:
    """A page, or one section of it."""

    def __init__(self, name, section=None):
        self.text = (REPOSITORY / "docs" / name).read_text()
        if section:
            _, heading, rest = self.text.partition(f"\n## {section}\n")
            assert heading, f"{name} has no section {section}"
            self.text = rest.partition("\n## ")[0]

    def blocks(self, *languages, containing=""):
        """The code in some languages, block by block."""
        fence = rf"^```(?:{'|'.join(languages)})\n(.*?)^```$"
        blocks = re.findall(fence, self.text, re.DOTALL | re.MULTILINE)
        return [block for block in blocks if containing in block]

    def programs(self):
        """The programs, by the name to save them under."""
        save = r"[Ss]ave\s+as\s+`([\w.]+)`:\n\n(?:<!--.*-->\n)?```\w+\n(.*?)^```$"
        named = re.findall(save, self.text, re.DOTALL | re.MULTILINE)
        assert [program for _, program in named] == self.blocks(*PROGRAMS), "a program has no name"
        return dict(named)

    def save(self, folder):
        """Saves the programs, as a reader does."""
        shutil.copy(REPOSITORY / "proto" / "mux.proto", folder)
        for name, program in self.programs().items():
            (folder / name).write_text(program)

    def commands(self, beginning=""):
        """The commands of the shell, each on one line."""
        lines = "".join(self.blocks("sh")).replace("\\\n", " ").splitlines()
        return [line for line in lines if line.startswith(beginning)]

    def first_column(self, heading):
        """What stands in backticks in the first column of the table with this heading."""
        _, found, table = self.text.partition(f"| {heading} |")
        assert found, f"no table of {heading}"
        rows = re.findall(r"^\| (.*?) \|", table.partition("\n\n")[0], re.MULTILINE)
        return [name for row in rows for name in re.findall(r"`([^`]+)`", row)]


class Trial:
    """A folder in which commands of a page are run, with other addresses and paths."""

    def __init__(self, folder, server, replaced):
        self.folder, self.server, self.replaced = folder, server, replaced

    def adapt(self, text):
        for there, here in self.replaced.items():
            text = text.replace(there, here)
        return text

    def run(self, command, **variables):
        command = self.adapt(command).replace(MUXS, f"{TARGET}/debug/muxs --addr http://{self.server.address} ")
        environment = os.environ | variables
        shell = ["bash", "-c", command]
        return subprocess.run(shell, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=30)


class Reader:
    """Someone who has saved the programs of a page in a folder, and runs them."""

    def __init__(self, folder, page, *command, suffix=""):
        self.folder, self.command, self.suffix = folder, command, suffix
        self.page = Page(page)
        self.page.save(folder)

    def start(self, program, *args, **env):
        return subprocess.Popen(
            [*self.command, self.folder / (program + self.suffix), *map(str, args)],
            cwd=self.folder,
            env=os.environ | env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A shell that runs the tests in the background has them ignore it, and so would the program.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def run(self, program, *args, **env):
        """Runs a program to its end. Returns its exit code, its standard output and its standard error."""
        with self.start(program, *args, **env) as process:
            out, errors = process.communicate(timeout=55)
        return process.returncode, out, errors

    def succeed(self, program, *args, **env):
        code, out, errors = self.run(program, *args, **env)
        assert code == 0, errors
        return out, errors

    def fail(self, program, *args, **env):
        """Asserts that a program fails with a sentence. Returns it, and the lines before it."""
        code, _, errors = self.run(program, *args, **env)
        assert code == 1, errors
        assert "Traceback" not in errors and "    at " not in errors, errors
        *before, sentence = errors.splitlines()
        return sentence, before

    def shell(self, command, **env):
        # `python` is that of the tests.
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-euc", command],
            cwd=self.folder,
            env=os.environ | {"PATH": path} | env,
            capture_output=True,
            text=True,
            timeout=55,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout
