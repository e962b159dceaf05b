"""The pages for client developers: their programs and commands, as a reader saves and runs them."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PROGRAMS = "python", "js", "proto"


class Page:
    def __init__(self, name):
        self.text = (REPOSITORY / "docs" / name).read_text()

    def blocks(self, *languages):
        return re.findall(rf"^```(?:{'|'.join(languages)})\n(.*?)^```$", self.text, re.DOTALL | re.MULTILINE)

    def programs(self):
        """The programs, by the name to save them under."""
        named = re.findall(r"[Ss]ave\s+as\s+`([\w.]+)`:\n\n```\w+\n(.*?)^```$", self.text, re.DOTALL | re.MULTILINE)
        assert [program for _, program in named] == self.blocks(*PROGRAMS), "a program has no name"
        return dict(named)

    def commands(self):
        """The commands, one block after the other."""
        return self.blocks("sh")

    def save(self, folder):
        shutil.copy(REPOSITORY / "proto" / "mux.proto", folder)
        for name, program in self.programs().items():
            (folder / name).write_text(program)


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
