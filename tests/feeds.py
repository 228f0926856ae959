"""Feeds as tests fill and read them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from redis.asyncio import Redis

from tests.rights import ADMINISTRATOR, PRODUCER, client_as
from worker import Keys
from worker.feed import Feed
from worker.feed_upkeep import FeedUpkeep
from worker.hint import Hint
from worker.leases import Leases

GROUP = "group"
END = "the end"


def feed_of(client: Redis, keys: Keys, *, group: str = GROUP, consumer: str = "consumer") -> Feed:
    return Feed(client, keys, group=group, consumer=consumer)


def upkeep_of(client: Redis, keys: Keys, feed: Feed) -> FeedUpkeep:
    """What keeps a feed in order, for a replica that counts as alive from its first look around on."""
    return FeedUpkeep(client, feed, Leases(client, keys, projection=feed.group, consumer=feed.consumer))


async def add_hints(redis: Redis, keys: Keys, *streams: str) -> list[bytes]:
    """Add a hint for each stream to its partition, and return the hints' ids."""
    pipeline = client_as(redis, PRODUCER).pipeline(transaction=False)
    for stream_id in streams:
        pipeline.xadd(keys.feed(keys.partition(stream_id)), {"stream": stream_id, "type": "user_message"})
    return list(await pipeline.execute())


async def read_all(client: Redis, keys: Keys, feed: Feed, count: int = 1000) -> list[Hint]:
    """What there is to read: own pending hints first after a join, then new ones.

    A last hint of our own tells when that is, since a server takes its time to say that there is nothing.
    """
    end = await client_as(client, PRODUCER).xadd(keys.feed(0), {"stream": END})
    hints: list[Hint] = []
    async with asyncio.timeout(5):
        while not (ends := [hint for hint in hints if hint.stream_id == END and hint.id == end]):
            hints += await feed.read(count)
    await feed.acknowledge(ends)
    await client_as(client, ADMINISTRATOR).xdel(keys.feed(0), end)
    return [hint for hint in hints if hint.stream_id != END]


def stream_ids(hints: Sequence[Hint]) -> list[str]:
    return [hint.stream_id for hint in hints]


async def pending_of(redis: Redis, keys: Keys, group: str = GROUP) -> int:
    """How many hints of a group are delivered and not acknowledged."""
    pending = 0
    for partition in range(keys.partitions):
        for found in await redis.xinfo_groups(keys.feed(partition)):
            pending += found["pending"] if found["name"] == group.encode() else 0
    return pending
