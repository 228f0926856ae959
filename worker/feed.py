"""The feed: hints that streams have news, read by one consumer group for each projection."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from datetime import timedelta
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from worker.errors import FeedPartitionsError
from worker.events import field, parse_stream_id
from worker.hint import Hint
from worker.keys import Keys
from worker.redis_client import READ_BLOCK, Script, pairs, pipelined, refused
from worker.waiting import wait_for

log = structlog.get_logger(__name__)

# XGROUP DELCONSUMER throws pending entries away, so the check stands in the same script: a consumer that
# counts as dead may only be frozen, and read on between the two.
#
# KEYS: the partition. ARGV: group, consumer.
_REMOVE = Script("""
if #redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2]) > 0 then return 0 end
redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
return 1
""")

Delivered = tuple[int, bytes, Any]
"""An entry of the feed: its partition, its id, and its fields as the server sends them."""


class Feed:
    """This replica's place in the consumer group of a projection.

    It reads the partitions that it holds: all of them, until `hold` says otherwise. ``hints_lost`` is called
    when hints may have been dropped before they were read or acknowledged, so that a sweep must find what
    they told.
    """

    def __init__(self, redis: Redis, keys: Keys, *, group: str, consumer: str) -> None:
        self._redis = redis
        self.keys = keys
        self.group = group
        self.consumer = consumer
        self.hints_lost: Callable[[], None] = lambda: None
        self.names = [keys.feed(partition) for partition in range(keys.partitions)]
        self._partitions = {name.encode(): partition for partition, name in enumerate(self.names)}
        self.held = list(range(keys.partitions))
        self._holds_some = asyncio.Event()
        self._holds_some.set()
        # Where to go on in this consumer's own pending entries; None once they have all been read.
        self._own_pending_after: dict[int, bytes] | None = None
        self._joined_before = False
        self.malformed = 0

    def hold(self, partitions: Collection[int]) -> None:
        """Read these partitions from now on. Hints of others that are in hand may still be acknowledged."""
        self.held = sorted(partitions)
        if self.held:
            self._holds_some.set()
        else:
            self._holds_some.clear()

    async def join(self) -> None:
        """Agree on the number of partitions; make the group, from the start of the feed, where it is missing.

        May be called again at any time. Own pending entries are read first afterwards. Raises
        FeedPartitionsError when the deployment uses another number of partitions.
        """
        await self._redis.setnx(self.keys.feed_partitions, self.keys.partitions)
        stored = await self._redis.get(self.keys.feed_partitions) or self.keys.partitions
        try:
            agreed = int(stored)
        except ValueError:
            raise FeedPartitionsError(
                f"Key {self.keys.feed_partitions} holds no number: set it to that of the deployment."
            ) from None
        if agreed != self.keys.partitions:
            raise FeedPartitionsError(
                f"The deployment reads {agreed} feed partitions, this worker is set to "
                f"{self.keys.partitions}: set WORKER_FEED_PARTITIONS={agreed}."
            )
        commands = [("XGROUP", "CREATE", name, self.group, "0", "MKSTREAM") for name in self.names]
        made_anew = False
        for reply in await pipelined(self._redis, commands):
            if not refused(reply):
                made_anew = True
            elif not str(reply).startswith("BUSYGROUP"):
                raise reply
        if made_anew and self._joined_before:  # What the group had not read yet may have been dropped.
            self.hints_lost()
        self._joined_before = True
        self.read_own_pending_next()

    async def read(self, count: int, block: timedelta = READ_BLOCK) -> list[Hint]:
        """Up to ``count`` hints of each partition held; waits up to ``block`` for the first.

        Hints that were delivered to this consumer before come first after `join`, whoever holds their
        partition now: whatever was in a reply that got lost is among them, and so are hints still in hand,
        which does no harm. After any error call `join`, then read again.
        """
        if self._own_pending_after is not None:
            return await self._read_own_pending(count)
        held = [self.names[partition] for partition in self.held]
        if not held:
            await wait_for(self._holds_some, block.total_seconds())
            return []
        wait_ms = max(1, int(block.total_seconds() * 1000))
        reply = await self._redis.execute_command(
            "XREADGROUP", "GROUP", self.group, self.consumer, "COUNT", count, "BLOCK", wait_ms,
            "STREAMS", *held, *[">"] * len(held),
        )  # fmt: skip
        return await self.sift(self._entries(reply))

    async def _read_own_pending(self, count: int) -> list[Hint]:
        """The next page of entries that are pending for this consumer, until there is none."""
        assert self._own_pending_after is not None
        after = self._own_pending_after
        reply = await self._redis.execute_command(
            "XREADGROUP", "GROUP", self.group, self.consumer, "COUNT", count,
            "STREAMS", *[self.names[p] for p in after], *after.values(),
        )  # fmt: skip
        entries = list(self._entries(reply))
        hints = await self.sift(entries)
        self._own_pending_after = {partition: raw_id for partition, raw_id, _ in entries} or None
        return hints

    def _entries(self, reply: Any) -> Iterator[Delivered]:
        for name, entries in pairs(reply):
            for raw_id, fields in entries:
                yield self._partitions[name], raw_id, fields

    async def sift(self, entries: Iterable[Delivered]) -> list[Hint]:
        """Entries that were delivered to this consumer, as hints. Those that say nothing are acknowledged.

        An entry that was trimmed while it was pending has no fields (Redis 6.2 and 7 show it differently).
        """
        hints: list[Hint] = []
        mute: dict[int, list[bytes]] = defaultdict(list)
        for partition, raw_id, fields in entries:
            spelled = field(fields, b"stream") if fields else None
            stream_id = parse_stream_id(spelled) if spelled is not None else None
            if stream_id is not None:
                hint_type = (field(fields, b"type") or b"").decode("utf-8", "replace")
                hints.append(Hint(partition, raw_id, stream_id, hint_type))
                continue
            self.malformed += 1
            log.warning("hint_malformed", partition=partition, hint=raw_id.decode(), trimmed=not fields)
            if not fields:
                self.hints_lost()
            mute[partition].append(raw_id)
        await self._acknowledge_ids(mute)
        return hints

    def read_own_pending_next(self) -> None:
        """Let the next reads show everything that is pending for this consumer."""
        self._own_pending_after = dict.fromkeys(range(self.keys.partitions), b"0-0")

    async def acknowledge(self, hints: Iterable[Hint]) -> None:
        """Tell the group that these hints are done. Call it only after the commit that makes it true."""
        by_partition: dict[int, list[bytes]] = defaultdict(list)
        for hint in hints:
            by_partition[hint.partition].append(hint.id)
        await self._acknowledge_ids(by_partition)

    async def _acknowledge_ids(self, ids: dict[int, list[bytes]]) -> None:
        commands = [("XACK", self.names[p], self.group, *some) for p, some in ids.items() if some]
        for reply in await pipelined(self._redis, commands):
            if refused(reply):
                raise reply

    async def remove(self, consumer: str, partition: int) -> bool:
        """Remove a consumer from the group in one partition if nothing is pending for it; whether it was so.

        Removing a consumer throws its pending entries away, so one that owns some stays for the others to
        take over from. One that reads again is made again by that.
        """
        return bool(await _REMOVE(self._redis, [self.names[partition]], [self.group, consumer]))

    async def leave(self) -> bool:
        """Remove this consumer from the group wherever nothing is pending for it; whether it is gone."""
        return all([await self.remove(self.consumer, p) for p in range(self.keys.partitions)])


def is_missing_group(error: RedisError) -> bool:
    """Whether the group or the feed was deleted under us: `Feed.join` makes it again."""
    return isinstance(error, ResponseError) and str(error).startswith(("NOGROUP", "UNBLOCKED"))
