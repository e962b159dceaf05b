"""Draws the main cases: a chart for each, with a bar for each peer and whiskers from the least to the most."""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .results import MUXS, CaseResult, Results, WorkResult
from .rounds import Summary, summary
from .table import number

COLUMNS = 3
# These colors are legible on white and on black.
INK = "#7d8590"
OTHERS = "#8b98a899"
OURS = "#d1703ccc"
# These peers send nothing, and are so fast that the other bars would be too short to see.
TOO_FAST = ("memcpy", "crc", "cp")


@dataclass(frozen=True)
class Bar:
    name: str
    color: str
    shown: Summary


@dataclass(frozen=True)
class Chart:
    title: str
    bars: list[Bar]


def draw(results: Results, path: Path) -> None:
    """Draws all plotted cases to an SVG file. Requires matplotlib."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    charts = [_chart(work, case) for work in results.works for case in work.cases if case.plotted]
    charts = [chart for chart in charts if chart.bars]
    if not charts:
        return
    rows = [charts[start : start + COLUMNS] for start in range(0, len(charts), COLUMNS)]
    # The most bars of any chart in each row, so that all bars have the same height.
    bars = [max(len(chart.bars) for chart in row) for row in rows]
    heights = [0.6 + 0.19 * count for count in bars]
    style = {
        # The file depends on the results only, and keeps its text as text.
        "svg.hashsalt": "muxs",
        "svg.fonttype": "none",
        "font.size": 8,
        "font.family": "sans-serif",
        "text.color": INK,
        "ytick.color": INK,
    }
    with pyplot.rc_context(style):
        figure, grid = pyplot.subplots(
            len(rows),
            COLUMNS,
            figsize=(4 * COLUMNS, sum(heights)),
            height_ratios=heights,
            squeeze=False,
            layout="constrained",
        )
        for row, places, most in zip(rows, grid, bars):
            for chart, axes in itertools.zip_longest(row, places):
                axes.set_axis_off() if chart is None else _draw(chart, axes, most)
        figure.savefig(path, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        pyplot.close(figure)


def _chart(work: WorkResult, case: CaseResult) -> Chart:
    """Returns the chart of a case, for the first figure of its work."""
    figure = work.figures[0]
    better = ", less is better" if figure.more_is_better is False else ""
    bars = [
        # Titles have marks of Markdown.
        Bar(row.title.strip("`"), OURS if row.peer == MUXS else OTHERS, shown)
        for row in case.rows
        if row.peer not in TOO_FAST and not row.failed and (shown := summary(row.figures(figure.key)))
    ]
    return Chart(f"{work.title}: {case.name}\n{figure.unit}{better}", bars)


def _draw(chart: Chart, axes: Any, most: int) -> None:
    medians = [bar.shown.median for bar in chart.bars]
    below = [bar.shown.median - bar.shown.least for bar in chart.bars]
    above = [bar.shown.most - bar.shown.median for bar in chart.bars]
    axes.barh(
        [bar.name for bar in chart.bars],
        medians,
        xerr=[below, above],
        color=[bar.color for bar in chart.bars],
        ecolor=INK,
        error_kw={"elinewidth": 1, "capsize": 2},
    )
    right = max(bar.shown.most for bar in chart.bars)
    for position, bar in enumerate(chart.bars):
        axes.text(bar.shown.most + right * 0.02, position, number(bar.shown.median), va="center")
    # Leaves room for the text.
    axes.set_xlim(0, right * 1.22)
    axes.set_ylim(most - 0.5, -0.5)
    axes.set_title(chart.title, fontsize=8)
    axes.set_xticks([])
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
