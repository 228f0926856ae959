"""How far a command is, shown while it works: a bar on a terminal, lines in a pipe, or objects of JSON."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from time import monotonic
from typing import Protocol

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from worker.terminal import print_json_line

_LINE_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Step:
    """How far it is. Counts are of streams, but ``events``; ``workers`` is how many processes are at it.

    ``seconds_left`` is None where it cannot be told.
    """

    streams: int
    done: int
    refused: int = 0
    events: int = 0
    streams_per_second: float = 0.0
    seconds_left: float | None = None
    workers: int = 1

    @property
    def left(self) -> str:
        """The time left, for people."""
        if self.seconds_left is None:
            return "time left unknown"
        minutes, seconds = divmod(round(self.seconds_left), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02}:{seconds:02} left"


class Stopwatch:
    """Steps of work that one process does by itself."""

    def __init__(self, streams: int) -> None:
        self._streams = streams
        self._began = monotonic()

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return monotonic() - self._began

    def step(self, done: int, *, refused: int = 0, events: int = 0) -> Step:
        """The step after so many streams."""
        rate = done / max(self.seconds, 1e-6)
        left = (self._streams - done) / rate if done else None
        return Step(self._streams, done, refused, events, rate, left)


class Shown(Protocol):
    """Where steps are shown."""

    def show(self, step: Step) -> None:
        """Show how far it is now, or leave it until later."""


class _Bar:
    def __init__(self, progress: Progress, name: str, things: str) -> None:
        self._progress = progress
        self._things = things
        self._task = progress.add_task(name, total=None, rate="", left="")

    def show(self, step: Step) -> None:
        rate = _rate(step, self._things)
        self._progress.update(self._task, total=step.streams, completed=step.done, rate=rate, left=step.left)


class _Lines:
    """A line every few seconds."""

    def __init__(self, name: str, things: str, *, as_json: bool, at_once: bool) -> None:
        self._name = name
        self._things = things
        self._as_json = as_json
        self._said_at = float("-inf") if at_once else monotonic()

    def show(self, step: Step) -> None:
        if monotonic() - self._said_at < _LINE_SECONDS:
            return
        self._said_at = monotonic()
        if self._as_json:
            print_json_line({"event": "progress", "projection": self._name, **asdict(step)})
            return
        refused = f", {step.refused:,} refused" if step.refused else ""
        typer.echo(
            f"{self._name}: {step.done:,} of {step.streams:,} {self._things}{refused}; "
            f"{_rate(step, self._things)}, {step.left}",
            err=True,
        )


def _rate(step: Step, things: str) -> str:
    return f"{step.streams_per_second:,.0f} {things}/s"


@contextmanager
def shown(
    name: str, *, things: str = "streams", as_json: bool = False, at_once: bool = True
) -> Iterator[Shown]:
    """Show steps; bars and lines on standard error, so never among results, JSON on standard output.

    Without ``at_once`` the first line waits, so that a short command says nothing but its result.
    """
    console = Console(stderr=True)
    if as_json or not console.is_terminal:
        yield _Lines(name, things, as_json=as_json, at_once=at_once)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TextColumn("{task.fields[left]}"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield _Bar(progress, name, things)


class Count:
    """Things done, shown as they grow in number, of about ``total``."""

    def __init__(self, screen: Shown, total: int) -> None:
        self._screen = screen
        self._watch = Stopwatch(total)
        self._done = 0

    def add(self, more: int) -> None:
        """So many more are done."""
        self._done += more
        self._screen.show(self._watch.step(self._done))
