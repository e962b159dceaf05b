"""The pages of the documentation, whose commands the tests run as they stand."""

import os
import re
import subprocess
from pathlib import Path

from conftest import TARGET

REPOSITORY = Path(__file__).parents[2]

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

    def blocks(self, language, containing=""):
        """The code in a language, block by block."""
        blocks = re.findall(rf"```{language}\n(.*?)```", self.text, re.DOTALL)
        return [block for block in blocks if containing in block]

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
