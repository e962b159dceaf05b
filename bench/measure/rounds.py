"""Runs the peers of a case in turns, and compares their figures.

On a shared machine, a figure alone means little. So all servers of a case run at the same time, each round measures
every peer once, in a shuffled order, and a peer is compared with muxs within a round only.
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
from .tasks import Figures, NotApplicable, Timed
from .works import Case


@dataclass
class Row:
    """The figures of a peer in a case, round by round."""

    peer: str
    title: str
    version: str = ""
    rounds: list[Figures | None] = field(default_factory=list)
    # Why the peer was left out.
    skipped: str | None = None
    # The failure. A peer that has failed is not measured again.
    failed: str | None = None

    def figures(self, key: str) -> list[float]:
        return [shown[key] for shown in self.rounds if shown]


@dataclass(frozen=True)
class Summary:
    """The median of some numbers, and their range."""

    median: float
    least: float
    most: float


def summary(numbers: Sequence[float]) -> Summary | None:
    return Summary(statistics.median(numbers), min(numbers), max(numbers)) if numbers else None


def ratios(above: Row, below: Row, key: str) -> list[float]:
    """Returns the figures of `above`, divided by those of `below` in the same round."""
    pairs = zip(above.rounds, below.rounds)
    return [one[key] / other[key] for one, other in pairs if one and other and other[key]]


def measure(
    name: str, case: Case, bench: Bench, contenders: Sequence[tuple[Peer, Row]], rounds: int, order: random.Random
) -> None:
    """Measures the peers of a case, and fills their rows."""
    with ExitStack() as stack:
        ready: list[tuple[Row, Timed]] = []
        for peer, row in contenders:
            with record_failures(name, row):
                place = stack.enter_context(target(bench, peer, case.task.files))
                if not case.task.starts_servers:
                    stack.enter_context(place.serving())
                ready.append((row, case.task.warm_up(place)))
        for _ in range(rounds):
            order.shuffle(ready)
            for row, timed in ready:
                shown = None
                if not row.failed and not row.skipped:
                    with record_failures(name, row):
                        shown = timed()
                row.rounds.append(shown)


@contextlib.contextmanager
def record_failures(name: str, row: Row) -> Iterator[None]:
    """Reports failures inside and records them in the row, which excludes the peer from the case."""
    try:
        yield
    except NotApplicable as reason:
        row.skipped = str(reason)
        print(f"SKIPPED: {row.title} in {name}: {reason}", file=sys.stderr)
    except Failed as failure:
        row.failed = str(failure)
        print(f"FAILED: {row.title} in {name}: {failure}\n{textwrap.indent(failure.output, '    ')}", file=sys.stderr)
    # An invalid report is a failure as well, and so is a full disk.
    except (OSError, ValueError, KeyError) as failure:
        # Without the file's name, which means nothing on other machines.
        what = failure.strerror if isinstance(failure, OSError) else failure
        row.failed = f"{type(failure).__name__}: {what}"
        print(f"FAILED: {row.title} in {name}: {row.failed}", file=sys.stderr)
