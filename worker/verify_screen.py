"""What `verify` tells in the end: a table on a terminal, lines in a pipe, or JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from worker.finding import Obstacle
from worker.rebuild import Rebuilt
from worker.survey import Survey, ToldFinding
from worker.terminal import counted, print_json, printable

_HEADINGS = ("stream", "what", "by its log", "in the table", "first event")
_OBSTACLES = {
    Obstacle.TRIMMED: "of trimmed logs",
    Obstacle.GONE: "without a log",
    Obstacle.DIVERGED: "diverged",
    Obstacle.UNREADABLE: "of keys that are no streams",
    Obstacle.HANDLER_FAILED: "at which a handler fails",
    Obstacle.NEWER_VERSION: "of a newer version",
    Obstacle.OLDER_VERSION: "of an older version",
    Obstacle.LEFT_OUT: "that the projection leaves out",
    Obstacle.BLOCKED: "blocked",
    Obstacle.BUSY: "that were replaced all the time",
    Obstacle.NOTHING: "without anything to compare",
}


@dataclass(slots=True)
class Verified:
    """What was found of a projection; what was rebuilt then, and what is found of that ``after`` it.

    ``asked_in_vain`` says that a stream was named that has neither a row nor events.
    """

    projection: str
    survey: Survey
    asked_in_vain: bool
    rebuilt: list[Rebuilt] = field(default_factory=list)
    after: Survey | None = None

    @property
    def refused(self) -> list[Rebuilt]:
        """Those that could not be rebuilt."""
        return [rebuilt for rebuilt in self.rebuilt if rebuilt.refusal is not None]

    @property
    def fine(self) -> bool:
        """Whether all is well in the end."""
        left = self.survey.wrong - len(self.survey.drifted) + self.after.wrong if self.after else None
        return not self.asked_in_vain and not (self.survey.wrong if left is None else left)


def print_verified(verified: Sequence[Verified], *, as_json: bool) -> None:
    """Print what was found of each projection, a sentence on it last."""
    if as_json:
        print_json([_as_dict(of) for of in verified])
        return
    for of in verified:
        _print_findings(of.survey)
        _print_rebuilt(of)
        typer.echo(_sentence(of.projection, of.survey))
        if of.after:
            done, left = len(of.rebuilt) - len(of.refused), of.after.wrong
            outcome = f"still wrong: {left:,}" if left else "all is right now"
            typer.echo(f"{of.projection}: rebuilt {counted(done, 'stream')}; {outcome}.")


def _as_dict(of: Verified) -> dict[str, Any]:
    return {
        "projection": of.projection,
        **_survey_as_dict(of.survey),
        "rebuilt": sum(rebuilt.refusal is None for rebuilt in of.rebuilt),
        "not_rebuilt": [asdict(rebuilt) for rebuilt in of.refused[: of.survey.limit]],
        "after": _survey_as_dict(of.after) if of.after else None,
    }


def _survey_as_dict(survey: Survey) -> dict[str, Any]:
    return {
        "rows_compared": survey.rows_compared,
        "wrong": survey.wrong,
        "obstacles": {obstacle.value: count for obstacle, count in sorted(survey.obstacles.items())},
        "findings": [asdict(finding) for finding in survey.told],
        "findings_untold": survey.untold,
    }


def _print_findings(survey: Survey) -> None:
    rows = [[printable(cell) for cell in row] for finding in survey.told for row in _rows(finding)]
    console = Console(soft_wrap=False)
    if rows and console.is_terminal:
        table = Table()
        for heading in _HEADINGS:
            table.add_column(heading, overflow="fold")
        for row in rows:
            table.add_row(*map(Text, row))
        console.print(table)
    elif rows:
        for row in rows:
            typer.echo("\t".join(row))
    if survey.untold:
        typer.echo(f"And {counted(survey.untold, 'stream')} more; a higher --limit tells of them.")


def _rows(finding: ToldFinding) -> Iterator[tuple[str, str, str, str, str]]:
    """What is told of a stream; each row has the cells of the table."""
    if finding.missing:
        yield finding.stream_id, "row missing", "a row", "none", finding.missing
    elif finding.obstacle:
        yield finding.stream_id, finding.obstacle.value, finding.detail, "", ""
    for told in finding.differences:
        yield finding.stream_id, told.column, told.expected, told.stored, told.first_event or ""


def _print_rebuilt(of: Verified) -> None:
    for rebuilt in of.refused[: of.survey.limit]:
        typer.echo(printable(f"{rebuilt.stream_id}: not rebuilt. {rebuilt.detail}"))


def _sentence(projection: str, survey: Survey) -> str:
    right = ", all right" if survey.rows_compared else ""
    wrong = f", {counted(survey.wrong, 'stream')} wrong" if survey.wrong else right
    others = [f"{count:,} {_OBSTACLES[obstacle]}" for obstacle, count in sorted(survey.obstacles.items())]
    told = f" Streams to know of: {', '.join(others)}." if others else ""
    return f"{projection}: {counted(survey.rows_compared, 'row')} compared{wrong}.{told}"
