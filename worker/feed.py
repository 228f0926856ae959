"""The feed: hints that streams have news, read by one consumer group for each projection."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from worker.errors import FeedPartitionsError
from worker.events import EventId, field, parse_stream_id
from worker.hint import Hint
from worker.keys import Keys
from worker.redis_client import READ_BLOCK, pairs, pipelined, refused

log = structlog.get_logger(__name__)

_CLAIM_PAGE = 500


class Feed:
    """This replica's place in the consumer group of a projection."""

    def __init__(self, redis: Redis, keys: Keys, *, group: str, consumer: str) -> None:
        self._redis = redis
        self._keys = keys
        self._group = group
        self._consumer = consumer
        self._names = [keys.feed(partition) for partition in range(keys.partitions)]
        self._partitions = {name.encode(): partition for partition, name in enumerate(self._names)}
        # Where to go on in this consumer's own pending entries; None once they have all been read.
        self._own_pending_after: dict[int, bytes] | None = None
        self._claim_cursors: dict[int, Any] = dict.fromkeys(range(keys.partitions), "0-0")
        self.malformed = 0

    async def join(self) -> None:
        """Agree on the number of partitions; make the group, from the start of the feed, where it is missing.

        May be called again at any time. Own pending entries are read first afterwards. Raises
        FeedPartitionsError when the deployment uses another number of partitions.
        """
        await self._redis.setnx(self._keys.feed_partitions, self._keys.partitions)
        stored = await self._redis.get(self._keys.feed_partitions) or self._keys.partitions
        try:
            agreed = int(stored)
        except ValueError:
            raise FeedPartitionsError(
                f"Key {self._keys.feed_partitions} holds no number: set it to that of the deployment."
            ) from None
        if agreed != self._keys.partitions:
            raise FeedPartitionsError(
                f"The deployment reads {agreed} feed partitions, this worker is set to "
                f"{self._keys.partitions}: set WORKER_FEED_PARTITIONS={agreed}."
            )
        commands = [("XGROUP", "CREATE", name, self._group, "0", "MKSTREAM") for name in self._names]
        for reply in await pipelined(self._redis, commands):
            if refused(reply) and not str(reply).startswith("BUSYGROUP"):
                raise reply
        self._read_own_pending_next()

    async def read(self, count: int, block: timedelta = READ_BLOCK) -> list[Hint]:
        """Up to ``count`` hints a partition; waits up to ``block`` for the first.

        Hints that were delivered to this consumer before come first after `join`: whatever was in a reply
        that got lost is among them, and so are hints still in hand, which does no harm. After any error call
        `join`, then read again.
        """
        if self._own_pending_after is not None:
            return await self._read_own_pending(count)
        wait_ms = max(1, int(block.total_seconds() * 1000))
        reply = await self._redis.execute_command(
            "XREADGROUP", "GROUP", self._group, self._consumer, "COUNT", count, "BLOCK", wait_ms,
            "STREAMS", *self._names, *[">"] * len(self._names),
        )  # fmt: skip
        hints: list[Hint] = []
        gone: dict[int, list[bytes]] = defaultdict(list)
        for partition, raw_id, fields in self._entries(reply):
            self._sort(partition, raw_id, fields, hints, gone)
        await self._acknowledge_ids(gone)
        return hints

    async def _read_own_pending(self, count: int) -> list[Hint]:
        """The next page of entries that are pending for this consumer, until there is none."""
        assert self._own_pending_after is not None
        after = self._own_pending_after
        reply = await self._redis.execute_command(
            "XREADGROUP", "GROUP", self._group, self._consumer, "COUNT", count,
            "STREAMS", *[self._names[p] for p in after], *after.values(),
        )  # fmt: skip
        hints: list[Hint] = []
        gone: dict[int, list[bytes]] = defaultdict(list)
        further: dict[int, bytes] = {}
        for partition, raw_id, fields in self._entries(reply):
            further[partition] = raw_id
            self._sort(partition, raw_id, fields, hints, gone)
        await self._acknowledge_ids(gone)
        self._own_pending_after = further or None
        return hints

    def _entries(self, reply: Any) -> Iterator[tuple[int, bytes, Any]]:
        for name, entries in pairs(reply):
            for raw_id, fields in entries:
                yield self._partitions[name], raw_id, fields

    def _sort(
        self, partition: int, raw_id: bytes, fields: Any, hints: list[Hint], gone: dict[int, list[bytes]]
    ) -> None:
        """Put an entry among the hints, or among those to acknowledge at once because they say nothing.

        An entry that was trimmed while it was pending has no fields (Redis 6.2 and 7 show it differently).
        """
        spelled = field(fields, b"stream") if fields else None
        stream_id = parse_stream_id(spelled) if spelled is not None else None
        if stream_id is None:
            self.malformed += 1
            log.warning("hint_malformed", partition=partition, hint=raw_id.decode(), trimmed=not fields)
            gone[partition].append(raw_id)
            return
        hint_type = (field(fields, b"type") or b"").decode("utf-8", "replace")
        hints.append(Hint(partition, raw_id, stream_id, hint_type))

    async def acknowledge(self, hints: Iterable[Hint]) -> None:
        """Tell the group that these hints are done. Call it only after the commit that makes it true."""
        by_partition: dict[int, list[bytes]] = defaultdict(list)
        for hint in hints:
            by_partition[hint.partition].append(hint.id)
        await self._acknowledge_ids(by_partition)

    async def _acknowledge_ids(self, ids: dict[int, list[bytes]]) -> None:
        commands = [("XACK", self._names[p], self._group, *some) for p, some in ids.items() if some]
        for reply in await pipelined(self._redis, commands):
            if refused(reply):
                raise reply

    async def claim_abandoned(self, idle: timedelta) -> list[Hint]:
        """Take over one page of hints a partition that no replica has acknowledged for ``idle``.

        Their consumer is dead, or slow: then both look at the log, and one writes.
        """
        idle_ms = int(idle.total_seconds() * 1000)
        commands = [
            (
                "XAUTOCLAIM",
                name,
                self._group,
                self._consumer,
                idle_ms,
                self._claim_cursors[p],
                "COUNT",
                _CLAIM_PAGE,
            )
            for p, name in enumerate(self._names)
        ]
        hints: list[Hint] = []
        gone: dict[int, list[bytes]] = defaultdict(list)
        for partition, reply in enumerate(await pipelined(self._redis, commands)):
            if refused(reply):
                raise reply
            self._claim_cursors[partition] = reply[
                0
            ]  # 0-0 when the end was reached: the next call starts over
            for entry in reply[1]:
                if entry is None:
                    # Redis 6.2 hands over an entry that was trimmed without its id. It is ours now, so
                    # reading our own pending entries shows it.
                    self._read_own_pending_next()
                else:
                    self._sort(partition, entry[0], entry[1], hints, gone)
        await self._acknowledge_ids(gone)
        return hints

    def _read_own_pending_next(self) -> None:
        self._own_pending_after = dict.fromkeys(range(self._keys.partitions), b"0-0")

    async def trim(self) -> int:
        """Drop the hints that every group has done with, and return how many."""
        commands: list[tuple[Any, ...]] = []
        for name in self._names:
            needed = await self._first_needed(name)
            if needed is not None:
                commands.append(("XTRIM", name, "MINID", "~", str(needed)))
        return sum(reply for reply in await pipelined(self._redis, commands) if not refused(reply))

    async def _first_needed(self, name: str) -> EventId | None:
        """The lowest hint id that some group has yet to read or acknowledge."""
        needed: list[EventId] = []
        for group in await self._redis.xinfo_groups(name):
            delivered = EventId.parse(group["last-delivered-id"])
            needed.append(
                EventId(delivered.ms, delivered.seq + 1) if delivered.seq + 1 < 1 << 64 else delivered
            )
            if group["pending"]:
                summary = await self._redis.execute_command("XPENDING", name, group["name"])
                if summary[1]:
                    needed.append(EventId.parse(summary[1]))
        return min(needed, default=None)

    async def leave(self) -> bool:
        """Remove this consumer from the group if nothing is pending for it; say whether that was so.

        Removing a consumer throws its pending entries away, so one that owns some stays for the others to
        claim from.
        """
        owned: Counter[int] = Counter()
        for partition, name in enumerate(self._names):
            reply = await self._redis.execute_command(
                "XPENDING", name, self._group, "-", "+", 1, self._consumer
            )
            owned[partition] = len(reply)
        removable = [name for partition, name in enumerate(self._names) if not owned[partition]]
        await pipelined(
            self._redis, [("XGROUP", "DELCONSUMER", name, self._group, self._consumer) for name in removable]
        )
        return len(removable) == len(self._names)


def is_missing_group(error: RedisError) -> bool:
    """Whether the group or the feed was deleted under us: `Feed.join` makes it again."""
    return isinstance(error, ResponseError) and str(error).startswith(("NOGROUP", "UNBLOCKED"))
