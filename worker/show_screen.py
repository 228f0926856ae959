"""How a stream and its past look: lines of name and value, tabs in a pipe where there are many, or JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import typer

from worker.advice import advice
from worker.changes import ABSENT, Change
from worker.events import EventId
from worker.moments import moment_text
from worker.past import PastRow
from worker.retelling import HistoryEntry
from worker.show_json import (
    change_as_dict,
    entry_as_dict,
    failure_name,
    loss_as_dict,
    past_row_as_dict,
    plain,
    point_as_dict,
    view_as_dict,
)
from worker.standing import Standing, StreamView
from worker.terminal import counted, is_terminal, print_json, print_json_line, printable

_VALUE_CHARACTERS = 80
_CHANGES_SHOWN = 20

_MEANING = {
    Standing.UNKNOWN: "there is neither a row nor a log",
    Standing.LEFT_OUT: "the projection takes only streams of other names, and never projects it",
    Standing.UNREADABLE: "the key of its log holds something else",
    Standing.LOG_GONE: "there is a row, but no log",
    Standing.DIVERGED: "the log no longer holds the row's position",
    Standing.BLOCKED: "it stands before an event that could not be applied",
    Standing.BEHIND: "events wait to be projected",
    Standing.CAUGHT_UP: "nothing waits to be projected",
}


def print_view(view: StreamView, *, full: bool, as_json: bool) -> None:
    """Print how a stream stands."""
    if as_json:
        print_json(view_as_dict(view))
        return
    _print_lines([*_standing(view), *(("to do", advised) for advised in advice(view))])
    if view.row is not None:
        _print_row(view.row, full=full)
    elif view.would_be is not None and view.would_be.exists:
        typer.echo("\nThere is no row yet. It would be:")
        _print_row(view.would_be.columns, full=full)


def _standing(view: StreamView) -> Iterator[tuple[str, str]]:
    yield "stream", view.stream_id
    yield "projection", f"{view.projection}, version {view.version}"
    yield "standing", f"{view.standing}: {_MEANING[view.standing]}"
    if view.row is not None:
        stored = view.row["last_event_id"]
        yield "position", _event_text(view.position) if view.position else str(stored or "none yet")
        yield "version", _version_text(view)
        yield "generation", str(view.row["generation"])
    yield "log", f"from {view.log_starts_at} on" if view.log_starts_at else "none"
    if view.waiting:
        yield "waiting", _waiting_text(view)
    for name, rows in view.child_rows.items():
        yield name, counted(rows, "row")
    if view.letter:
        letter = view.letter
        yield "blocked by", f"event {letter.event_id} of type {letter.event_type}: {letter.reason}"
        yield "since", _time_text(letter.first_at)
        yield "next try", _time_text(letter.retry_at) if letter.retry_at else "when asked"
    if view.loss:
        yield "lost", str(view.loss)
    if view.trimmed:
        yield "trimmed", "the log begins after the row's position; what was in between was never applied"
    for entry in view.taken:
        for change in entry.changes:
            by = f"by stream {entry.stream_id!r} with event {_event_text(entry.event_id)}"
            yield "taken", f"{_change_text(change, full=False)}, {by}"


def _version_text(view: StreamView) -> str:
    if view.row_version is None or view.row_version == view.version:
        return str(view.row_version) if view.row_version is not None else "none yet"
    age = "older" if view.row_version < view.version else "newer"
    return f"{view.row_version}, {age} than {view.version}"


def _waiting_text(view: StreamView) -> str:
    assert view.waiting is not None
    if view.waiting.oldest is None:
        return "nothing"
    more = "" if view.waiting.counted else "at least "
    return (
        f"{more}{view.waiting.events:,} events, the oldest {view.waiting.oldest} for "
        f"{view.oldest_waiting_seconds or 0:,.1f} s"
    )


def print_past_row(row: PastRow, *, full: bool, as_json: bool) -> None:
    """Print a row as it was."""
    if as_json:
        print_json(past_row_as_dict(row))
        return
    _print_lines(_about(row, "at"))
    if row.exists:
        _print_row(row.columns, full=full)


def _about(row: PastRow, name: str) -> Iterator[tuple[str, str]]:
    position = row.columns["last_event_id"]
    stood = f"position {_event_text(EventId.parse(position))}" if position else "there was no row yet"
    yield name, f"{moment_text(row.up_to)}: {stood}"
    if row.failure:
        yield (
            "stopped",
            f"before event {row.failure.event_id}, whose handler raises {failure_name(row.failure.error)}",
        )


def print_difference(
    before: PastRow, after: PastRow, changes: Sequence[Change], *, full: bool, as_json: bool
) -> None:
    """Print what changed between two points; in a pipe a line for each change, with tabs."""
    if as_json:
        print_json(
            {
                "stream_id": before.stream_id,
                "from": point_as_dict(before),
                "to": point_as_dict(after),
                "changes": [change_as_dict(change) for change in changes],
                "loss": loss_as_dict(after.loss),
            }
        )
        return
    if not is_terminal():
        for change in changes:
            typer.echo("\t".join(map(printable, _change_cells(change, full=full))))
    else:
        _print_lines([*_about(before, "from"), *_about(after, "to")])
        _print_changes(changes, full=full)
    if not changes:
        typer.echo("Nothing differs.", err=True)


def print_entry(entry: HistoryEntry, stream_id: str, *, full: bool, as_json: bool) -> None:
    """Print one event of a history; in a pipe a line for each change, with tabs."""
    if as_json:
        print_json_line(entry_as_dict(entry))
        return
    if not is_terminal():
        about = (str(entry.event_id), _time_text(entry.event_id.time), entry.type or "", entry.stream_id)
        cells = [_change_cells(change, full=full) for change in entry.changes]
        if entry.failure:
            cells.append(("stopped", "", failure_name(entry.failure.error)))
        for change_cells in cells:
            typer.echo("\t".join(map(printable, (*about, *change_cells))))
        return
    what = entry.type or f"taken by stream {entry.stream_id!r}"
    typer.echo(printable(f"{_event_text(entry.event_id)}  {what}"))
    _print_changes(entry.changes, full=full)
    if entry.failure:
        typer.echo(f"  the stream stops before this event: {failure_name(entry.failure.error)}")


def _print_changes(changes: Sequence[Change], *, full: bool) -> None:
    shown = len(changes) if full else _CHANGES_SHOWN
    for change in changes[:shown]:
        typer.echo(printable(f"  {_change_text(change, full=full)}"))
    if len(changes) > shown:
        typer.echo(f"  and {len(changes) - shown:,} more changes; --full shows them")


def _change_text(change: Change, *, full: bool) -> str:
    place, before, after = _change_cells(change, full=full)
    return f"{place}: {before} -> {after}"


def _change_cells(change: Change, *, full: bool) -> tuple[str, str, str]:
    return change.place, _value_text(change.before, full=full), _value_text(change.after, full=full)


def _print_lines(lines: Iterator[tuple[str, str]] | Sequence[tuple[str, str]]) -> None:
    for name, value in lines:
        typer.echo(f"{name:<12}{printable(value)}".rstrip())


def _print_row(row: Mapping[str, Any], *, full: bool) -> None:
    """Every column on a line; JSON on many lines where all of it is asked for."""
    typer.echo("")
    width = max(map(len, row)) + 2
    for name, value in row.items():
        if full and isinstance(value, dict | list) and value:
            lines = json.dumps(value, ensure_ascii=False, indent=2).splitlines()
            typer.echo(f"{printable(name):<{width}}" + "\n".join(map(printable, lines)))
        else:
            typer.echo(f"{printable(name):<{width}}{printable(_value_text(value, full=full))}")


def _value_text(value: Any, *, full: bool) -> str:
    """A value as JSON, shortened unless ``full``; what is not there as nothing."""
    if value is ABSENT:
        return "(absent)"
    text = json.dumps(plain(value), ensure_ascii=False)
    return text if full or len(text) <= _VALUE_CHARACTERS else f"{text[: _VALUE_CHARACTERS - 1]}…"


def _event_text(event_id: EventId) -> str:
    return f"{event_id} ({_time_text(event_id.time)})"


def _time_text(at: datetime | None) -> str:
    """To the millisecond, as event ids have it, so that it can be given as a point."""
    if at is None:
        return "after the year 9999"
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}.{at.microsecond // 1000:03}Z"
