"""The chat example on a pseudo terminal."""

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from pathlib import Path

import pytest

BIDI_CHAT = Path(__file__).parents[2] / "target" / "debug" / "examples" / "bidi_chat"
TIMEOUT = 10

ENTER = "\r"
CTRL_C = "\x03"
CTRL_D = "\x04"


class Terminal:
    """A terminal with the chat running on it."""

    def __init__(self, address):
        self.keyboard, self.device = pty.openpty()
        fcntl.ioctl(self.device, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.settings = termios.tcgetattr(self.device)
        self.seen = b""
        self.chat = subprocess.Popen(
            [BIDI_CHAT, f"http://{address}"],
            stdin=self.device,
            stdout=self.device,
            stderr=self.device,
            start_new_session=True,
            # Makes it the terminal that Ctrl-C means, also while the program has not taken the keys over.
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )

    def type(self, keys):
        os.write(self.keyboard, keys.encode())

    def wait_for(self, text):
        """Waits until `text` follows on the terminal."""
        deadline = time.monotonic() + TIMEOUT
        while text.encode() not in self.seen:
            ready, _, _ = select.select([self.keyboard], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"{text!r} did not come in {TIMEOUT} s, but {self.seen!r}"
            self.seen += os.read(self.keyboard, 4096)
        self.seen = self.seen.split(text.encode(), 1)[1]

    def close(self):
        self.chat.kill()
        self.chat.wait()
        os.close(self.keyboard)
        os.close(self.device)


@pytest.fixture
def terminal(address):
    terminal = Terminal(address)
    yield terminal
    terminal.close()


def test_each_name_is_greeted_during_the_conversation(terminal):
    terminal.wait_for("> ")
    for name in ["Ada", "Grace", "名前"]:
        terminal.type(name + ENTER)
        terminal.wait_for(f"Hello, {name}!")
    assert terminal.chat.poll() is None


def test_ctrl_d_ends_the_conversation_after_the_last_replies(terminal):
    terminal.wait_for("> ")
    terminal.type("Ada" + ENTER + "Grace" + ENTER + CTRL_D)
    terminal.wait_for("Hello, Ada!")
    terminal.wait_for("Hello, Grace!")
    assert terminal.chat.wait(TIMEOUT) == 0
    assert termios.tcgetattr(terminal.device) == terminal.settings


def test_ctrl_c_cancels_the_conversation(terminal):
    terminal.wait_for("> ")
    terminal.type("Ada" + ENTER)
    terminal.wait_for("Hello, Ada!")
    terminal.type(CTRL_C)
    assert terminal.chat.wait(TIMEOUT) == 130
    assert termios.tcgetattr(terminal.device) == terminal.settings


def test_pasted_names_are_all_greeted(terminal):
    terminal.wait_for("> ")
    names = [f"name {number}" for number in range(300)]
    terminal.type("".join(name + ENTER for name in names) + CTRL_D)
    for name in names:
        terminal.wait_for(f"Hello, {name}!")
    assert terminal.chat.wait(TIMEOUT) == 0


def test_terminated_chat_restores_the_terminal(terminal):
    terminal.wait_for("> ")
    terminal.chat.terminate()
    assert terminal.chat.wait(TIMEOUT) == 143
    assert termios.tcgetattr(terminal.device) == terminal.settings
