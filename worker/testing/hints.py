"""Hints of no event, and how far a consumer group is with its hints."""

from __future__ import annotations

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from worker.keys import Keys


async def wake(redis: Redis, keys: Keys) -> None:
    """Write a hint that concerns nobody: a worker that waits for hints looks around at once."""
    await redis.execute_command("XADD", keys.feed(0), "*", "stream", "nobody", "type", "no such type")


async def undone(redis: Redis, keys: Keys, group: str) -> list[str]:
    """What a group has yet to do, partition by partition, in words: to join, to read, to acknowledge.

    It is asked for hints that it has not read, not for the feed's last id: a group that was made anew, over
    hints that were done with and trimmed, has read none and never will.
    """
    found = [await _undone_of(redis, keys.feed(partition), group) for partition in range(keys.partitions)]
    holders = await redis.execute_command("HGETALL", keys.leases(group))
    return [f"feed {partition}: {what}; leases: {holders}" for partition, what in enumerate(found) if what]


async def _undone_of(redis: Redis, feed: str, group: str) -> str:
    try:
        groups = {found["name"].decode(): found for found in await redis.xinfo_groups(feed)}
    except ResponseError:
        return "is missing"  # It was deleted, and nobody has joined yet.
    if group not in groups:
        return "has no group"
    if groups[group]["pending"]:
        return f"pending: {await redis.execute_command('XPENDING', feed, group)}"
    delivered = groups[group]["last-delivered-id"].decode()
    unread = await redis.xrange(feed, f"({delivered}", count=1)
    return f"unread: {unread}" if unread else ""
