"""Reading, folding and writing at the same time: the servers work while this process does."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from time import monotonic
from typing import Any, TypeVar

_LONGEST_WITHOUT_TURN_SECONDS = 0.002
_READ_AT_A_TIME = 2

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
    """Read, fold and write each part; while one is folded the next are read and the one before is written.

    Two parts are read at a time, so that the server makes one reply while the other is looked at; they are
    folded and written one at a time, in order. ``fold`` must let the loop turn now and then. When one of them
    raises, nothing further is begun, what is under way is cancelled, and the error is raised: parts that come
    before may have been written.
    """
    if len(parts) == 1:
        [part] = parts
        batch = await read(part)
        await fold(batch)
        await write(batch)
        return
    waiting = iter(parts)
    reading = deque(asyncio.ensure_future(read(part)) for part in islice(waiting, _READ_AT_A_TIME))
    writing: asyncio.Future[None] | None = None
    try:
        while reading:
            batch = await reading[0]
            reading.popleft()
            reading.extend(asyncio.ensure_future(read(part)) for part in islice(waiting, 1))
            await fold(batch)
            if writing:
                await writing
            writing = asyncio.ensure_future(write(batch))
        if writing:
            await writing
    finally:
        under_way: list[asyncio.Future[Any]] = [*reading, *([writing] if writing else [])]
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
