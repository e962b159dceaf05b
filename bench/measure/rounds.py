"""Runs the peers of a case in turns, and compares what they show.

On a machine that others use too, a figure is worth little by itself. So the servers of a case all stand ready, each round
asks every peer once, in an order of its own, and a peer is compared with muxs within a round only.
"""

import contextlib
import random
import statistics
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from .peers import Peer
from .process import Failed
from .target import Bench, target
from .tasks import Figures, Timed, Unable
from .works import Case


@dataclass
class Row:
    """What a peer has shown in a case, round by round."""

    peer: str
    title: str
    version: str = ""
    rounds: list[Figures | None] = field(default_factory=list)
    # Why it was left out.
    skipped: str | None = None
    # What went wrong. It is not asked again.
    failed: str | None = None

    def figures(self, key: str) -> list[float]:
        return [shown[key] for shown in self.rounds if shown]


@dataclass(frozen=True)
class Summary:
    """The middle of some numbers, and how far they are apart."""

    median: float
    least: float
    most: float


def summary(numbers: Sequence[float]) -> Summary | None:
    return Summary(statistics.median(numbers), min(numbers), max(numbers)) if numbers else None


def ratios(above: Row, below: Row, key: str) -> list[float]:
    """What one has shown, divided by what the other has shown in the same round."""
    pairs = zip(above.rounds, below.rounds)
    return [one[key] / other[key] for one, other in pairs if one and other and other[key]]


def measure(
    name: str, case: Case, bench: Bench, entrants: Sequence[tuple[Peer, Row]], rounds: int, order: random.Random
) -> None:
    """Fills the rows of the peers."""
    with ExitStack() as stack:
        ready: list[tuple[Row, Timed]] = []
        for peer, row in entrants:
            with told(name, row):
                place = stack.enter_context(target(bench, peer, case.task.files))
                if not case.task.starts_servers:
                    stack.enter_context(place.serving())
                ready.append((row, case.task.warm_up(place)))
        for _ in range(rounds):
            order.shuffle(ready)
            for row, timed in ready:
                shown = None
                if not row.failed and not row.skipped:
                    with told(name, row):
                        shown = timed()
                row.rounds.append(shown)


@contextlib.contextmanager
def told(name: str, row: Row) -> Iterator[None]:
    """What goes wrong inside is told, and takes the peer out of the case; the others go on."""
    try:
        yield
    except Unable as reason:
        row.skipped = str(reason)
        print(f"SKIPPED: {row.title} in {name}: {reason}", file=sys.stderr)
    except Failed as failure:
        row.failed = str(failure)
        print(f"FAILED: {row.title} in {name}: {failure}\n{textwrap.indent(failure.output, '    ')}", file=sys.stderr)
    # A report that cannot be read is a failure, too, and so is a disk that is full.
    except (OSError, ValueError, KeyError) as failure:
        # Without the file's name, which means nothing elsewhere.
        what = failure.strerror if isinstance(failure, OSError) else failure
        row.failed = f"{type(failure).__name__}: {what}"
        print(f"FAILED: {row.title} in {name}: {row.failed}", file=sys.stderr)
