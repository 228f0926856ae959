"""Emitting many events from lines of JSON."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Collection, Iterable
from typing import Any

from redis.asyncio import Redis

from worker.emit import emit
from worker.errors import EmitError, InvalidEventError
from worker.keys import Keys

_FIELDS = frozenset({"stream_id", "type", "data", "operation_id"})


async def emit_lines(
    redis: Redis, lines: Iterable[str], *, projected_types: Collection[str], keys: Keys
) -> AsyncIterator[str]:
    """Emit an event for each line that is not blank, in order, and yield its id.

    Stops at the first line that is wrong or cannot be emitted; the error names it, so that one can go on from
    there. Everything before it stands in the logs.
    """
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            event = _parse(line)
            yield await emit(
                redis,
                event["stream_id"],
                event.get("operation_id", ""),
                event["type"],
                event.get("data", {}),
                projected_types=projected_types,
                keys=keys,
            )
        except (InvalidEventError, EmitError) as error:
            raise type(error)(f"Line {number}: {error} The lines before it were emitted.") from None


def _parse(line: str) -> dict[str, Any]:
    try:
        event = json.loads(line)
    except ValueError as error:
        raise InvalidEventError(f"This is not JSON: {error}.") from None
    if not isinstance(event, dict) or not isinstance(event.get("data", {}), dict):
        raise InvalidEventError("An event must be a JSON object, and so must its data.")
    if unknown := event.keys() - _FIELDS:
        raise InvalidEventError(f"Unknown fields {sorted(unknown)}; known are {sorted(_FIELDS)}.")
    for name in ("stream_id", "type", "operation_id"):
        if not isinstance(event.get(name, "" if name == "operation_id" else None), str):
            raise InvalidEventError(f"{name} must be given, as a string.")
    return event
