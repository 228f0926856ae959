"""What operators do with dead letters: what they see, what is tried again, which hints tell the workers."""

from __future__ import annotations

from datetime import timedelta

import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from projections import strategies
from tests.feeds import feed_of, read_all
from tests.letters import TRACEBACK, only_letter, pass_over, stop
from tests.logs import append, hints_of, logs_of
from tests.projecting import run
from worker import EventId, Keys
from worker.dead_letters import (
    LetterCounts,
    count_letters,
    find_letters,
    retry_letters,
    skip_letter,
)
from worker.hinting import hint_streams
from worker.inspection import inspect_letter
from worker.letters import Reason, State, resolve
from worker.store import Store

# What there is.


async def test_a_letter_tells_what_was_recorded(engine: AsyncEngine) -> None:
    await stop(engine, "chat", "5-0", version=3)
    found = await only_letter(engine)
    assert (found.projection, found.stream_id, found.event_id) == ("strategies", "chat", EventId(5, 0))
    assert (found.event_type, found.version, found.state) == ("user_message", 3, State.OPEN)
    assert (found.reason, found.error, found.attempts) == (Reason.HANDLER_FAILED, TRACEBACK, 1)
    assert found.first_at == found.last_at
    assert found.retry_at is not None
    assert found.retry_at > found.last_at
    assert (found.settled_at, found.skipped_by, found.skipped_because) == (None, None, None)


async def test_letters_come_in_the_order_in_which_they_were_written(engine: AsyncEngine) -> None:
    for stream_id in ("c", "a", "b"):
        await stop(engine, stream_id, "1-0")
    assert [found.stream_id for found in await find_letters(engine)] == ["c", "a", "b"]
    assert [found.stream_id for found in await find_letters(engine, limit=2)] == ["c", "a"]


async def test_letters_of_one_moment_come_in_the_order_of_their_events(engine: AsyncEngine) -> None:
    for event_id in ("10-0", "9-10", "9-9"):
        await pass_over(engine, "chat", event_id)
    await run(engine, "UPDATE dead_letters SET first_at = now()")
    found = [str(letter.event_id) for letter in await find_letters(engine)]
    assert found == ["9-9", "9-10", "10-0"]


async def test_letters_are_found_by_what_is_asked(engine: AsyncEngine) -> None:
    await stop(engine, "a", "1-0")
    await stop(engine, "a", "1-0", projection="others")
    await stop(engine, "b", "1-0")
    await pass_over(engine, "a", "2-0")
    assert len(await find_letters(engine)) == 4
    assert len(await find_letters(engine, projection="others")) == 1
    assert len(await find_letters(engine, stream_ids=["a", "c"])) == 3
    assert await find_letters(engine, stream_ids=[]) == []
    assert len(await find_letters(engine, states=[State.OPEN])) == 3
    assert len(await find_letters(engine, event_id=EventId(2, 0))) == 1
    asked = await find_letters(engine, projection="strategies", stream_ids=["a"], states=[State.OPEN])
    assert [(letter.stream_id, letter.projection) for letter in asked] == [("a", "strategies")]


async def test_letters_are_counted_for_the_running_version(engine: AsyncEngine) -> None:
    assert await count_letters(engine, strategies) == LetterCounts(0, None, 0, 0)
    await stop(engine, "a", "1-0")
    await stop(engine, "b", "1-0")
    await stop(engine, "c", "1-0", version=strategies.version + 1)
    await stop(engine, "d", "1-0", projection="others")
    await stop(engine, "e", "1-0")
    await skip_letter(engine, strategies, "e", EventId(1, 0), by="me", because="test")
    for event_id in ("1-0", "2-0", "3-0"):
        await pass_over(engine, "f", event_id)
    counts = await count_letters(engine, strategies)
    assert (counts.blocked, counts.passed, counts.skipped) == (2, 3, 1)
    first = (await find_letters(engine, stream_ids=["a"]))[0].first_at
    assert counts.blocked_since == pytest.approx(first.timestamp(), abs=0.001)


# Trying again.


async def test_letters_are_due_at_once_when_somebody_asks(engine: AsyncEngine) -> None:
    await stop(engine, "chat", "1-0")
    await run(engine, "UPDATE dead_letters SET retry_at = now() + interval '1 hour'")
    later = await only_letter(engine)
    assert await retry_letters(engine, [later]) == [later]
    due = await only_letter(engine)
    assert due.retry_at is not None
    assert later.retry_at is not None
    assert later.retry_at - due.retry_at > timedelta(minutes=59)
    assert (due.attempts, due.state) == (later.attempts, State.OPEN)


