"""A rebuild that looks at live projection."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest
from redis.asyncio import Redis

from projections import strategies
from tests.replicas import report
from tests.rights import ADMINISTRATOR, client_as
from worker import Keys, emit
from worker.courtesy import Courtesy
from worker.feed_backlog import FeedBacklog, feed_backlog
from worker.replicas import Replicas
from worker.retry import Perseverance
from worker.waiting import wait_for

STREAMS = [f"s{number}" for number in range(40)]


async def parts(courtesy: Courtesy, most: int) -> list[int]:
    """How large the parts are, each worked on for a moment."""
    sizes = []
    async with aclosing(courtesy.parts(STREAMS, most)) as cut:
        async for part in cut:
            sizes.append(len(part))
            await wait_for(asyncio.Event(), 0.03)
    return sizes


@pytest.fixture
def courtesy(client: Redis, keys: Keys) -> Courtesy:
    stop = asyncio.Event()
    return Courtesy(client, keys, strategies.name, Perseverance(stop), stop)


async def hint_without_end(client: Redis, keys: Keys) -> None:
    """A hint that nobody reads, in a group that there is."""
    await emit(client, "a", "", "user_message", {}, keys=keys)
    await client_as(client, ADMINISTRATOR).xgroup_create(
        keys.feed(keys.partition("a")), strategies.name, id="0"
    )


async def test_a_backlog_is_told_with_its_age(client: Redis, redis: Redis, keys: Keys) -> None:
    assert (await feed_backlog(client, keys, strategies.name)).waiting is None
    await hint_without_end(client, keys)
    await wait_for(asyncio.Event(), 0.05)
    backlog = await feed_backlog(client, keys, strategies.name)
    assert (backlog.waiting, backlog.pending) == (1, 0)
    assert 0.05 <= backlog.oldest_seconds < 10
    feed = keys.feed(keys.partition("a"))
    await redis.xreadgroup(strategies.name, "c", {feed: ">"})
    later = await feed_backlog(client, keys, strategies.name)
    assert (later.waiting, later.pending) == (0, 1)
    assert later.oldest_seconds >= backlog.oldest_seconds
    hints: Any = await redis.xrange(feed)
    await redis.xack(feed, strategies.name, hints[0][0])
    assert await feed_backlog(client, keys, strategies.name) == FeedBacklog(0, 0)


async def test_while_hints_wait_for_a_live_replica_parts_get_smaller(
    client: Redis, keys: Keys, courtesy: Courtesy
) -> None:
    await hint_without_end(client, keys)
    await Replicas(client, keys, strategies.name).report(report("alive"))
    await wait_for(asyncio.Event(), 0.1)
    sizes = await parts(courtesy, 4)
    assert sum(sizes) == len(STREAMS)
    assert (sizes[0], sizes[-1]) == (4, 2)


async def test_where_no_replica_is_alive_nobody_is_waited_for(
    client: Redis, keys: Keys, courtesy: Courtesy
) -> None:
    await hint_without_end(client, keys)
    await wait_for(asyncio.Event(), 0.1)
    assert await parts(courtesy, 10) == [10] * 4


async def test_a_stop_ends_a_rest(client: Redis, keys: Keys) -> None:
    stop = asyncio.Event()
    slow = Courtesy(client, keys, strategies.name, Perseverance(stop), stop, streams_per_second=0.001)
    async with aclosing(slow.parts(STREAMS, 10)) as cut:
        assert len(await anext(cut)) == 1
        asyncio.get_running_loop().call_later(0.05, stop.set)
        assert [part async for part in cut] == []
