"""The picture for the README: how fast backlogs are worked off and by whom, and how long live events take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Picture
from matplotlib.ticker import FuncFormatter, NullLocator

from tests.benchmarks.bench import WORKER
from tests.benchmarks.measurement import Figure, number

LATENCY = "ms"
BACKLOGS: Mapping[str, str] = {
    "chat backlog": "Backlog of whole chats, 9 % projected",
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
_STYLE = {
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
    """Draw backlogs, and latencies where there are any, into a PNG file. Figures that are missing are left out."""
    latencies = [figure for figure in figures if figure.unit == LATENCY]
    with mpl.rc_context(_STYLE):
        picture = Picture(figsize=(9, 5.4 if latencies else 2.9), dpi=160, layout="constrained")
        rows = picture.subfigures(2, 1, height_ratios=[2.9, 2.5]) if latencies else [picture]
        for axes, (scenario, title) in zip(
            rows[0].subplots(1, 2, sharey=True), BACKLOGS.items(), strict=True
        ):
            _draw_rates(axes, title, [figure for figure in figures if figure.scenario == scenario])
        if latencies:
            _draw_latencies(rows[1].subplots(), latencies)
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
    axes.set_xlim(100, 2_000_000)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    _finish(axes, title, "events per second (median, logarithmic)")


def _draw_latencies(axes: Axes, figures: Sequence[Figure]) -> None:
    names = [f"{figure.scenario}: {figure.subject}" for figure in figures]
    bars = axes.barh(names, [figure.median for figure in figures], color=_WORKER_COLOUR, height=0.6)
    axes.bar_label(bars, [number(figure.median) for figure in figures], padding=3)
    axes.margins(x=0.08)
    _finish(axes, "From XADD to the row that a reader sees", "milliseconds (median of runs)")


def _finish(axes: Axes, title: str, unit: str) -> None:
    if not axes.yaxis_inverted():
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
