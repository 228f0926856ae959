"""The end of a demo: figures, what is wrong, and one sentence."""

from __future__ import annotations

from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from worker.comparison import Comparison
from worker.demo.progress import Latencies
from worker.demo.screen import counted, milliseconds, say
from worker.difference import Difference, excerpts
from worker.events import EventId

_SHOWN = 20
_EXCERPT_LENGTH = 60


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a demo has found.

    `seconds` are from the first event to the moment when the last was projected. `resolution` are the seconds
    between two looks at the table, and so how finely `checkpoints` is measured. `kills` is None where nobody
    was to be killed. `behind` says of each stream that was not finished which event its row should have
    reached.
    """

    appended: int
    projected: int
    seconds: float
    checkpoints: Latencies
    resolution: Latencies
    unhinted: Latencies
    kills: int | None
    durable: bool
    behind: dict[str, EventId]
    comparison: Comparison

    @property
    def all_right(self) -> bool:
        return not self.behind and not self.comparison.wrong_rows and self.comparison.rows > 0


def print_verdict(console: Console, verdict: Verdict) -> None:
    """Print everything, the sentence last."""
    console.print(_figures(verdict))
    say(console, _how_measured(verdict), "dim")
    comparison = verdict.comparison
    for stream_id, event_id in list(verdict.behind.items())[:_SHOWN]:
        say(console, f"{stream_id}: not projected up to {event_id}")
    for stream_id in comparison.missing[:_SHOWN]:
        say(console, f"{stream_id}: the row is missing")
    for stream_id in comparison.extra[:_SHOWN]:
        say(console, f"{stream_id}: there is a row, but nothing in a log that would make one")
    if comparison.differences:
        console.print(_wrong_values(comparison.differences))
    say(console, _sentence(verdict), "bold green" if verdict.all_right else "bold red")


def _figures(verdict: Verdict) -> Table:
    figures = Table(box=None, show_header=False, padding=(0, 3, 0, 0))
    figures.add_column(style="dim")
    figures.add_column(justify="right")
    for name, value in (
        ("events in the logs", f"{verdict.appended:,}"),
        ("events projected", f"{verdict.projected:,}"),
        ("seconds", f"{verdict.seconds:.1f}"),
        ("events a second", f"{verdict.appended / verdict.seconds:,.0f}"),
        ("checkpoint latency p50", milliseconds(verdict.checkpoints.percentile(50)) or "none measured"),
        ("checkpoint latency p99", milliseconds(verdict.checkpoints.percentile(99)) or "none measured"),
        ("unhinted events, latency p50", milliseconds(verdict.unhinted.percentile(50)) or "none measured"),
        ("unhinted events, latency p99", milliseconds(verdict.unhinted.percentile(99)) or "none measured"),
        ("replicas killed", None if verdict.kills is None else f"{verdict.kills}"),
        ("rows compared", f"{verdict.comparison.rows:,}"),
        (
            "wrong rows",
            Text(f"{verdict.comparison.wrong_rows:,}", "red" if verdict.comparison.wrong_rows else ""),
        ),
    ):
        if value is not None:
            figures.add_row(name, value)
    return figures


def _how_measured(verdict: Verdict) -> str:
    often = milliseconds(verdict.resolution.percentile(50))
    at_worst = milliseconds(verdict.resolution.percentile(99))
    how = (
        f"Checkpoint latency: {len(verdict.checkpoints):,} events with hints, each from the time in its id, "
        "which XADD wrote, until a reader of PostgreSQL saw it"
    )
    if often:
        how += f"; the table was looked at every {often} (p99 {at_worst}), so it is no finer than that"
    if not verdict.durable:
        how += ". PostgreSQL kept its files in a temporary folder and did not wait for the disk (fsync off)"
    return f"{how}."


def _wrong_values(differences: tuple[Difference, ...]) -> Table:
    table = Table(box=SIMPLE_HEAD)
    for heading in ("stream", "column", "by its log", "in the table"):
        table.add_column(heading, overflow="fold")
    for difference in differences[:_SHOWN]:
        expected, stored = excerpts(difference, _EXCERPT_LENGTH)
        table.add_row(Text(difference.stream_id), Text(difference.column), Text(expected), Text(stored))
    if len(differences) > _SHOWN:
        table.add_row("…", f"and {len(differences) - _SHOWN:,} more", "", "")
    return table


def _sentence(verdict: Verdict) -> str:
    sentence = _about_rows(verdict.comparison.rows, verdict.comparison.wrong_rows)
    if verdict.behind:
        behind = counted(len(verdict.behind), "conversation")
        return f"Not finished: {behind} not projected to the end. {sentence}"
    return sentence


def _about_rows(rows: int, wrong: int) -> str:
    if not rows:
        return "There is no row, so nothing is proved."
    if wrong:
        return f"{wrong:,} of {counted(rows, 'row')} {'is' if wrong == 1 else 'are'} wrong."
    return "The only row is right." if rows == 1 else f"All {rows:,} rows are right."
