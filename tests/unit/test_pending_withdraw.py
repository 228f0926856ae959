"""Streams that are taken out of the queue, so that another replica may project them."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from tests.unit.queues import FOR_EVER, hint, hints, queue, take, take_streams, waits
from worker.pending import Withdrawn

AT_ONCE = timedelta(0)


def leaves(stream_id: str) -> bool:
    return stream_id.startswith("x")


async def test_streams_that_go_are_taken_out_and_the_others_stay() -> None:
    pending = queue()
    going = hints("x1", "x2", "x1")
    pending.add_hints([*going, *hints("a")], flush=True)
    for stream_id in ("b", "x3"):
        pending.add_swept(stream_id)
    withdrawn = await pending.withdraw(leaves, FOR_EVER)
    assert set(withdrawn.hints) == set(going)
    assert withdrawn.swept == ["x3"]
    assert (len(pending), pending.hints_in_hand) == (2, 1)
    assert await take_streams(pending) == ["a", "b"]


async def test_hints_that_were_taken_out_may_come_back() -> None:
    pending = queue()
    pending.add_hints(hints("x"), flush=True)
    withdrawn = await pending.withdraw(leaves, AT_ONCE)
    pending.add_hints(withdrawn.hints, flush=True)
    [work] = await take(pending)
    assert work.hints == withdrawn.hints


async def test_streams_in_flight_are_waited_for() -> None:
    pending = queue()
    pending.add_hints(hints("x", "a"), flush=True)
    works = {work.stream_id: work for work in await take(pending)}
    late = hint("x")
    pending.add_hints([late], flush=True)
    withdrawing = asyncio.create_task(pending.withdraw(leaves, FOR_EVER))
    assert await waits(withdrawing)
    pending.finish(works["a"])
    assert await waits(withdrawing)
    pending.finish(works["x"])
    assert await withdrawing == Withdrawn([late])
    assert len(pending) == 0


async def test_a_stream_that_has_more_to_read_goes_when_its_page_is_done() -> None:
    pending = queue()
    going = hints("x")
    pending.add_hints(going, flush=True)
    [work] = await take(pending)
    withdrawing = asyncio.create_task(pending.withdraw(leaves, FOR_EVER))
    assert await waits(withdrawing)
    pending.finish(work, again=True)
    assert await withdrawing == Withdrawn(going)


async def test_streams_that_stay_in_flight_for_too_long_stay_in_hand() -> None:
    pending = queue()
    pending.add_hints(hints("x"), flush=True)
    [work] = await take(pending)
    assert await pending.withdraw(leaves, AT_ONCE) == Withdrawn()
    assert await pending.withdraw(leaves, timedelta(milliseconds=5)) == Withdrawn()
    assert pending.hints_in_hand == 1
    pending.finish(work)
    assert len(pending) == 0


async def test_a_stream_that_rests_is_waited_for_no_longer_and_stays_in_hand() -> None:
    pending = queue()
    pending.add_hints(hints("x"), flush=True)
    [work] = await take(pending)
    withdrawing = asyncio.create_task(pending.withdraw(leaves, FOR_EVER))
    assert await waits(withdrawing)
    pending.finish(work, again=True, rest_seconds=3600)
    async with asyncio.timeout(5):
        assert await withdrawing == Withdrawn()
    assert pending.hints_in_hand == 1


async def test_what_is_taken_out_makes_room() -> None:
    pending = queue(max_hints=2)
    pending.add_hints(hints("x1", "x2"), flush=True)
    waiting = asyncio.create_task(pending.room())
    assert await waits(waiting)
    await pending.withdraw(leaves, AT_ONCE)
    async with asyncio.timeout(5):
        await waiting
