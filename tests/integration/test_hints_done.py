"""Whether all hints are done, as tests ask it at their end."""

from __future__ import annotations

from redis.asyncio import Redis

from tests.feeds import GROUP, add_hints, feed_of, read_all
from worker import Keys
from worker.testing.hints import undone

STREAMS = [f"s{number}" for number in range(40)]


async def test_hints_that_nobody_has_read_or_acknowledged_are_not_done(client: Redis, keys: Keys) -> None:
    feed = feed_of(client, keys)
    await feed.join()
    assert await undone(client, keys, GROUP) == []
    await add_hints(client, keys, *STREAMS)
    left = await undone(client, keys, GROUP)
    assert len(left) == keys.partitions
    assert all("unread" in what for what in left)
    hints = await read_all(client, keys, feed)
    await feed.acknowledge(hints[1:])
    [what] = await undone(client, keys, GROUP)
    assert f"feed {hints[0].partition}: pending" in what
    await feed.acknowledge(hints[:1])
    assert await undone(client, keys, GROUP) == []


async def test_hints_are_not_done_where_the_group_or_the_feed_is_missing(
    client: Redis, redis: Redis, keys: Keys
) -> None:
    assert len(await undone(client, keys, GROUP)) == keys.partitions
    await feed_of(client, keys).join()
    await redis.xgroup_destroy(keys.feed(3), GROUP)
    [what] = await undone(client, keys, GROUP)
    assert "feed 3: has no group" in what
    await redis.delete(keys.feed(3))
    [what] = await undone(client, keys, GROUP)
    assert "feed 3: is missing" in what


async def test_a_group_made_anew_has_done_all_where_nothing_is_left_to_read(
    client: Redis, redis: Redis, keys: Keys
) -> None:
    feed = feed_of(client, keys)
    await feed.join()
    await add_hints(client, keys, *STREAMS)
    await feed.acknowledge(await read_all(client, keys, feed))
    for name in feed.names:
        await redis.xtrim(name, maxlen=0, approximate=False)
        await redis.xgroup_destroy(name, GROUP)
    await feed.join()
    assert await undone(client, keys, GROUP) == []
