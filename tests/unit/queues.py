"""Pending streams as tests fill and empty them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from itertools import count
from typing import Any

from worker.hint import Hint
from worker.pending import Pending, Work

FOR_EVER = timedelta(hours=1)

_numbers = count(1)


def queue(*, batch_streams: int = 8, linger: timedelta = timedelta(0), max_hints: int = 1000) -> Pending:
    return Pending(batch_streams=batch_streams, linger=linger, max_hints=max_hints)


def hint(stream_id: str) -> Hint:
    return Hint(0, b"%d-0" % next(_numbers), stream_id, "user_message")


def hints(*stream_ids: str) -> list[Hint]:
    return [hint(stream_id) for stream_id in stream_ids]


async def take(pending: Pending) -> list[Work]:
    """The next batch, which must be there or come soon."""
    async with asyncio.timeout(5):
        return await pending.take()


async def take_streams(pending: Pending) -> list[str]:
    return streams(await take(pending))


def streams(works: Sequence[Work]) -> list[str]:
    return [work.stream_id for work in works]


async def waits(taking: asyncio.Task[Any]) -> bool:
    """Whether a task has nothing to do but wait."""
    for _ in range(5):
        await asyncio.sleep(0)
    return not taking.done()


async def lingers(pending: Pending) -> bool:
    """Whether there is no batch now."""
    taking = asyncio.create_task(pending.take())
    waiting = await waits(taking)
    taking.cancel()
    await asyncio.wait([taking])
    return waiting
