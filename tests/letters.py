"""Dead letters as tests write them, look at them and change them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.rights import ROLE_READER, engine_as
from worker import EventId, Projection
from worker.dead_letters import StoredLetter, find_letters, skip_letter
from worker.letters import Letter, Reason, record_open, record_passed

TRACEBACK = """Traceback (most recent call last):
  File "handlers.py", line 7, in message
ZeroDivisionError: broken"""

_MAKE_DUE = "UPDATE dead_letters SET retry_at = now() WHERE state = 'open'"


async def letters(engine: AsyncEngine) -> list[dict[str, Any]]:
    """All letters, by stream and event."""
    async with engine.connect() as connection:
        found = await connection.execute(text("SELECT * FROM dead_letters ORDER BY stream_id, event_id"))
        return [dict(row) for row in found.mappings()]


async def told(engine: AsyncEngine, *columns: str) -> list[tuple[Any, ...]]:
    """These columns of all letters."""
    return [tuple(letter[column] for column in columns) for letter in await letters(engine)]


async def stopped(engine: AsyncEngine) -> dict[str, str]:
    """What readers are told of blocked streams: before which event each has stopped."""
    async with engine_as(engine, ROLE_READER).connect() as connection:
        found = await connection.execute(text("SELECT stream_id, stopped_before FROM blocked_streams"))
        return {row[0]: row[1] for row in found}


async def make_due(engine: AsyncEngine) -> None:
    """Time passes: every blocked stream is to be tried again."""
    async with engine.begin() as connection:
        await connection.execute(text(_MAKE_DUE))


async def skip(engine: AsyncEngine, projection: Projection, stream_id: str, event_id: str) -> None:
    """An operator skips an event."""
    await skip_letter(engine, projection, stream_id, EventId.parse(event_id), by="me", because="a test")


def _letter(stream_id: str, event_id: str, *, reason: Reason, error: str) -> Letter:
    return Letter(stream_id, EventId.parse(event_id), "user_message", reason, error)


async def stop(
    engine: AsyncEngine,
    stream_id: str,
    event_id: str,
    *,
    projection: str = "strategies",
    version: int = 1,
    error: str = TRACEBACK,
) -> None:
    """Record that a stream is stopped before an event; it would be tried again in a few seconds."""
    letter = _letter(stream_id, event_id, reason=Reason.HANDLER_FAILED, error=error)
    async with engine.begin() as connection:
        await record_open(connection, projection, version, [letter], retried=True)


async def pass_over(
    engine: AsyncEngine, stream_id: str, event_id: str, *, projection: str = "strategies"
) -> None:
    """Record that an event was passed over."""
    letter = _letter(stream_id, event_id, reason=Reason.UNDECODABLE, error="the data are not JSON")
    async with engine.begin() as connection:
        await record_passed(connection, projection, 1, [letter])


async def only_letter(engine: AsyncEngine) -> StoredLetter:
    """The one letter that there is."""
    [found] = await find_letters(engine)
    return found
