"""Whether all hints are done, as tests ask it at their end."""

from __future__ import annotations

from redis.asyncio import Redis

from tests.feeds import GROUP, add_hints, all_are_done, feed_of, read_all
from worker import Keys

STREAMS = [f"s{number}" for number in range(40)]


async def test_hints_that_nobody_has_read_or_acknowledged_are_not_done(client: Redis, keys: Keys) -> None:
    feed = feed_of(client, keys)
    await feed.join()
    assert await all_are_done(client, keys, GROUP)
    await add_hints(client, keys, *STREAMS)
    assert not await all_are_done(client, keys, GROUP)
    hints = await read_all(client, keys, feed)
    await feed.acknowledge(hints[1:])
    assert not await all_are_done(client, keys, GROUP)
    await feed.acknowledge(hints[:1])
    assert await all_are_done(client, keys, GROUP)


async def test_hints_are_not_done_where_the_group_or_the_feed_is_missing(client: Redis, keys: Keys) -> None:
    assert not await all_are_done(client, keys, GROUP)
    await feed_of(client, keys).join()
    await client.xgroup_destroy(keys.feed(3), GROUP)
    assert not await all_are_done(client, keys, GROUP)
    await client.delete(keys.feed(3))
    assert not await all_are_done(client, keys, GROUP)


async def test_a_group_made_anew_has_done_all_where_nothing_is_left_to_read(
    client: Redis, keys: Keys
) -> None:
    feed = feed_of(client, keys)
    await feed.join()
    await add_hints(client, keys, *STREAMS)
    await feed.acknowledge(await read_all(client, keys, feed))
    for name in feed.names:
        await client.xtrim(name, maxlen=0, approximate=False)
        await client.xgroup_destroy(name, GROUP)
    await feed.join()
    assert await all_are_done(client, keys, GROUP)
