"""Waits that end when they should."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


def heed_cancellation() -> None:
    """Raise CancelledError if this task was cancelled, even if somebody has swallowed that.

    redis-py sends with `asyncio.wait_for`, which before Python 3.12 may return a result in place of passing a
    cancellation on. A task that then waits for something else would wait for ever.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def wait_for(event: asyncio.Event, seconds: float | None = None) -> bool:
    """Wait until an event is set, no longer than ``seconds``; whether it is."""
    heed_cancellation()
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
    return event.is_set()


async def unless(event: asyncio.Event, action: Coroutine[Any, Any, T]) -> T | None:
    """The result of ``action``; None if the event is set before it is there: the action is cancelled then."""
    acting, waiting = asyncio.create_task(action), asyncio.create_task(event.wait())
    try:
        await asyncio.wait({acting, waiting}, return_when=asyncio.FIRST_COMPLETED)
        return acting.result() if acting.done() else None
    finally:
        acting.cancel()
        waiting.cancel()
        await asyncio.wait({acting, waiting})


async def wait_for_any(events: Sequence[asyncio.Event], seconds: float) -> None:
    """Wait until one of the events is set, no longer than ``seconds``."""
    heed_cancellation()
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
