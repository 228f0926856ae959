"""Keeping the feed in order: hints of dead consumers, hints that say nothing, hints that nobody needs."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from redis.asyncio import Redis

from tests.feeds import add_hints, feed_of, pending_of, read_all, stream_ids, upkeep_of
from worker import Keys
from worker.feed import Feed

AT_ONCE = timedelta(0)
MALFORMED: list[dict[Any, Any]] = [
    {"x": "y"},
    {"type": "user_message"},
    {"stream": b"\xff", "type": "user_message"},
    {"stream": "a\0b", "type": "user_message"},
    {"stream": "x" * 513, "type": "user_message"},
    {b"\xff": b"\xff"},
]


@pytest.fixture
def client(either_client: Redis) -> Redis:
    return either_client


@pytest.fixture
def one(keys_prefix: str) -> Keys:
    """A feed of one partition, so that hints come in order."""
    return Keys(keys_prefix, partitions=1)


async def dead(client: Redis, keys: Keys, *streams: str) -> Feed:
    """A consumer that has read these hints and will never acknowledge them."""
    feed = feed_of(client, keys, consumer="dead")
    await feed.join()
    await add_hints(client, keys, *streams)
    await read_all(client, keys, feed)
    return feed


async def heir(client: Redis, keys: Keys) -> Feed:
    """A consumer that has joined after the other died."""
    feed = feed_of(client, keys, consumer="heir")
    await feed.join()
    assert await read_all(client, keys, feed) == []
    return feed


# Hints of the dead.


async def test_hints_that_a_dead_consumer_has_read_are_taken_over(client: Redis, keys: Keys) -> None:
    await dead(client, keys, "a", "b", "c")
    feed = await heir(client, keys)
    hints = await upkeep_of(client, keys, feed).claim_abandoned(AT_ONCE)
    assert sorted(stream_ids(hints)) == ["a", "b", "c"]
    await feed.acknowledge(hints)
    assert await pending_of(client, keys) == 0


async def test_hints_that_were_read_a_moment_ago_are_left_to_who_read_them(client: Redis, keys: Keys) -> None:
    await dead(client, keys, "a")
    upkeep = upkeep_of(client, keys, await heir(client, keys))
    assert await upkeep.claim_abandoned(timedelta(minutes=1)) == []


async def test_however_many_hints_are_abandoned_all_are_found(client: Redis, one: Keys) -> None:
    await dead(client, one, *(f"s{number}" for number in range(1_200)))
    upkeep = upkeep_of(client, one, await heir(client, one))
    found: list[str] = []
    for _ in range(3):
        found += stream_ids(await upkeep.claim_abandoned(AT_ONCE))
    assert found == [f"s{number}" for number in range(1_200)]
    assert stream_ids(await upkeep.claim_abandoned(AT_ONCE))[0] == "s0"


# Hints that say nothing.


async def test_malformed_hints_are_acknowledged_and_counted(client: Redis, redis: Redis, one: Keys) -> None:
    feed = await heir(client, one)
    for fields in MALFORMED:
        await redis.xadd(one.feed(0), fields)
    await add_hints(client, one, "good")
    assert stream_ids(await read_all(client, one, feed)) == ["good"]
    assert feed.malformed == len(MALFORMED)
    assert await pending_of(client, one) == 1


async def test_malformed_hints_of_the_dead_are_acknowledged_too(
    client: Redis, redis: Redis, one: Keys
) -> None:
    feed = await dead(client, one, "good")
    pipeline = redis.pipeline()
    for fields in MALFORMED:
        pipeline.xadd(one.feed(0), fields)
    await pipeline.execute()
    await redis.xreadgroup("group", "dead", {one.feed(0): ">"})
    assert await pending_of(client, one) == 1 + len(MALFORMED)
    feed = await heir(client, one)
    assert stream_ids(await upkeep_of(client, one, feed).claim_abandoned(AT_ONCE)) == ["good"]
    assert await pending_of(client, one) == 1


async def test_own_pending_hints_that_were_trimmed_are_acknowledged(
    client: Redis, redis: Redis, one: Keys
) -> None:
    feed = await dead(client, one, "a", "b", "c")
    await redis.xtrim(one.feed(0), maxlen=1, approximate=False)
    await feed.join()
    assert stream_ids(await read_all(client, one, feed)) == ["c"]
    assert feed.malformed == 2
    assert await pending_of(client, one) == 1


async def test_hints_of_the_dead_that_were_trimmed_are_acknowledged(
    client: Redis, redis: Redis, one: Keys
) -> None:
    await dead(client, one, "a", "b", "c")
    await redis.xtrim(one.feed(0), maxlen=1, approximate=False)
    feed = await heir(client, one)
    assert stream_ids(await upkeep_of(client, one, feed).claim_abandoned(AT_ONCE)) == ["c"]
    await read_all(client, one, feed)
    assert await pending_of(client, one) == 1


# Trimming.


async def test_hints_that_every_group_has_done_with_are_dropped(client: Redis, one: Keys) -> None:
    feed = await heir(client, one)
    await add_hints(client, one, *(f"s{number}" for number in range(500)))
    await feed.acknowledge(await read_all(client, one, feed))
    assert await upkeep_of(client, one, feed).trim() >= 400
    await add_hints(client, one, "later")
    assert stream_ids(await read_all(client, one, feed)) == ["later"]


async def test_hints_that_a_group_has_not_read_are_kept(client: Redis, one: Keys) -> None:
    feed, slow = await heir(client, one), feed_of(client, one, group="slow")
    await slow.join()
    await add_hints(client, one, *(f"s{number}" for number in range(500)))
    await feed.acknowledge(await read_all(client, one, feed))
    assert await upkeep_of(client, one, feed).trim() == 0
    assert len(await slow.read(300)) == 0  # Own pending ones.
    await slow.acknowledge(await slow.read(300))
    assert 200 <= await upkeep_of(client, one, feed).trim() <= 300
    assert stream_ids(await read_all(client, one, slow)) == [f"s{number}" for number in range(300, 500)]


async def test_hints_that_are_not_acknowledged_are_kept(client: Redis, one: Keys) -> None:
    feed = await heir(client, one)
    await add_hints(client, one, *(f"s{number}" for number in range(500)))
    hints = await read_all(client, one, feed)
    await feed.acknowledge([hint for hint in hints if hint.stream_id != "s250"])
    assert 100 <= await upkeep_of(client, one, feed).trim() <= 250
    await feed.join()
    assert stream_ids(await read_all(client, one, feed)) == ["s250"]


async def test_hints_that_nobody_has_read_yet_are_kept(client: Redis, one: Keys) -> None:
    await add_hints(client, one, *(f"s{number}" for number in range(500)))
    feed = feed_of(client, one)
    await feed.join()
    assert await upkeep_of(client, one, feed).trim() == 0


async def test_a_feed_without_groups_is_left_alone(client: Redis, one: Keys) -> None:
    await add_hints(client, one, *(f"s{number}" for number in range(500)))
    assert await upkeep_of(client, one, feed_of(client, one)).trim() == 0
