"""Reading, folding and writing at the same time: the servers work while this process does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic
from typing import TypeVar

_LONGEST_WITHOUT_TURN_SECONDS = 0.002

Part = TypeVar("Part")
Batch = TypeVar("Batch")


class Turns:
    """Lets the loop turn now and then while there is much to compute: no reply is heeded without that."""

    def __init__(self) -> None:
        self._turned_at = monotonic()

    async def take(self) -> None:
        """To be awaited after every bit of work; mostly returns at once."""
        if monotonic() - self._turned_at > _LONGEST_WITHOUT_TURN_SECONDS:
            await asyncio.sleep(0)
            self._turned_at = monotonic()


async def overlap(
    parts: Sequence[Part],
    read: Callable[[Part], Awaitable[Batch]],
    fold: Callable[[Batch], Awaitable[None]],
    write: Callable[[Batch], Awaitable[None]],
) -> None:
    """Read, fold and write each part; while one is folded the next is read and the one before written.

    Each of the three has one part at a time, in order, and is done with it before it gets the next. ``fold``
    must let the loop turn now and then. When one raises, nothing further is begun, what is under way is
    cancelled, and the error is raised: of what comes before, parts may have been written.
    """
    if not parts:
        return
    reading: asyncio.Future[Batch] | None = None
    writing: asyncio.Future[None] | None = None
    try:
        batch = await read(parts[0])
        for following in parts[1:]:
            reading = asyncio.ensure_future(read(following))
            await fold(batch)
            if writing:
                await writing
            writing = asyncio.ensure_future(write(batch))
            batch = await reading
        await fold(batch)
        if writing:
            await writing
        await write(batch)
    finally:
        under_way = [task for task in (reading, writing) if task]
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
