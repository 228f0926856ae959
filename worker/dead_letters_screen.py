"""How dead letters look: a table on a terminal, plain lines in a pipe, or JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from worker.dead_letters import StoredLetter
from worker.events import field
from worker.inspection import Inspection
from worker.letters import State
from worker.terminal import print_json, printable

_GIST_CHARACTERS = 60
_DATA_CHARACTERS = 500
_HEADINGS = (
    "projection",
    "stream",
    "event",
    "type",
    "state",
    "reason",
    "error",
    "attempts",
    "first",
    "last",
    "next try",
)


def print_letters(letters: Sequence[StoredLetter], *, as_json: bool) -> None:
    """Print a list of letters; in a pipe one line each, with tabs between the columns of the table."""
    if as_json:
        print_json([letter_as_dict(letter) for letter in letters])
        return
    console = Console(soft_wrap=False)
    rows = [[printable(cell) for cell in _cells(letter)] for letter in letters]
    if not console.is_terminal:
        for row in rows:
            typer.echo("\t".join(row))
        return
    table = Table()
    for heading in _HEADINGS:
        table.add_column(heading, justify="right" if heading == "attempts" else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)


def _cells(letter: StoredLetter) -> tuple[str, ...]:
    return (
        letter.projection,
        letter.stream_id,
        str(letter.event_id),
        letter.event_type,
        letter.state,
        letter.reason,
        gist(letter.error),
        str(letter.attempts),
        _time(letter.first_at),
        _time(letter.last_at),
        _next_try(letter),
    )


def gist(error: str) -> str:
    """The line of an error that says the most, shortened: the last one of a traceback, else the first.

    Of a long traceback the beginning was cut off.
    """
    lines = error.strip().splitlines() or [""]
    is_traceback = any(line.startswith('  File "') for line in lines)
    line = lines[-1 if is_traceback else 0].strip()
    return line if len(line) <= _GIST_CHARACTERS else f"{line[: _GIST_CHARACTERS - 1]}…"


def _time(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z"


def _next_try(letter: StoredLetter) -> str:
    if letter.state is not State.OPEN:
        return "never"
    return _time(letter.retry_at) if letter.retry_at else "when asked"


def letter_as_dict(letter: StoredLetter) -> dict[str, Any]:
    """A letter as JSON, times in ISO 8601."""
    return {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in {**asdict(letter), "event_id": str(letter.event_id)}.items()
    }


def print_inspection(inspection: Inspection, *, full: bool, as_json: bool) -> None:
    """Print all about one letter; the event's data shortened unless ``full``."""
    entry = _entry_as_dict(inspection.entry, full=full) if inspection.entry is not None else None
    if as_json:
        about = {
            **letter_as_dict(inspection.letter),
            "position": str(inspection.position) if inspection.position else None,
            "blocks": inspection.blocks,
            "waiting": inspection.waiting,
            "waiting_counted": inspection.counted,
            "entry": entry,
        }
        print_json(about)
        return
    for name, value in (*_lines(inspection.letter), *_surroundings(inspection), *_entry_lines(entry)):
        typer.echo(f"{name:<12}{printable(value)}".rstrip())
    typer.echo("")
    for line in inspection.letter.error.splitlines():
        typer.echo(printable(line))


def _lines(letter: StoredLetter) -> list[tuple[str, str]]:
    lines = [
        ("projection", f"{letter.projection}, version {letter.version}"),
        ("stream", letter.stream_id),
        ("event", f"{letter.event_id} of type {letter.event_type}"),
        ("state", letter.state.value),
        ("reason", letter.reason),
        ("attempts", str(letter.attempts)),
        ("first", _time(letter.first_at)),
        ("last", _time(letter.last_at)),
    ]
    if letter.state is State.OPEN:
        lines.append(("next try", _next_try(letter)))
    if letter.settled_at:
        lines.append((letter.state.value, _time(letter.settled_at)))
    if letter.state is State.SKIPPED:
        lines += [("by", letter.skipped_by or ""), ("because", letter.skipped_because or "")]
    return lines


def _surroundings(inspection: Inspection) -> list[tuple[str, str]]:
    position = str(inspection.position) if inspection.position else "none yet"
    if not inspection.blocks:
        return [("position", position)]
    more = "" if inspection.counted else "at least "
    return [
        ("position", f"{position}; the stream stands before this event"),
        ("waiting", f"{more}{inspection.waiting or 0:,} events wait behind it"),
    ]


def _entry_as_dict(fields: Sequence[bytes], *, full: bool) -> dict[str, Any]:
    """An entry's fields as text, with what is not UTF-8 escaped; None for a field that is missing."""
    data = _text(field(fields, b"data"))
    cut = data is not None and len(data) > _DATA_CHARACTERS and not full
    return {
        "op": _text(field(fields, b"op")),
        "type": _text(field(fields, b"type")),
        "data": f"{data[:_DATA_CHARACTERS]}…" if data is not None and cut else data,
        "data_bytes": len(field(fields, b"data") or b""),
        "data_cut": cut,
    }


def _text(value: bytes | None) -> str | None:
    return value.decode("utf-8", "backslashreplace") if value is not None else None


def _entry_lines(entry: dict[str, Any] | None) -> list[tuple[str, str]]:
    if entry is None:
        return [("entry", "gone from the log")]
    lines = [(name, "missing" if entry[name] is None else entry[name]) for name in ("op", "type", "data")]
    if entry["data_cut"]:
        lines.append(("data bytes", f"{entry['data_bytes']:,}; --full shows all of them"))
    return lines