async def test_letters_without_a_time_are_due_when_somebody_asks(engine: AsyncEngine) -> None:
    await stop(engine, "chat", "1-0")
    await run(engine, "UPDATE dead_letters SET retry_at = NULL")
    assert len(await retry_letters(engine, [await only_letter(engine)])) == 1
    assert (await only_letter(engine)).retry_at is not None


async def test_only_letters_that_are_still_open_are_tried_again(engine: AsyncEngine) -> None:
    await stop(engine, "resolved", "1-0")
    await stop(engine, "open", "1-0")
    await pass_over(engine, "passed", "1-0")
    letters = await find_letters(engine)
    async with engine.begin() as connection:
        await resolve(connection, "strategies", 1, {"resolved": "1-0"})
    assert [letter.stream_id for letter in await retry_letters(engine, letters)] == ["open"]
    after = {letter.stream_id: letter.retry_at for letter in await find_letters(engine)}
    assert after["resolved"] is None
    assert after["passed"] is None


# Hints.


async def test_each_stream_is_hinted_at_once(redis: Redis, keys: Keys) -> None:
    await hint_streams(redis, keys, ["a", "b", "a"])
    assert await hints_of(redis, keys, "a") == [{b"stream": b"a"}]
    assert await hints_of(redis, keys, "b") == [{b"stream": b"b"}]


async def test_workers_read_such_hints(client: Redis, keys: Keys) -> None:
    feed = feed_of(client, keys)
    await feed.join()
    await hint_streams(client, keys, ["größe \n"])
    [hint] = await read_all(client, keys, feed)
    assert (hint.stream_id, hint.type) == ("größe \n", "")


async def test_hints_keep_the_feed_capped(redis: Redis, keys: Keys) -> None:
    capped = Keys(keys.prefix, 1, 1_000)
    streams = [str(number) for number in range(3_000)]
    await hint_streams(redis, capped, streams)
    hints = await hints_of(redis, capped, "any")
    assert 1_000 <= len(hints) < 1_500
    assert hints[-1] == {b"stream": b"2999"}


async def test_hints_work_with_any_client(any_client: Redis, redis: Redis, keys: Keys) -> None:
    await hint_streams(any_client, keys, ["a"])
    assert await redis.xlen(keys.feed(keys.partition("a"))) == 1


# A letter and what is around it.


async def test_what_waits_behind_an_event_is_counted(engine: AsyncEngine, client: Redis, keys: Keys) -> None:
    await append(client, keys, "chat", "user_message", "user_message", "delta", "user_message", "delta")
    await stop(engine, "chat", "1-0")
    found = await inspect_letter(await only_letter(engine), Store(engine, strategies), logs_of(client, keys))
    assert found.blocks
    assert (found.position, found.waiting, found.counted) == (None, 2, True)
    assert found.entry == [b"op", b"", b"type", b"user_message", b"data", b"{}"]


async def test_counting_what_waits_ends_somewhere(engine: AsyncEngine, client: Redis, keys: Keys) -> None:
    await append(client, keys, "chat", *["user_message"] * 6_000)
    await stop(engine, "chat", "1-0")
    found = await inspect_letter(await only_letter(engine), Store(engine, strategies), logs_of(client, keys))
    assert not found.counted
    assert found.waiting is not None
    assert 1_000 <= found.waiting < 5_999


@pytest.mark.parametrize(("position", "blocks"), [("9-0", True), ("10-0", False), ("11-0", False)])
async def test_a_letter_at_or_before_the_position_blocks_nothing(
    engine: AsyncEngine, client: Redis, keys: Keys, position: str, blocks: bool
) -> None:
    await stop(engine, "chat", "10-0")
    await run(
        engine, f"INSERT INTO stream_projections (stream_id, last_event_id) VALUES ('chat', '{position}')"
    )
    found = await inspect_letter(await only_letter(engine), Store(engine, strategies), logs_of(client, keys))
    assert (found.position, found.blocks) == (EventId.parse(position), blocks)
    assert found.waiting == (0 if blocks else None)
    assert found.entry is None


async def test_a_key_that_is_no_stream_has_no_entry(
    engine: AsyncEngine, client: Redis, redis: Redis, keys: Keys
) -> None:
    await redis.set(keys.log("chat"), "text")
    await stop(engine, "chat", "1-0")
    found = await inspect_letter(await only_letter(engine), Store(engine, strategies), logs_of(client, keys))
    assert (found.entry, found.waiting) == (None, 0)
