"""Pending streams: when a batch is due, who comes first in it, and how much may wait."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from tests.unit.queues import FOR_EVER, hint, hints, lingers, queue, streams, take, take_streams, waits
from worker.pending import Pending, Work

# Lingering.


async def test_a_stream_lingers_for_others() -> None:
    pending = queue(linger=FOR_EVER)
    pending.add_hints(hints("a"), flush=False)
    assert await lingers(pending)


async def test_lingering_comes_to_an_end() -> None:
    pending = queue(linger=timedelta(milliseconds=20))
    started = asyncio.get_running_loop().time()
    pending.add_hints(hints("a"), flush=False)
    taking = asyncio.create_task(take_streams(pending))
    assert await waits(taking)
    pending.add_hints(hints("b"), flush=False)
    assert await taking == ["a", "b"]
    assert asyncio.get_running_loop().time() - started >= 0.02


async def test_a_full_batch_lingers_no_more() -> None:
    pending = queue(batch_streams=2, linger=FOR_EVER)
    pending.add_hints(hints("a", "a", "a"), flush=False)
    assert await lingers(pending)
    pending.add_hints(hints("b", "c"), flush=False)
    assert await take_streams(pending) == ["a", "b"]


async def test_a_flush_takes_all_that_is_in_hand_at_once() -> None:
    pending = queue(linger=FOR_EVER)
    pending.add_hints(hints("a"), flush=False)
    taking = asyncio.create_task(take_streams(pending))
    assert await waits(taking)
    pending.add_hints(hints("b"), flush=True)
    assert await taking == ["a", "b"]


async def test_a_flush_of_more_than_a_batch_flushes_the_rest_too() -> None:
    pending = queue(batch_streams=2, linger=FOR_EVER)
    pending.add_hints(hints("a", "b", "c", "d", "e"), flush=True)
    assert [await take_streams(pending) for _ in range(3)] == [["a", "b"], ["c", "d"], ["e"]]


async def test_after_a_flush_streams_linger_again() -> None:
    pending = queue(linger=FOR_EVER)
    pending.add_hints(hints("a"), flush=True)
    assert await take_streams(pending) == ["a"]
    pending.add_hints(hints("b"), flush=False)
    assert await lingers(pending)


async def test_a_flush_reaches_a_stream_in_flight_once_it_is_done() -> None:
    pending = queue(linger=FOR_EVER)
    pending.add_hints(hints("a"), flush=True)
    [work] = await take(pending)
    pending.add_hints(hints("a"), flush=True)
    pending.finish(work)
    assert await take_streams(pending) == ["a"]


async def test_a_stream_that_is_taken_up_again_does_not_linger() -> None:
    pending = queue(linger=FOR_EVER)
    pending.add_hints(hints("a"), flush=True)
    [work] = await take(pending)
    pending.finish(work, again=True)
    assert await take_streams(pending) == ["a"]


async def test_a_swept_stream_does_not_linger() -> None:
    pending = queue(linger=FOR_EVER)
    pending.add_swept("a")
    assert await take_streams(pending) == ["a"]


# Hinted streams and swept ones.


async def test_swept_streams_come_after_those_with_hints() -> None:
    pending = queue()
    pending.add_swept("swept")
    pending.add_hints(hints("a", "b"), flush=True)
    assert await take_streams(pending) == ["a", "b", "swept"]


async def test_a_share_of_every_batch_is_for_swept_streams() -> None:
    pending = queue(batch_streams=8)
    for number in range(3):
        pending.add_swept(f"swept-{number}")
    pending.add_hints(hints(*map(str, range(20))), flush=True)
    batches = [await take_streams(pending) for _ in range(3)]
    assert [[stream for stream in batch if stream.startswith("swept")] for batch in batches] == [
        ["swept-0"],
        ["swept-1"],
        ["swept-2"],
    ]
    assert [len(batch) for batch in batches] == [8, 8, 7]


async def test_swept_streams_fill_what_hints_leave_of_a_batch() -> None:
    pending = queue(batch_streams=8)
    for number in range(10):
        pending.add_swept(f"swept-{number}")
    pending.add_hints(hints("a"), flush=True)
    assert await take_streams(pending) == ["a", *(f"swept-{number}" for number in range(7))]


async def test_a_hint_brings_a_swept_stream_forward() -> None:
    pending = queue(batch_streams=8)
    for number in range(30):
        pending.add_swept(f"swept-{number}")
    news = hint("swept-29")
    pending.add_hints([news], flush=True)
    [first, *_] = await take(pending)
    assert (first.stream_id, first.hints) == ("swept-29", [news])
    for _ in range(3):
        assert "swept-29" not in await take_streams(pending)
    assert await lingers(pending)


async def test_a_swept_stream_that_has_hints_already_is_not_queued_twice() -> None:
    pending = queue(batch_streams=1)
    pending.add_hints(hints("a"), flush=True)
    pending.add_swept("a")
    assert await take_streams(pending) == ["a"]
    assert await lingers(pending)


# Room.


async def waits_for_room(pending: Pending) -> bool:
    return await _waits(pending.room())


async def waits_for_swept_room(pending: Pending) -> bool:
    return await _waits(pending.swept_room())


async def _waits(coroutine: object) -> bool:
    assert asyncio.iscoroutine(coroutine)
    waiting = asyncio.create_task(coroutine)
    await asyncio.wait([waiting], timeout=0.01)
    done = waiting.done()
    waiting.cancel()
    await asyncio.wait([waiting])
    return not done


async def test_the_reader_waits_while_too_many_hints_are_in_hand() -> None:
    pending = queue(max_hints=3)
    pending.add_hints(hints("a", "a"), flush=True)
    assert not await waits_for_room(pending)
    pending.add_hints(hints("b"), flush=True)
    assert await waits_for_room(pending)
    a, b = await take(pending)
    assert await waits_for_room(pending)
    pending.finish(a, again=True)
    assert await waits_for_room(pending)
    pending.finish(b)
    assert not await waits_for_room(pending)


async def test_the_sweep_waits_while_too_many_streams_are_queued() -> None:
    pending = queue(batch_streams=2)
    for number in range(8):
        assert not await waits_for_swept_room(pending)
        pending.add_swept(str(number))
    assert await waits_for_swept_room(pending)
    assert not await waits_for_room(pending)
    assert await take_streams(pending) == ["0", "1"]
    assert not await waits_for_swept_room(pending)


async def test_hints_of_swept_streams_make_room_for_the_sweep() -> None:
    pending = queue(batch_streams=2)
    for number in range(8):
        pending.add_swept(str(number))
    pending.add_hints(hints("3"), flush=True)
    assert not await waits_for_swept_room(pending)


async def test_closing_lets_everybody_go_on() -> None:
    pending = queue(batch_streams=1, max_hints=1)
    pending.add_hints(hints("a"), flush=True)
    for number in range(8):
        pending.add_swept(str(number))
    pending.close()
    assert not await waits_for_room(pending)
    assert not await waits_for_swept_room(pending)


@pytest.mark.parametrize("batch_streams", [2, 3, 7])
async def test_a_batch_is_never_larger_than_it_may_be(batch_streams: int) -> None:
    pending = queue(batch_streams=batch_streams)
    pending.add_hints(hints(*"abcdefg"), flush=True)
    for number in range(7):
        pending.add_swept(str(number))
    taken: list[str] = []
    while len(pending) > len(taken):
        batch = await take(pending)
        assert len(batch) <= batch_streams
        taken += streams(batch)
    assert sorted(taken) == sorted("0123456abcdefg")


# Rest.


async def test_a_stream_that_rests_is_not_taken_whatever_hints_come() -> None:
    pending = queue()
    pending.add_hints(hints("a"), flush=True)
    [work] = await take(pending)
    pending.finish(work, again=True, rest_seconds=3600)
    later = hint("a")
    pending.add_hints([later, hint("b")], flush=True)
    pending.add_swept("a")
    assert await take_streams(pending) == ["b"]
    assert await lingers(pending)
    assert len(pending) == 2, "a rests, b is in flight"


async def test_a_stream_is_taken_after_its_rest_with_all_its_hints() -> None:
    pending = queue(linger=FOR_EVER)
    first, second = hint("a"), hint("a")
    pending.add_hints([first], flush=True)
    [work] = await take(pending)
    pending.finish(work, again=True, rest_seconds=0.01)
    pending.add_hints([second], flush=False)
    assert await take(pending) == [Work("a", [first, second])]


async def test_streams_that_rest_at_a_stop_are_left_to_others() -> None:
    pending = queue()
    pending.add_hints(hints("a"), flush=True)
    [work] = await take(pending)
    pending.finish(work, again=True, rest_seconds=3600)
    pending.close()
    assert await take(pending) == []
