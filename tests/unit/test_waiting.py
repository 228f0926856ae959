"""Waits that end when they should."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from worker.waiting import heed_cancellation, unless, wait_for, wait_for_any


async def test_a_wait_says_whether_the_event_was_set() -> None:
    event = asyncio.Event()
    assert await wait_for(event, 0.001) is False
    event.set()
    assert await wait_for(event, 1_000) is True
    assert await wait_for(event) is True


async def test_a_wait_ends_as_soon_as_the_event_is_set() -> None:
    event = asyncio.Event()
    asyncio.get_running_loop().call_soon(event.set)
    async with asyncio.timeout(5):
        assert await wait_for(event) is True


async def test_a_wait_for_several_events_ends_with_the_first_of_them() -> None:
    events = asyncio.Event(), asyncio.Event()
    await wait_for_any(events, 0.001)
    asyncio.get_running_loop().call_soon(events[1].set)
    async with asyncio.timeout(5):
        await wait_for_any(events, 1_000)
        await wait_for_any(events, 1_000)
    assert [event.is_set() for event in events] == [False, True]


async def test_a_cancellation_that_somebody_swallowed_is_heeded_at_the_next_wait() -> None:
    async def swallow() -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await wait_for(asyncio.Event())

    task = asyncio.create_task(swallow())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_who_was_not_cancelled_goes_on() -> None:
    heed_cancellation()


async def test_what_is_done_before_the_event_is_set_gives_its_result() -> None:
    async def act() -> str:
        await asyncio.sleep(0)
        return "done"

    assert await unless(asyncio.Event(), act()) == "done"


async def test_what_is_not_done_when_the_event_is_set_is_cancelled() -> None:
    event, cancelled = asyncio.Event(), list[str]()

    async def act() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append("yes")
            raise
        return "done"

    asyncio.get_running_loop().call_later(0.001, event.set)
    async with asyncio.timeout(5):
        assert await unless(event, act()) is None
    assert cancelled == ["yes"]


async def test_an_error_of_what_is_done_is_raised() -> None:
    async def act() -> str:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        await unless(asyncio.Event(), act())
