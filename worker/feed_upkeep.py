"""Keeping the feed in order: hints that nobody acknowledges, dead consumers, hints that nobody needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from redis.asyncio import Redis

from worker.events import EventId
from worker.feed import Feed
from worker.hint import Hint
from worker.leases import Leases
from worker.redis_client import Script, pipelined, refused

_CLAIM_PAGE = 500

# One script, so that two heirs who do not agree on who holds the partition never take over the same hint.
#
# KEYS: the partition. ARGV: group, the dead consumer, its heir, how many hints at most. Returns how many were
# pending, and those of them that the feed still holds.
_INHERIT = Script("""
local ids = {}
for _, pending in ipairs(redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', ARGV[4], ARGV[2])) do
  ids[#ids + 1] = pending[1]
end
if #ids == 0 then return {0, {}} end
return {#ids, redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[3], 0, unpack(ids))}
""")


@dataclass(frozen=True, slots=True)
class _Consumer:
    """A consumer of the group in one partition."""

    name: str
    partition: int


class FeedUpkeep:
    """What somebody must do for the feed now and then; each replica does it for the partitions it holds."""

    def __init__(self, redis: Redis, feed: Feed, leases: Leases) -> None:
        self._redis = redis
        self._feed = feed
        self._leases = leases
        self._claim_cursors: dict[int, Any] = {}
        self._dropped_unread: dict[int, int] = {}

    async def inherit(self) -> list[Hint]:
        """Take over hints that are pending for dead replicas, however young; remove the dead from the group.

        It gives one page of one replica's hints: call it again until there are none.
        """
        consumers = await self._consumers()
        dead = await self._leases.dead_among({consumer.name for consumer in consumers})
        for consumer in consumers:
            while consumer.name in dead and not await self._feed.remove(consumer.name, consumer.partition):
                if hints := await self._inherit_from(consumer):
                    return hints
        return []

    async def _consumers(self) -> list[_Consumer]:
        held = list(self._feed.held)
        commands = [("XINFO CONSUMERS", self._feed.names[partition], self._feed.group) for partition in held]
        found: list[_Consumer] = []
        for partition, reply in zip(held, await pipelined(self._redis, commands), strict=True):
            if refused(reply):
                raise reply
            found += [_Consumer(info["name"].decode(), partition) for info in reply]
        return found

    async def _inherit_from(self, dead: _Consumer) -> list[Hint]:
        arguments = [self._feed.group, dead.name, self._feed.consumer, _CLAIM_PAGE]
        pending, entries = await _INHERIT(self._redis, [self._feed.names[dead.partition]], arguments)
        if len(entries) < pending:  # From Redis 7 on, entries that were trimmed are passed over.
            self._feed.hints_lost()
        return await self._take(dead.partition, entries)

    async def claim_abandoned(self, idle: timedelta) -> list[Hint]:
        """Take over one page of hints of each partition that nobody has acknowledged for ``idle``.

        Their replica is alive, but slow: then both look at the log, and one writes.
        """
        idle_ms = int(idle.total_seconds() * 1000)
        held, names, cursors = list(self._feed.held), self._feed.names, self._claim_cursors
        commands = [
            ("XAUTOCLAIM", names[p], self._feed.group, self._feed.consumer, idle_ms, cursors.get(p, "0-0"),
             "COUNT", _CLAIM_PAGE)
            for p in held
        ]  # fmt: skip
        hints: list[Hint] = []
        for partition, reply in zip(held, await pipelined(self._redis, commands), strict=True):
            if refused(reply):
                raise reply
            cursors[partition] = reply[0]  # 0-0 when the end was reached: the next call starts over.
            if reply[2:] and reply[2]:  # From Redis 7 on: entries that were trimmed.
                self._feed.hints_lost()
            hints += await self._take(partition, reply[1])
        return hints

    async def _take(self, partition: int, claimed: Sequence[Any]) -> list[Hint]:
        if None in claimed:
            # Redis 6.2 hands over an entry that was trimmed without its id. It is ours now, so reading our
            # own pending entries shows it.
            self._feed.read_own_pending_next()
        return await self._feed.sift((partition, *entry) for entry in claimed if entry is not None)

    async def trim(self) -> int:
        """Drop the hints that every group has done with, and return how many."""
        commands: list[tuple[Any, ...]] = []
        for partition in list(self._feed.held):
            name = self._feed.names[partition]
            groups = await self._redis.xinfo_groups(name)
            await self._look_for_dropped(partition, groups)
            needed = await self._first_needed(name, groups)
            if needed is not None:
                commands.append(("XTRIM", name, "MINID", "~", str(needed)))
        return sum(reply for reply in await pipelined(self._redis, commands) if not refused(reply))

    async def _first_needed(self, name: str, groups: Sequence[Mapping[str, Any]]) -> EventId | None:
        """The lowest hint id that some group has yet to read or acknowledge."""
        needed: list[EventId] = []
        for group in groups:
            delivered = EventId.parse(group["last-delivered-id"])
            needed.append(
                EventId(delivered.ms, delivered.seq + 1) if delivered.seq + 1 < 1 << 64 else delivered
            )
            if group["pending"]:
                summary = await self._redis.execute_command("XPENDING", name, group["name"])
                if summary[1]:
                    needed.append(EventId.parse(summary[1]))
        return min(needed, default=None)

    async def _look_for_dropped(self, partition: int, groups: Sequence[Mapping[str, Any]]) -> None:
        """Notice when the cap on the feed has dropped hints that our group had not read."""
        for group in groups:
            if group["name"] == self._feed.group.encode() and "entries-read" in group:
                stream = await self._redis.xinfo_stream(self._feed.names[partition])
                dropped = _dropped_unread(stream, group)
                if dropped > self._dropped_unread.get(partition, 0):
                    self._dropped_unread[partition] = dropped
                    self._feed.hints_lost()


def _dropped_unread(stream: Mapping[str, Any], group: Mapping[str, Any]) -> int:
    """How many entries were dropped before a group read them, as far as Redis 7 counts them.

    Redis 7.0 never makes up for them in ``entries-read`` and tells of them again: only more of them are news.
    """
    delivered = EventId.parse(group["last-delivered-id"])
    first = stream["recorded-first-entry-id"] if stream["length"] else stream["last-generated-id"]
    read = group["entries-read"] or (0 if delivered == EventId(0, 0) else None)
    if read is None or EventId.parse(first) <= delivered:
        return 0
    return max(0, int(stream["entries-added"]) - int(stream["length"]) - int(read))
