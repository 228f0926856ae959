"""Pending streams: each once, none lost, none in flight twice."""

from __future__ import annotations

import asyncio

from tests.unit.queues import FOR_EVER, hint, hints, lingers, queue, take, take_streams, waits
from worker.pending import Work


async def test_a_stream_stands_in_the_queue_once_with_all_its_hints() -> None:
    pending = queue()
    first, second, third = hint("a"), hint("b"), hint("a")
    pending.add_hints([first, second], flush=False)
    pending.add_swept("a")
    pending.add_hints([third], flush=False)
    assert await take(pending) == [Work("a", [first, third]), Work("b", [second])]
    assert await lingers(pending)


async def test_a_hint_that_is_delivered_again_is_kept_once() -> None:
    pending = queue()
    first = hint("a")
    pending.add_hints([first, first], flush=True)
    [work] = await take(pending)
    pending.add_hints([first], flush=True)
    assert (work.hints, pending.hints_in_hand) == ([first], 1)
    pending.finish(work)
    assert (len(pending), pending.hints_in_hand) == (0, 0)
    pending.add_hints([first], flush=True)
    assert await take(pending) == [Work("a", [first])]


async def test_streams_are_taken_in_the_order_of_their_news() -> None:
    pending = queue(batch_streams=2)
    pending.add_hints(hints("c", "a", "b", "a"), flush=False)
    assert [await take_streams(pending), await take_streams(pending)] == [["c", "a"], ["b"]]


async def test_a_stream_in_flight_is_not_taken_again() -> None:
    pending = queue()
    pending.add_hints(hints("a"), flush=True)
    [work] = await take(pending)
    pending.add_hints(hints("a"), flush=True)
    pending.add_swept("a")
    assert await lingers(pending)
    pending.finish(work)
    assert await take_streams(pending) == ["a"]


async def test_news_that_arrive_in_flight_are_handed_out_by_the_next_pass() -> None:
    pending = queue()
    early, late = hint("a"), hint("a")
    pending.add_hints([early], flush=True)
    [work] = await take(pending)
    pending.add_hints([late], flush=True)
    assert work.hints == [early]
    pending.finish(work)
    assert await take(pending) == [Work("a", [late])]


async def test_a_stream_swept_in_flight_is_queued_again() -> None:
    pending = queue()
    pending.add_hints(hints("a"), flush=True)
    [work] = await take(pending)
    pending.add_swept("a")
    pending.finish(work)
    assert await take(pending) == [Work("a", [])]


async def test_a_finished_stream_is_forgotten() -> None:
    pending = queue()
    pending.add_hints(hints("a", "a"), flush=True)
    [work] = await take(pending)
    assert (len(pending), pending.hints_in_hand) == (1, 2)
    pending.finish(work)
    assert (len(pending), pending.hints_in_hand) == (0, 0)


async def test_a_stream_taken_up_again_keeps_its_hints_and_goes_to_the_end() -> None:
    pending = queue(batch_streams=1)
    early, late, other = hint("a"), hint("a"), hint("b")
    pending.add_hints([early, other], flush=True)
    [work] = await take(pending)
    pending.add_hints([late], flush=True)
    pending.finish(work, again=True)
    assert [await take(pending), await take(pending)] == [[Work("b", [other])], [Work("a", [early, late])]]
    assert pending.hints_in_hand == 3


async def test_a_stream_taken_up_again_without_hints_stays_behind_those_with_hints() -> None:
    pending = queue(batch_streams=1)
    pending.add_swept("a")
    [work] = await take(pending)
    pending.finish(work, again=True)
    pending.add_hints(hints("b"), flush=True)
    assert sorted([*await take_streams(pending), *await take_streams(pending)]) == ["a", "b"]


# Closing.


async def test_once_closed_nothing_lingers() -> None:
    pending = queue(linger=FOR_EVER)
    pending.add_hints(hints("a"), flush=False)
    pending.close()
    [work] = await take(pending)
    pending.finish(work)
    assert await take(pending) == []


async def test_closing_wakes_who_waits() -> None:
    pending = queue(linger=FOR_EVER)
    taking = asyncio.create_task(pending.take())
    assert await waits(taking)
    pending.close()
    assert await taking == []


async def test_closing_drops_what_was_swept_but_no_hint() -> None:
    pending = queue()
    pending.add_swept("a")
    pending.add_swept("b")
    pending.add_hints(hints("b", "c"), flush=False)
    pending.close()
    assert sorted(await take_streams(pending)) == ["b", "c"]


async def test_once_closed_nothing_is_taken_up_again() -> None:
    pending = queue()
    pending.add_hints(hints("a"), flush=True)
    [work] = await take(pending)
    pending.close()
    pending.finish(work, again=True)
    assert await take(pending) == []
    assert (len(pending), pending.hints_in_hand) == (0, 0)


async def test_news_that_came_in_flight_are_taken_up_after_closing_too() -> None:
    pending = queue()
    pending.add_hints(hints("a"), flush=True)
    [work] = await take(pending)
    pending.add_hints(hints("a"), flush=True)
    pending.close()
    pending.finish(work)
    assert await take_streams(pending) == ["a"]


async def test_once_closed_the_sweep_neither_adds_nor_waits() -> None:
    pending = queue(batch_streams=1)
    pending.close()
    for number in range(100):
        async with asyncio.timeout(1):
            await pending.swept_room()
        pending.add_swept(str(number))
    assert await take(pending) == []


async def test_a_reader_that_waits_for_room_is_let_go_at_a_stop() -> None:
    pending = queue(max_hints=1)
    pending.add_hints(hints("a"), flush=False)
    waiting = asyncio.create_task(pending.room())
    assert await waits(waiting)
    pending.hurry()
    await waiting
    pending.add_hints(hints("b"), flush=False)
    await pending.room()
    assert await take_streams(pending) == ["a", "b"]
