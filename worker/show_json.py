"""A stream and its past as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from decimal import Decimal
from typing import Any

from worker.advice import advice
from worker.changes import ABSENT, Change
from worker.moments import moment_text
from worker.past import Loss, PastRow
from worker.retelling import HistoryEntry
from worker.standing import StreamView


def _columns_as_dict(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: plain(value) for name, value in row.items()}


def view_as_dict(view: StreamView) -> dict[str, Any]:
    """All about a stream; times in ISO 8601, ages in seconds."""
    return {
        "stream_id": view.stream_id,
        "projection": view.projection,
        "version": view.version,
        "standing": view.standing.value,
        "position": str(view.position) if view.position else None,
        "position_time": _iso(view.position.time) if view.position else None,
        "row_version": view.row_version,
        "log_starts_at": view.log_starts_at,
        "waiting": {
            "events": view.waiting.events,
            "counted": view.waiting.counted,
            "oldest": str(view.waiting.oldest) if view.waiting.oldest else None,
            "oldest_seconds": view.oldest_waiting_seconds,
        }
        if view.waiting
        else None,
        "trimmed": view.trimmed,
        "loss": loss_as_dict(view.loss),
        "blocked_by": {
            "event_id": str(view.letter.event_id),
            "type": view.letter.event_type,
            "reason": view.letter.reason,
            "since": _iso(view.letter.first_at),
            "next_try": _iso(view.letter.retry_at),
        }
        if view.letter
        else None,
        "taken": [entry_as_dict(entry) for entry in view.taken],
        "to_do": list(advice(view)),
        "row": _columns_as_dict(view.row) if view.row is not None else None,
        "child_rows": dict(view.child_rows),
        "would_be": _columns_as_dict(view.would_be.columns)
        if view.would_be and view.would_be.exists
        else None,
    }


def past_row_as_dict(row: PastRow) -> dict[str, Any]:
    """A row as it was; null where there was none yet."""
    return {
        "stream_id": row.stream_id,
        **point_as_dict(row),
        "loss": loss_as_dict(row.loss),
        "row": _columns_as_dict(row.columns) if row.exists else None,
    }


def point_as_dict(row: PastRow) -> dict[str, Any]:
    """Where a row of the past stood."""
    return {
        "at": moment_text(row.up_to),
        "position": row.columns["last_event_id"],
        "stopped_before": str(row.failure.event_id) if row.failure else None,
    }


def entry_as_dict(entry: HistoryEntry) -> dict[str, Any]:
    """One event of a history; ``stopped`` is the kind of error that its handler raises."""
    return {
        "event_id": str(entry.event_id),
        "time": _iso(entry.event_id.time),
        "stream_id": entry.stream_id,
        "type": entry.type,
        "changes": [change_as_dict(change) for change in entry.changes],
        "stopped": failure_name(entry.failure.error) if entry.failure else None,
    }


def change_as_dict(change: Change) -> dict[str, Any]:
    """Without ``before`` or ``after`` where there was nothing, not even null."""
    sides = {"before": change.before, "after": change.after}
    told = {name: plain(value) for name, value in sides.items() if value is not ABSENT}
    return {"column": change.column, "path": list(change.path), **told}


def loss_as_dict(loss: Loss | None) -> dict[str, Any] | None:
    """What a log no longer holds; null where it holds all."""
    return asdict(loss) if loss else None


def _iso(at: datetime | None) -> str | None:
    return at.isoformat() if at else None


def plain(value: Any) -> Any:
    """A column's value as JSON has it."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else str(value)
    return value if isinstance(value, dict | list | str | int | float | None) else str(value)


def failure_name(error: Exception) -> str:
    """The kind of an error: its text may quote the event."""
    return type(error).__name__
