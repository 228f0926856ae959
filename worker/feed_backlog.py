"""What waits in the feed, as anybody can ask the server; nothing here reads as a member of the group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from worker.events import EventId
from worker.hint import parse_hint
from worker.keys import Keys
from worker.redis_client import pipelined, refused

_COUNTED_AT_MOST = 10_000


@dataclass(frozen=True, slots=True)
class FeedBacklog:
    """Hints of all partitions: not yet delivered to the group, and delivered but not acknowledged.

    ``waiting`` is None before the group exists. Where the server cannot tell it, it is counted up to
    10,000 a partition. ``oldest_seconds`` is the age of the oldest hint of either kind, 0 if there is none.
    """

    waiting: int | None
    pending: int
    oldest_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class _Partition:
    """One partition as the group sees it; ``lag`` None where the server cannot tell it."""

    name: str
    pending: int
    lag: int | None
    delivered: bytes

    @property
    def idle(self) -> bool:
        return not self.pending and self.lag == 0


async def feed_backlog(redis: Redis, keys: Keys, group: str) -> FeedBacklog:
    """Ask how much waits for a group, and for how long. Two round trips, one if nothing waits."""
    joined = await _partitions(redis, keys, group)
    busy = [partition for partition in joined if not partition.idle]
    waiting, oldest_seconds = await _look_closely(redis, group, busy) if busy else (0, 0.0)
    pending = sum(partition.pending for partition in joined)
    return FeedBacklog(waiting if joined else None, pending, oldest_seconds)


async def oldest_hinted(redis: Redis, keys: Keys, group: str, most: int) -> list[str]:
    """So many streams at most, those with the oldest hints that are not acknowledged, the oldest first."""
    busy = [partition for partition in await _partitions(redis, keys, group) if not partition.idle]
    commands: list[tuple[Any, ...]] = []
    for partition in busy:
        commands.append(("XRANGE", partition.name, b"(" + partition.delivered, "+", "COUNT", most))
        commands.append(("XPENDING", partition.name, group, "-", "+", most))
    replies = await pipelined(redis, commands)
    entries = [entry for reply in replies[::2] if not refused(reply) for entry in reply]
    taken = [
        ("XRANGE", partition.name, pending[0], pending[0])
        for partition, reply in zip(busy, replies[1::2], strict=True)
        if not refused(reply)
        for pending in reply
    ]
    entries += [entry for reply in await pipelined(redis, taken) if not refused(reply) for entry in reply]
    hints = [hint for raw_id, fields in entries if (hint := parse_hint(0, raw_id, fields))]
    hints.sort(key=lambda hint: EventId.of_entry(hint.id))
    return list(dict.fromkeys(hint.stream_id for hint in hints))[:most]


async def _partitions(redis: Redis, keys: Keys, group: str) -> list[_Partition]:
    names = [keys.feed(partition) for partition in range(keys.partitions)]
    replies = await pipelined(redis, [("XINFO GROUPS", name) for name in names])
    return [
        _Partition(name, info["pending"], info.get("lag"), info["last-delivered-id"])
        for name, groups in zip(names, replies, strict=True)
        if not refused(groups)  # Else nobody has hinted at this partition yet.
        for info in groups
        if info["name"] == group.encode()
    ]


async def _look_closely(redis: Redis, group: str, busy: Sequence[_Partition]) -> tuple[int, float]:
    """How many hints are undelivered, and how old the oldest waiting one is."""
    commands: list[tuple[Any, ...]] = [("TIME",)]
    for partition in busy:
        # Redis 7 knows the lag of a group, mostly; Redis 6.2 does not.
        count = _COUNTED_AT_MOST if partition.lag is None else 1
        after = b"(" + partition.delivered
        commands += [
            ("XRANGE", partition.name, after, "+", "COUNT", count),
            ("XPENDING", partition.name, group),
        ]
    (seconds, microseconds), *replies = await pipelined(redis, commands)
    waiting, oldest_ms = 0, None
    for partition, undelivered, pending in zip(busy, replies[::2], replies[1::2], strict=True):
        if refused(undelivered) or refused(pending):
            continue  # Deleted meanwhile.
        waiting += len(undelivered) if partition.lag is None else partition.lag
        for first in (undelivered[0][0] if undelivered else None, pending[1]):
            if first is not None:
                ms = EventId.parse(first.decode()).ms
                oldest_ms = ms if oldest_ms is None else min(oldest_ms, ms)
    now_ms = seconds * 1000 + microseconds / 1000
    return waiting, max(0.0, (now_ms - oldest_ms) / 1000) if oldest_ms is not None else 0.0
