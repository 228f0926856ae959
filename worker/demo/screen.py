"""What is seen while the demo runs: a live screen on a terminal, and a line now and then elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Column, Table
from rich.text import Text

from worker.demo.progress import Lag
from worker.demo.recent import RecentRows
from worker.waiting import wait_for

RECENT_ROWS = 12

_FRAME_SECONDS = 0.25
_LINE_SECONDS = 2.0
_CUT_WIDTH = 20
_GAP = 2


@dataclass(frozen=True, slots=True)
class ReplicaView:
    """A replica on the screen. `events_applied` is None until it has first reported."""

    name: str
    pid: int
    seconds: float
    events_applied: int | None


@dataclass(frozen=True, slots=True)
class View:
    """One frame."""

    phase: str
    seconds: float
    appended: int
    appended_a_second: float
    projected: int
    hinted: Lag
    unhinted: Lag
    latency_p50: float | None
    latency_p99: float | None
    replicas: Sequence[ReplicaView]
    kills: int
    last_kill: str | None
    recent: RecentRows


async def show(console: Console, look: Callable[[], Awaitable[View]], finished: asyncio.Event) -> None:
    """Show how things stand again and again, and a last time once it is finished."""
    if not console.is_terminal:
        while not await wait_for(finished, _LINE_SECONDS):
            say(console, plain_line(await look()))
        say(console, plain_line(await look()))
        return
    # Without rich's refreshing thread, which would take turns with the measuring event loop.
    with Live(console=console, auto_refresh=False) as live:
        while not await wait_for(finished, _FRAME_SECONDS):
            live.update(frame(await look(), *console.size), refresh=True)
        live.update(frame(await look(), *console.size), refresh=True)


def say(console: Console, text: str, style: str = "") -> None:
    """One line as it is: no markup, and no line breaks of its own."""
    console.print(Text(text, style), soft_wrap=True)


def plain_line(view: View) -> str:
    """A frame as one line."""
    pids = " ".join(str(replica.pid) for replica in view.replicas)
    kills = f", {view.kills} killed so far" if view.kills else ""
    return (
        f"{view.seconds:5.1f} s: {view.appended:,} events in ({view.appended_a_second:,.0f} a second), "
        f"{view.projected:,} projected, lag with hints {spell_lag(view.hinted)}, "
        f"without hints {spell_lag(view.unhinted)}; "
        f"{counted(len(view.replicas), 'replica')} (pid {pids}){kills}"
    )


def spell_lag(lag: Lag) -> str:
    """How many events are not projected yet, and how old the oldest is."""
    return f"{lag.events:,}, oldest {lag.oldest_seconds:.1f} s" if lag.events else "none"


def frame(view: View, width: int, height: int) -> RenderableType:
    """A frame for a terminal of so many columns and lines."""
    figures = (
        _figure("events in", f"{view.appended:,}"),
        _figure("a second", f"{view.appended_a_second:,.0f}"),
        _figure("projected", f"{view.projected:,}", "bold green"),
        _figure("lag with hints", spell_lag(view.hinted)),
        _figure("lag without hints", spell_lag(view.unhinted)),
    )
    grid = Table.grid(*(Column(ratio=ratio) for ratio in (2, 2, 2, 3, 3)), padding=(0, 1), expand=True)
    grid.add_row(*figures)
    above = 9 + len(view.replicas)  # lines, with one for the cursor
    return Group(
        Panel(grid, title=view.phase, title_align="left", subtitle=_elapsed(view), subtitle_align="right"),
        _replicas(view),
        _recent(view.recent, width, max(0, height - above)),
    )


def _figure(name: str, value: str, style: str = "bold") -> Text:
    return Text.assemble((f"{value}\n", style), (name, "dim"))


def _elapsed(view: View) -> str:
    p50, p99 = milliseconds(view.latency_p50), milliseconds(view.latency_p99)
    latency = f"checkpoint events visible after {p50} (p50), {p99} (p99) · " if p50 else ""
    return f"{latency}{view.seconds:.1f} s"


def milliseconds(seconds: float | None) -> str:
    """A latency in a readable unit; empty where nothing was measured."""
    if seconds is None:
        return ""
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def counted(number: int, noun: str) -> str:
    """So many of something."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _replicas(view: View) -> RenderableType:
    table = Table.grid(padding=(0, 3))
    for replica in view.replicas:
        working = replica.events_applied is not None
        table.add_row(
            Text.assemble(("● ", "green" if working else "yellow"), replica.name),
            Text(f"pid {replica.pid}", "dim"),
            Text(f"{replica.seconds:.0f} s", "dim"),
            Text(f"{replica.events_applied:,} events applied" if working else "starting"),
        )
    if view.last_kill:
        killed = Text.assemble(("✗ ", "red"), f"{view.last_kill}; {view.kills} killed so far")
    else:
        killed = Text()
    return Group(table, killed)


def _recent(recent: RecentRows, width: int, lines: int) -> RenderableType:
    """The rows, with as many of the columns as have room. Long text is cut before a column is left out."""
    columns = [
        _RecentColumn(name, [row[at] for row in recent.rows]) for at, name in enumerate(recent.columns)
    ]
    shown = []
    for column in columns:
        if column.least + _GAP <= width:
            width -= column.least + _GAP
            shown.append(column)
    table = Table(box=None, padding=(0, _GAP, 0, 0), header_style="dim")
    for column in shown:
        more = min(column.most - column.least, width)
        width -= more
        table.add_column(
            column.heading,
            justify="right" if column.is_numeric else "left",
            no_wrap=True,
            overflow="ellipsis",
            width=column.least + more,
        )
    for values in list(zip(*(column.values for column in shown), strict=True))[:lines]:
        table.add_row(*map(_cell, values))
    return table


class _RecentColumn:
    """A column of the recent rows, how wide it must be at least, and how wide to show all of it."""

    def __init__(self, name: str, values: Sequence[Any]) -> None:
        self.heading = "\n".join(name.rsplit("_", 1)).replace("_", " ")
        self.values = values
        heading_width = max(map(len, self.heading.splitlines()))
        content_width = max((cell_len(_cell(value).plain) for value in values), default=0)
        self.most = max(heading_width, content_width)
        self.least = max(heading_width, min(content_width, _CUT_WIDTH))
        self.is_numeric = any(isinstance(value, int) and not isinstance(value, bool) for value in values)


def _cell(value: Any) -> Text:
    match value:
        case None | False:
            return Text("·", "dim")
        case True:
            return Text("yes", "green")
        case _:
            return Text(str(value))
