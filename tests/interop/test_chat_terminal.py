"""The chats, of the command and of the example, on a pseudo terminal."""

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

DEBUG = Path(__file__).parents[2] / "target" / "debug"
TIMEOUT = 10

ENTER = "\r"
CTRL_C = "\x03"
CTRL_D = "\x04"


def muxs_chat(url):
    return [DEBUG / "muxs", "chat", "--addr", url]


def bidi_chat(url):
    return [DEBUG / "examples" / "bidi_chat", url]


class Terminal:
    """A terminal with the chat running on it."""

    def __init__(self, address, typed_ahead="", command=muxs_chat):
        self.keyboard, self.device = pty.openpty()
        fcntl.ioctl(self.device, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.settings = termios.tcgetattr(self.device)
        # What has come since the last text that was waited for, and all that was read.
        self.seen = self.all = b""
        self.type(typed_ahead)
        self.chat = subprocess.Popen(
            command(f"http://{address}"),
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
            read = os.read(self.keyboard, 4096)
            self.seen += read
            self.all += read
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


@pytest.fixture(params=[muxs_chat, bidi_chat])
def either(request, address):
    """The chat of the command, and the chat of the example."""
    terminal = Terminal(address, command=request.param)
    yield terminal
    terminal.close()


def test_each_name_is_greeted_during_the_conversation(either):
    either.wait_for("> ")
    for name in ["Ada", "Grace", "名前"]:
        either.type(name + ENTER)
        either.wait_for(f"Hello, {name}!")
    assert either.chat.poll() is None


def test_lines_typed_ahead_are_greeted_one_by_one(address):
    terminal = Terminal(address, typed_ahead="Ada" + ENTER + "Grace" + ENTER + "half")
    try:
        terminal.wait_for("Hello, Ada!")
        terminal.wait_for("Hello, Grace!")
        terminal.type(" a line" + ENTER)
        terminal.wait_for("Hello, half a line!")
    finally:
        terminal.close()


def test_ctrl_d_does_not_end_a_line(terminal):
    terminal.wait_for("> ")
    terminal.type("half" + CTRL_D + " a line" + ENTER)
    terminal.wait_for("Hello, half a line!")
    terminal.type(CTRL_D)
    assert terminal.chat.wait(TIMEOUT) == 0


def test_empty_line_is_not_sent(terminal):
    terminal.wait_for("> ")
    terminal.type(ENTER + ENTER + "Ada" + ENTER)
    terminal.wait_for("Hello, ")
    terminal.wait_for("Ada!")
    assert b"Hello, !" not in terminal.all


def test_ctrl_d_ends_the_conversation_after_the_last_replies(either):
    either.wait_for("> ")
    either.type("Ada" + ENTER + "Grace" + ENTER + CTRL_D)
    either.wait_for("Hello, Ada!")
    either.wait_for("Hello, Grace!")
    assert either.chat.wait(TIMEOUT) == 0
    assert termios.tcgetattr(either.device) == either.settings


def test_ctrl_c_cancels_the_conversation(terminal):
    terminal.wait_for("> ")
    terminal.type("Ada" + ENTER)
    terminal.wait_for("Hello, Ada!")
    terminal.type("half" + CTRL_C)
    # The shell's prompt begins a line.
    terminal.wait_for("^C\r\n")
    assert terminal.chat.wait(TIMEOUT) == 130
    assert termios.tcgetattr(terminal.device) == terminal.settings


def test_pasted_names_are_all_greeted(either):
    either.wait_for("> ")
    names = [f"name {number}" for number in range(300)]
    either.type("".join(name + ENTER for name in names) + CTRL_D)
    for name in names:
        either.wait_for(f"Hello, {name}!")
    assert either.chat.wait(TIMEOUT) == 0


def test_terminated_chat_restores_the_terminal(either):
    either.wait_for("> ")
    either.chat.terminate()
    assert either.chat.wait(TIMEOUT) == 143
    assert termios.tcgetattr(either.device) == either.settings


def test_killed_server_is_reported_on_a_line_of_its_own(own_server):
    terminal = Terminal(own_server.address)
    try:
        terminal.wait_for("> ")
        terminal.type("Ada" + ENTER)
        terminal.wait_for("Hello, Ada!")
        own_server.kill()
        # The prompt is removed first.
        terminal.wait_for("\r\x1b[J")
        terminal.wait_for("the server went away")
        assert terminal.chat.wait(TIMEOUT) == 1
        assert termios.tcgetattr(terminal.device) == terminal.settings
    finally:
        terminal.close()


def test_stopping_server_is_reported(own_server):
    terminal = Terminal(own_server.address)
    try:
        terminal.wait_for("> ")
        terminal.type("Ada" + ENTER)
        terminal.wait_for("Hello, Ada!")
        own_server.process.terminate()
        terminal.wait_for("The server is stopping")
        terminal.type("Grace" + ENTER + CTRL_D)
        terminal.wait_for("Hello, Grace!")
        assert terminal.chat.wait(TIMEOUT) == 0
        assert own_server.process.wait(TIMEOUT) == 0
    finally:
        terminal.close()
