"""The results, with the machine and the versions: all that the table and the plot show."""

import dataclasses
import datetime
import json
import os
import platform
from dataclasses import dataclass, field
from pathlib import Path

from .rounds import Row
from .tasks import Figure

MUXS = "muxs"


@dataclass(frozen=True)
class CaseResult:
    name: str
    plotted: bool
    rows: list[Row]

    def row(self, peer: str) -> Row | None:
        return next((row for row in self.rows if row.peer == peer), None)


@dataclass(frozen=True)
class WorkResult:
    key: str
    title: str
    note: str
    figures: tuple[Figure, ...]
    cases: list[CaseResult]
    # See `Work`.
    parts_of_muxs: bool = False
    floor: str | None = None


@dataclass(frozen=True)
class Machine:
    """The machine on which the results were measured."""

    kernel: str
    processor: str
    cores: int
    memory_gib: float
    # The cores of servers and clients, as a sentence.
    pinning: str
    # The load average of the minute before the run.
    load_before: float


@dataclass
class Results:
    date: str
    command: str
    seed: int
    rounds: int
    machine: Machine
    # The versions of the clients and of the compilers.
    versions: dict[str, str]
    works: list[WorkResult] = field(default_factory=list)
    minutes: float = 0.0

    def failed(self) -> bool:
        return any(row.failed for work in self.works for case in work.cases for row in case.rows)

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False) + "\n"


def today() -> str:
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def machine(pinning: str) -> Machine:
    return Machine(
        kernel=platform.release(),
        processor=_processor(),
        cores=len(os.sched_getaffinity(0)),
        memory_gib=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30), 1),
        pinning=pinning,
        load_before=round(os.getloadavg()[0], 2),
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()
