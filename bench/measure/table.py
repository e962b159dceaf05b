"""Writes the results as Markdown: a table for each work."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .results import MUXS, CaseResult, Results, WorkResult
from .rounds import Row, Summary, ratios, summary
from .tasks import Figure

NONE = "–"


def markdown(results: Results) -> str:
    lines = [*_head(results)]
    for work in results.works:
        lines += _work(work)
    return "\n".join(lines) + "\n"


def _head(results: Results) -> Iterator[str]:
    machine = results.machine
    yield "# muxs beside others"
    yield ""
    yield (
        f"Written by `{results.command}` on {results.date}, in {results.minutes:.0f} minutes: {machine.processor}, "
        f"{machine.cores} cores, {machine.memory_gib} GiB, Linux {machine.kernel}; load average before "
        f"{machine.load_before}. {machine.pinning}"
    )
    yield ""
    yield (
        f"Figures are the median of {_rounds(results.rounds)}, or of as many as a row says, and the least and the most "
        "of them. In each round every peer runs once, in a shuffled order "
        f"(seed {results.seed}). `muxs / peer` is what muxs has shown, divided by what the peer has shown in the same "
        "round: again the median, the least and the most. `peer / muxs`, where muxs is beside itself, is the other way "
        "round, and `peer / floor` is what each has shown, divided by the floor."
    )
    yield ""
    yield "Clients and compilers: " + ", ".join(f"{name} {version}" for name, version in results.versions.items()) + "."


def _rounds(count: int) -> str:
    return "one round" if count == 1 else f"{count} rounds"


def _work(work: WorkResult) -> Iterator[str]:
    yield ""
    yield f"## {work.title}"
    yield ""
    yield work.note
    yield ""
    columns = [column for figure in work.figures for column in _columns(work, figure)]
    several = len(work.cases) > 1
    names = [*(["case"] if several else []), "peer", "version"]
    yield _cells([*names, *(column.title for column in columns)])
    yield _cells(["---"] * len(names) + ["---:"] * len(columns))
    for case in work.cases:
        for row in case.rows:
            title = f"**{row.title}**" if row.peer == MUXS else row.title
            yield _cells([*([case.name] if several else []), title, row.version, *_shown(columns, case, row)])


@dataclass(frozen=True)
class Column:
    title: str
    # The text of the cell for a row of a case.
    cell: Callable[[CaseResult, Row], str]


def _columns(work: WorkResult, figure: Figure) -> Iterator[Column]:
    better = {True: ", more is better", False: ", less is better", None: ""}[figure.more_is_better]
    yield Column(f"{figure.unit}{better}", lambda _, row: _median(summary(row.figures(figure.key))))
    yield Column("spread", lambda _, row: _spread(summary(row.figures(figure.key))))
    if better and any(row.peer != MUXS for case in work.cases for row in case.rows):
        if work.parts_of_muxs:
            yield Column("peer / muxs", lambda case, row: _ratio(row, case.row(MUXS), figure, itself="1"))
        else:
            yield Column("muxs / peer", lambda case, row: _ratio(case.row(MUXS), row, figure))
        if work.floor:
            yield Column("peer / floor", lambda case, row: _ratio(row, case.row(work.floor), figure, itself="1"))


def _shown(columns: list[Column], case: CaseResult, row: Row) -> list[str]:
    if row.skipped or row.failed:
        why = f"skipped: {row.skipped}" if row.skipped else f"FAILED: {row.failed}"
        return [why] + [NONE] * (len(columns) - 1)
    return [column.cell(case, row) for column in columns]


def _ratio(above: Row | None, below: Row | None, figure: Figure, itself: str = NONE) -> str:
    if above is None or below is None:
        return NONE
    if above is below:
        return itself
    shown = summary(ratios(above, below, figure.key))
    spread = _spread(shown)
    return _median(shown) + ("" if spread == NONE else f" ({spread})")


def _median(shown: Summary | None) -> str:
    return number(shown.median) if shown else NONE


def _spread(shown: Summary | None) -> str:
    if shown is None or shown.least == shown.most:
        return NONE
    return f"{number(shown.least)} to {number(shown.most)}"


def number(value: float) -> str:
    """Formats a number with three significant digits."""
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        digits = len(str(int(abs(value)))) - 3
        return f"{round(value, -digits):,.0f}"
    return f"{value:.3g}"


def _cells(cells: list[str]) -> str:
    # An unescaped bar would end the cell.
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
