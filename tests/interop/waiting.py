"""Waits for things, not for times; and has others wait."""

import queue
import time

PATIENCE = 15


def until(there, what):
    """Waits until `there` gives something, and gives that."""
    deadline = time.monotonic() + PATIENCE
    while not (thing := there()):
        assert time.monotonic() < deadline, f"not in {PATIENCE} s: {what}"
        time.sleep(0.02)
    return thing


def silence_after(*messages):
    """Messages, and then nothing, for ever."""
    waiting = queue.SimpleQueue()
    for message in messages:
        waiting.put(message)
    return iter(waiting.get, None)
