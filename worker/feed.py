"""The feed: hints that streams have news, read by one consumer group for each projection."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from datetime import timedelta
from time import monotonic
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from worker.agreement import check_names
from worker.errors import FeedPartitionsError
from worker.hint import Hint, parse_hint
from worker.keys import Keys
from worker.redis_client import READ_BLOCK, Script, pairs, pipelined, refused
from worker.waiting import wait_for

log = structlog.get_logger("feed")

_LOOK_AGAIN_SECONDS = 5.0
_TELL_AGAIN_SECONDS = 60.0

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
        self._holds = frozenset(self.held)
        self._aside: dict[int, bytes] = {}
        self._full: set[int] = set()
        self._reads_some = asyncio.Event()
        self._reads_some.set()
        # Where to go on in this consumer's own pending entries; None once they have all been read.
        self._own_pending_after: dict[int, bytes] | None = None
        self._wrong: frozenset[int] = frozenset()
        self._look_again_at = 0.0
        self._joined_before = False
        self.malformed = 0
        self._tell_malformed_at = 0.0

    def hold(self, partitions: Collection[int]) -> None:
        """Read these partitions from now on. Hints of others that are in hand may still be acknowledged."""
        self._holds = frozenset(partitions)
        self.held = sorted(self._holds - self._wrong)
        self._aside = {p: end for p, end in self._aside.items() if p in self._holds}
        self._note_readable()

    def _note_readable(self) -> None:
        if self._aside.keys() >= set(self.held):
            self._reads_some.clear()
        else:
            self._reads_some.set()

    def take_full(self) -> list[int]:
        """The partitions that gave as many hints as they were asked for when they were last read."""
        full, self._full = self._full, set()
        return sorted(full.intersection(self.held))

    def set_aside(self, partition: int, end: bytes) -> bool:
        """Do not read a partition until `take_back`: its hints up to ``end`` are being skimmed.

        False where it is not held any more. Letting it go or joining again ends that, too.
        """
        if partition not in self.held:
            return False
        self._aside[partition] = end
        self._note_readable()
        return True

    def aside(self, partition: int) -> bytes | None:
        """Up to where a partition's hints are being skimmed, None where they are not."""
        return self._aside.get(partition)

    def take_back(self, partition: int, end: bytes) -> None:
        """Read a partition again, if it is still set aside with this ``end``."""
        if self._aside.get(partition) == end:
            del self._aside[partition]
            self._note_readable()

    def reads(self, stream_id: str) -> bool:
        """Whether this replica holds the partition of a stream's hints."""
        return self.keys.partition(stream_id) in self._holds

    async def join(self) -> None:
        """Agree on the number of partitions; make the group, from the start of the feed, where it is missing.

        May be called again at any time. Own pending entries are read first afterwards. A partition whose key
        holds something else is left out and looked at again now and then; sweeps find what it cannot tell.
        Raises FeedPartitionsError when the deployment uses another number of partitions.
        """
        self._aside.clear()
        self._note_readable()
        await self._agree()
        wrong: set[int] = set()
        made_anew = False
        commands = [("XGROUP", "CREATE", name, self.group, "0", "MKSTREAM") for name in self.names]
        for partition, reply in enumerate(await pipelined(self._redis, commands)):
            if not refused(reply):
                made_anew = True
            elif _is_wrong_type(reply):
                wrong.add(partition)
            elif not str(reply).startswith("BUSYGROUP"):
                raise reply
        if made_anew and self._joined_before:  # What the group had not read yet may have been dropped.
            self.hints_lost()
        self._joined_before = True
        self._leave_out(frozenset(wrong))
        self.read_own_pending_next()

    async def _agree(self) -> None:
        """Agree with the deployment on the number of partitions."""
        name = self.keys.feed_partitions
        try:
            if await self._redis.get(name) is None:
                await check_names(self._redis, self.keys)
                await self._redis.setnx(name, self.keys.partitions)
            agreed = int(await self._redis.get(name) or self.keys.partitions)
        except ValueError:
            raise FeedPartitionsError(
                f"Key {name} holds no number: set it to that of the deployment."
            ) from None
        except ResponseError as error:
            if not _is_wrong_type(error):
                raise
            raise ResponseError(f"WRONGTYPE Key {name} holds no number: delete it.") from error
        if agreed != self.keys.partitions:
            raise FeedPartitionsError(
                f"The deployment reads {agreed} feed partitions, this worker is set to "
                f"{self.keys.partitions}: set WORKER_FEED_PARTITIONS={agreed}."
            )

    def _leave_out(self, wrong: frozenset[int]) -> None:
        """Read all partitions held but these, whose keys are no streams."""
        for partition in sorted(wrong - self._wrong):
            log.error("feed_key_unusable", key=self.names[partition], remedy="it is no stream: delete it")
            self.hints_lost()
        self._wrong = wrong
        self._look_again_at = monotonic() + _LOOK_AGAIN_SECONDS
        self.hold(self._holds)

    async def read(self, count: int, block: timedelta = READ_BLOCK) -> list[Hint]:
        """Up to ``count`` hints of each partition held; waits up to ``block`` for the first.

        Hints that were delivered to this consumer before come first after `join`, whoever holds their
        partition now: whatever was in a reply that got lost is among them, and so are hints still in hand,
        which does no harm. After any error call `join`, then read again.
        """
        if self._wrong and monotonic() >= self._look_again_at:
            await self.join()
        if self._own_pending_after is not None:
            return await self._read_own_pending(count)
        readable = [self.names[partition] for partition in self.held if partition not in self._aside]
        if not readable:
            await wait_for(self._reads_some, block.total_seconds())
            return []
        wait_ms = max(1, int(block.total_seconds() * 1000))
        reply = await self._redis.execute_command(
            "XREADGROUP", "GROUP", self.group, self.consumer, "COUNT", count, "BLOCK", wait_ms,
            "STREAMS", *readable, *[">"] * len(readable),
        )  # fmt: skip
        self._full = {self._partitions[name] for name, entries in pairs(reply) if len(entries) >= count}
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
        if self._own_pending_after is after:  # else somebody has asked meanwhile to begin again
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
            if hint := parse_hint(partition, raw_id, fields):
                hints.append(hint)
                continue
            self._note_malformed(partition, raw_id)
            if not fields:
                self.hints_lost()
            mute[partition].append(raw_id)
        await self._acknowledge_ids(mute)
        return hints

    def _note_malformed(self, partition: int, raw_id: bytes) -> None:
        """Count a hint that says nothing, and log it: the first at once, then one line a minute at most."""
        self.malformed += 1
        if monotonic() >= self._tell_malformed_at:
            log.warning(
                "hints_malformed", so_far=self.malformed, partition=partition, example=raw_id.decode()
            )
            self._tell_malformed_at = monotonic() + _TELL_AGAIN_SECONDS

    @property
    def reads_news(self) -> bool:
        """Whether the next read gives new hints, and not such as were delivered to this consumer before."""
        return self._own_pending_after is None

    def read_own_pending_next(self) -> None:
        """Let the next reads show everything that is pending for this consumer."""
        readable = set(range(self.keys.partitions)) - self._wrong
        self._own_pending_after = dict.fromkeys(sorted(readable), b"0-0") or None

    async def acknowledge(self, hints: Iterable[Hint]) -> None:
        """Tell the group that these hints are done. Call it only after the commit that makes it true."""
        by_partition: dict[int, list[bytes]] = defaultdict(list)
        for hint in hints:
            by_partition[hint.partition].append(hint.id)
        await self._acknowledge_ids(by_partition)

    async def _acknowledge_ids(self, ids: dict[int, list[bytes]]) -> None:
        commands = [("XACK", self.names[p], self.group, *some) for p, some in ids.items() if some]
        for reply in await pipelined(self._redis, commands):
            # A key that became something else took the group with it, and what was pending.
            if refused(reply) and not _is_wrong_type(reply):
                raise reply

    async def remove(self, consumer: str, partition: int) -> bool:
        """Remove a consumer from the group in one partition if nothing is pending for it; whether it was so.

        Removing a consumer throws its pending entries away, so one that owns some stays for the others to
        take over from. One that reads again is made again by that.
        """
        return bool(await _REMOVE(self._redis, [self.names[partition]], [self.group, consumer]))

    async def leave(self) -> bool:
        """Remove this consumer from the group wherever nothing is pending for it; whether it is gone."""
        partitions = sorted(set(range(self.keys.partitions)) - self._wrong)
        return all([await self.remove(self.consumer, partition) for partition in partitions])


def _is_wrong_type(error: RedisError) -> bool:
    return str(error).startswith("WRONGTYPE")


def is_missing_group(error: RedisError) -> bool:
    """Whether the group or the feed was deleted under us: `Feed.join` makes it again."""
    return isinstance(error, ResponseError) and str(error).startswith(("NOGROUP", "UNBLOCKED"))
