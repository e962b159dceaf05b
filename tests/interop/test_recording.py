"""The picture of the README: its script records the real programs, and the picture that is kept shows the same."""

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

from conftest import TARGET

ASSETS = Path(__file__).parents[2] / "docs/assets"
SVG = "{http://www.w3.org/2000/svg}"
# So much that the server has made a part of it durable when it is killed.
SIZE = 384 << 20


def shown(picture):
    """The text of the picture at its end, a terminal a line."""
    root = ElementTree.fromstring(picture)
    ends = [group for group in root.iter(f"{SVG}g") if "last" in group.get("class").split()]
    return [" ".join(text.text for text in group.iter(f"{SVG}text")) for group in ends]


def check(picture):
    lines = shown(picture)
    assert any("listening on" in line for line in lines), lines
    assert "Killed" in lines, lines
    assert "same bytes" in lines, lines
    assert re.search("[Rr]esumed at", picture)
    assert ElementTree.fromstring(picture).find(f"{SVG}desc").text


def test_script_records_an_upload_that_survives_its_server(tmp_path):
    output = tmp_path / "resume.svg"
    flags = ["--output", output, "--programs", TARGET / "debug", "--size", str(SIZE)]
    run = subprocess.run([sys.executable, ASSETS / "record", *flags], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stdout + run.stderr
    check(output.read_text())


def test_kept_picture_shows_the_same():
    check((ASSETS / "resume.svg").read_text())
