"""The picture for the README: how fast backlogs are worked off and by whom, and how long live events take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Picture
from matplotlib.ticker import EngFormatter, NullLocator

from tests.benchmarks.bench import WORKER
from tests.benchmarks.measurement import Figure, number

LATENCY = "ms"
BACKLOGS: Mapping[str, str] = {
    "chat backlog": "Backlog of whole chats",
    "projected only": "Backlog of projected events only",
}
SUBJECTS: Mapping[str, str] = {
    "naive": "inline in the request",
    "FastStream batch": "FastStream, batches of 500",
    "hand-written batch": "hand-written batch loop",
    WORKER: WORKER,
    "read limit": "reading alone, redis-py",
}

_WORKER_COLOUR, _OTHER_COLOUR, _LIMIT_COLOUR = "#2563eb", "#94a3b8", "#e2e8f0"
_TEXT_COLOUR, _GRID_COLOUR = "#1f2937", "#e5e7eb"
_RATES = (100, 2_000_000)
_STYLE: Any = {
    "font.size": 9,
    "text.color": _TEXT_COLOUR,
    "axes.labelcolor": _TEXT_COLOUR,
    "xtick.color": _TEXT_COLOUR,
    "ytick.color": _TEXT_COLOUR,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
}


def save_plot(figures: Sequence[Figure], path: Path) -> None:
    """Draw backlogs, and latencies where there are any, into a PNG. What was not measured is missing."""
    latencies = [figure for figure in figures if figure.unit == LATENCY]
    rows: list[Any] = [[*BACKLOGS]]
    heights = [len(SUBJECTS)]
    if latencies:
        rows.append([LATENCY] * len(BACKLOGS))
        heights.append(len(latencies))
    with mpl.rc_context(_STYLE):
        picture = Picture(figsize=(9, 0.9 * len(rows) + 0.38 * sum(heights)), dpi=160, layout="constrained")
        axes = picture.subplot_mosaic(rows, height_ratios=heights)
        for at, (scenario, title) in enumerate(BACKLOGS.items()):
            _draw_rates(axes[scenario], title, [figure for figure in figures if figure.scenario == scenario])
            axes[scenario].tick_params(labelleft=at == 0)
        if latencies:
            _draw_latencies(axes[LATENCY], latencies)
        picture.savefig(path)


def _draw_rates(axes: Axes, title: str, figures: Sequence[Figure]) -> None:
    found = {figure.subject: figure for figure in figures}
    shown = [found[subject] for subject in SUBJECTS if subject in found]
    names = [SUBJECTS[figure.subject] for figure in shown]
    bars = axes.barh(
        names,
        [figure.median for figure in shown],
        color=[_colour(figure.subject) for figure in shown],
        height=0.68,
    )
    axes.bar_label(bars, [f"{figure.median:,.0f}" for figure in shown], padding=3)
    axes.set_xscale("log")
    axes.set_xlim(*_RATES)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_minor_locator(NullLocator())
    _finish(axes, title, "events per second (median, logarithmic)")


def _draw_latencies(axes: Axes, figures: Sequence[Figure]) -> None:
    names = [f"{figure.scenario}: {figure.subject}" for figure in figures]
    colours = [_colour(figure.subject.partition(",")[0]) for figure in figures]
    bars = axes.barh(names, [figure.median for figure in figures], color=colours, height=0.6)
    axes.bar_label(bars, [number(figure.median) for figure in figures], padding=3)
    axes.margins(x=0.08)
    _finish(axes, "From XADD to the row that a reader sees", "milliseconds (median of runs)")


def _finish(axes: Axes, title: str, unit: str) -> None:
    axes.invert_yaxis()
    axes.set_title(title, loc="left")
    axes.set_xlabel(unit)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=_GRID_COLOUR)
    axes.set_axisbelow(True)


def _colour(subject: str) -> str:
    if subject == WORKER:
        return _WORKER_COLOUR
    return _LIMIT_COLOUR if subject.startswith("read limit") else _OTHER_COLOUR
