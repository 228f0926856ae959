"""Dead letters as workers would have written them, and as tests look at them."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncEngine

from worker import EventId
from worker.dead_letters import StoredLetter, find_letters
from worker.letters import Letter, Reason, record_open, record_passed

TRACEBACK = "Traceback (most recent call last):\n  ...\nZeroDivisionError: broken"


def letter(stream_id: str, event_id: str, *, reason: Reason, error: str) -> Letter:
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
    stopped = letter(stream_id, event_id, reason=Reason.HANDLER_FAILED, error=error)
    async with engine.begin() as connection:
        await record_open(connection, projection, version, stopped, retried=True)


async def pass_over(
    engine: AsyncEngine, stream_id: str, event_id: str, *, projection: str = "strategies"
) -> None:
    """Record that an event was passed over."""
    passed = letter(stream_id, event_id, reason=Reason.UNDECODABLE, error="the data are not JSON")
    async with engine.begin() as connection:
        await record_passed(connection, projection, 1, [passed])


async def only_letter(engine: AsyncEngine) -> StoredLetter:
    """The one letter that there is."""
    [found] = await find_letters(engine)
    return found
