"""Emitting from the command line: one event, or many from lines of JSON."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from typing import Any

from redis.asyncio import Redis
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from worker.emit import emit, emit_again
from worker.errors import EmitError, InvalidEventError, OutcomeUnknownError
from worker.keys import Keys

_FIELDS = frozenset({"stream_id", "type", "data", "operation_id"})
_BEFORE = "The lines before it were emitted."
_ATTEMPTS_TO_SETTLE = 5
_LONGEST_PAUSE_SECONDS = 5.0


async def emit_and_settle(
    redis: Redis,
    stream_id: str,
    operation_id: str,
    event_type: str,
    data: Mapping[str, Any],
    *,
    projected_types: Collection[str],
    keys: Keys,
) -> str:
    """Emit an event and return its id; where the outcome is unknown, find out if that can be done.

    Raises what `emit` raises: OutcomeUnknownError for an event without operation id, or if Redis stays away.
    """
    try:
        return await emit(
            redis, stream_id, operation_id, event_type, data, projected_types=projected_types, keys=keys
        )
    except OutcomeUnknownError as error:
        if not operation_id:
            raise
        unknown = error
    settling = AsyncRetrying(
        retry=retry_if_exception(lambda error: isinstance(error, OutcomeUnknownError)),
        stop=stop_after_attempt(_ATTEMPTS_TO_SETTLE),
        wait=wait_random_exponential(max=_LONGEST_PAUSE_SECONDS),
        reraise=True,
    )
    return await settling(emit_again, redis, unknown)


async def emit_lines(
    redis: Redis, lines: Iterable[str], *, projected_types: Collection[str], keys_of: Callable[[str], Keys]
) -> AsyncIterator[str]:
    """Emit an event for each line that is not blank, in order, and yield its id.

    ``keys_of`` gives the keys by the event's type, or raises InvalidEventError.

    Stops at the first line that is wrong or cannot be emitted; the error names it, so that one can go on from
    there. Everything before it stands in the logs.
    """
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            event = _parse(line)
            yield await emit_and_settle(
                redis,
                event["stream_id"],
                event.get("operation_id", ""),
                event["type"],
                event.get("data", {}),
                projected_types=projected_types,
                keys=keys_of(event["type"]),
            )
        except OutcomeUnknownError as error:
            raise OutcomeUnknownError(f"Line {number}: {error} {_BEFORE}", error.attempt) from None
        except (InvalidEventError, EmitError) as error:
            raise type(error)(f"Line {number}: {error} {_BEFORE}") from None


def _parse(line: str) -> dict[str, Any]:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidEventError(f"This is not JSON: {error}.") from None
    if not isinstance(event, dict) or not isinstance(event.get("data", {}), dict):
        raise InvalidEventError("An event must be a JSON object, and so must its data.")
    if unknown := event.keys() - _FIELDS:
        raise InvalidEventError(f"Unknown fields {sorted(unknown)}; known are {sorted(_FIELDS)}.")
    for name in ("stream_id", "type", "operation_id"):
        if not isinstance(event.get(name, "" if name == "operation_id" else None), str):
            raise InvalidEventError(f"{name} must be given, as a string.")
    return event
