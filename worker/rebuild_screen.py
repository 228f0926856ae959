"""What `rebuild` tells in the end: sentences, or one object of JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import typer

from worker.campaign import RefusedStream
from worker.dry_run import DryRun
from worker.judgement import Refusal
from worker.rebuild import Rebuilt
from worker.terminal import counted, print_json_line, print_unknown, printable

_STREAMS_LISTED = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What became of a rebuild, by all processes that worked on it.

    ``refusals`` counts streams that were not rebuilt, ``told`` are the first of them. ``unknown`` are streams
    that were named and do not exist. ``why`` says why it is not finished and how to go on; empty when nothing
    is left to do. ``results`` are what became of streams that were named.
    """

    projection: str
    version: int
    scope: str
    streams: int
    done: int
    events: int
    seconds: float
    refusals: Mapping[Refusal, int]
    told: Sequence[RefusedStream]
    unknown: Sequence[str] = ()
    why: str = ""
    results: Sequence[Rebuilt] = ()

    @property
    def refused(self) -> int:
        return sum(self.refusals.values())

    @property
    def rebuilt(self) -> int:
        return self.done - self.refused

    @property
    def fine(self) -> bool:
        """Whether every stream was rebuilt."""
        return not (self.why or self.refused or self.unknown)


def print_report(report: Report, *, as_json: bool) -> None:
    """Print all of it; in JSON one object on one line, after those of the progress."""
    if as_json:
        values = asdict(report) | {"rebuilt": report.rebuilt, "refused": report.refused}
        print_json_line({"event": "report", "finished": not report.why, **values})
        return
    for of in report.results:
        if of.refusal is None:
            typer.echo(printable(f"{of.stream_id}: {_became(of)}"))
    for refused in report.told:
        typer.echo(printable(f"{refused.stream_id}: {refused.refusal}. {refused.detail}"))
    if untold := report.refused - len(report.told):
        typer.echo(f"And {counted(untold, 'stream')} more; a higher --limit tells of them.")
    print_unknown(report.unknown)
    typer.echo(
        f"{report.projection}: rebuilt {counted(report.rebuilt, 'stream')} of {report.streams:,} from "
        f"{counted(report.events, 'event')} in {report.seconds:,.1f} s.{_reasons(report.refusals)}"
    )
    if report.why:
        typer.echo(report.why, err=True)


def _became(rebuilt: Rebuilt) -> str:
    if rebuilt.position is None:
        return "the log holds no event to project; if there was a row, it is empty now."
    return f"rebuilt from {counted(rebuilt.events, 'event')}; the row stands at {rebuilt.position}."


def _reasons(refusals: Mapping[Refusal, int]) -> str:
    if not refusals:
        return ""
    reasons = ", ".join(f"{count:,} {refusal}" for refusal, count in sorted(refusals.items()))
    return f" Not rebuilt: {counted(sum(refusals.values()), 'stream')} ({reasons})."


def print_dry_run(projection: str, dry: DryRun, *, as_json: bool) -> None:
    """Print what would change."""
    if as_json:
        print_json_line({"event": "dry_run", "projection": projection, **dry.as_dict()})
        return
    for column, rows in sorted(dry.columns.items(), key=lambda item: (-item[1], item[0])):
        example = dry.examples[column]
        change = f"in {example.stream_id} from {example.old} to {example.new}"
        typer.echo(printable(f"{column}: {counted(rows, 'row')}; {change}"))
    for refused in dry.told:
        typer.echo(printable(f"{refused.stream_id}: {refused.refusal}. {refused.detail}"))
    print_unknown(dry.unknown)
    versions = ", ".join(f"{rows:,} of version {version}" for version, rows in sorted(dry.versions.items()))
    looked = f" (of {dry.total_streams:,}; it was stopped)" if dry.streams < dry.total_streams else ""
    for sentence in (
        f"{projection}: looked at {counted(dry.streams, 'stream')}{looked}; rows now: {versions or 'none'}.",
        f"A rebuild would change {counted(dry.changed, 'row')}, make {dry.made:,} and leave "
        f"{dry.unchanged:,} as they are.{_reasons(dry.refusals)}",
        f"{_estimate(dry)}Nothing was written.",
    ):
        typer.echo(sentence)


def _estimate(dry: DryRun) -> str:
    seconds = dry.estimate_seconds
    return "" if seconds is None else f"It would take at least {seconds:,.0f} s. "


def print_prunable(stream_ids: Sequence[str], rows: int, *, as_json: bool) -> None:
    """List the rows whose log does not exist."""
    if as_json:
        return
    for stream_id in stream_ids[:_STREAMS_LISTED]:
        typer.echo(printable(stream_id))
    if len(stream_ids) > _STREAMS_LISTED:
        typer.echo(f"And {len(stream_ids) - _STREAMS_LISTED:,} more; --json lists all of them.")
    typer.echo(f"{len(stream_ids):,} of {counted(rows, 'row')} have no log.")


def print_pruned(listed: Sequence[str], removed: Sequence[str], *, as_json: bool) -> None:
    """Tell what was removed; rows that are not among it got a log, or changed, meanwhile."""
    if as_json:
        print_json_line({"event": "report", "without_log": listed, "removed": removed})
        return
    kept = f" {len(listed) - len(removed):,} were left." if len(removed) < len(listed) else ""
    typer.echo(f"Removed {counted(len(removed), 'row')} with their claims.{kept}")
