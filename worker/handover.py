"""Which partitions this replica reads, and how they pass from one live replica to another."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import timedelta

import structlog
from redis.asyncio import Redis

from worker.feed import Feed
from worker.hint import Hint
from worker.hinting import hint_streams
from worker.leases import Leases, Tenure
from worker.pending import Pending
from worker.redis_client import Script

log = structlog.get_logger("leases")

_PATIENCE = timedelta(seconds=1.4)
_HINTS_A_GIFT = 500

# KEYS: the partition; leases; replicas that were given hints. ARGV: group, this replica, the partition's
# number, ids of hints. Returns whether another replica holds the partition, and so has them now.
_GIVE = Script("""
local holder = redis.call('HGET', KEYS[2], ARGV[3])
if not holder or holder == ARGV[2] then return 0 end
local claim = {'XCLAIM', KEYS[1], ARGV[1], holder, 0, unpack(ARGV, 4)}
claim[#claim + 1] = 'JUSTID'
redis.call(unpack(claim))
redis.call('SADD', KEYS[3], holder)
return 1
""")


class Handover:
    """Keeps what is read and what is in hand in step with the leases.

    A replica that is to let partitions go stops reading them, finishes what is in flight of them, and passes
    on the rest of their hints: two that have the same streams in hand would project them at the same time.
    ``replicas_changed`` is set when other replicas have come or gone, or partitions have moved.
    """

    def __init__(self, redis: Redis, feed: Feed, leases: Leases, pending: Pending) -> None:
        self._redis = redis
        self._feed = feed
        self._leases = leases
        self._pending = pending
        self.tenure = Tenure()
        self._outdated = False
        self._stands_back = False
        self._retires = False
        self.replicas_changed = asyncio.Event()

    async def tick(self) -> bool:
        """Be alive, and have a fair share of the partitions. To be called several times in a lease's life."""
        tenure = await self._leases.tick()
        self._note_given(tenure)
        if self._outdated and not self._retires:
            tenure = await self._make_way(tenure)
        if tenure.surplus or self.tenure.partitions - tenure.partitions:
            tenure = await self._let_go(tenure.partitions, self._leases.release)
        self._heed(tenure)
        return True

    def met_newer(self) -> None:
        """This replica has met a row of a newer version, and can do nothing for its stream.

        From now on it lets all partitions go while a replica of a newer version is alive. When there is none
        any more, because the newer version was taken back, it has its share again.
        """
        self._outdated = True

    @property
    def stands_back(self) -> bool:
        """Whether replicas of a newer version do the work."""
        return self._stands_back

    async def _make_way(self, tenure: Tenure) -> Tenure:
        if tenure.newer and not self._stands_back:
            tenure = await self._let_go(frozenset(), self._leases.retire)
            self._stands_back = True
            log.info("standing_back")
        elif self._stands_back and not tenure.newer:
            tenure = await self._leases.resume()
            self._stands_back = self._outdated = False
            log.info("no_longer_standing_back")
        return tenure

    async def retire(self) -> bool:
        """Let all partitions go, for good. Hints that nobody else is there for stay in hand."""
        self._retires = True
        self._heed(await self._let_go(frozenset(), self._leases.retire))
        return True

    async def leave(self) -> None:
        """Be alive no more: others take over what is still pending."""
        await self._leases.leave()

    def reads(self, stream_id: str) -> bool:
        """Whether this replica is the one that reads a stream's hints."""
        return self._partition(stream_id) in self.tenure.partitions

    def _partition(self, stream_id: str) -> int:
        return self._feed.keys.partition(stream_id)

    async def hint(self, stream_ids: Collection[str]) -> None:
        """Tell whoever reads the hints of streams that they have news."""
        await hint_streams(self._redis, self._feed.keys, stream_ids)

    async def _let_go(self, stay: frozenset[int], hand_over: Callable[[], Awaitable[Tenure]]) -> Tenure:
        """Keep only these partitions."""
        going = self.tenure.partitions - stay
        self._feed.hold(stay)
        withdrawn = await self._pending.withdraw(lambda s: self._partition(s) in going, _PATIENCE)
        kept = [hint for hint in withdrawn.hints if not hint.skimmed]  # Those are undelivered as it is.
        # Somebody has hinted at these in a partition that is not theirs: its skim would never end.
        skimmed = [hint for hint in withdrawn.hints if hint.skimmed and hint.partition in stay]
        try:
            tenure = await hand_over()
            kept = await self._give(kept)
        finally:
            self._pending.add_hints([*kept, *skimmed], flush=True)
        await self.hint(withdrawn.swept)
        return tenure

    async def _give(self, hints: Sequence[Hint]) -> list[Hint]:
        """Give hints to the replicas that now hold their partitions; the hints for which there are none."""
        keys, group, kept = self._feed.keys, self._feed.group, list[Hint]()
        by_partition: dict[int, list[Hint]] = defaultdict(list)
        for hint in hints:
            by_partition[hint.partition].append(hint)
        for partition, some in by_partition.items():
            names = [self._feed.names[partition], keys.leases(group), keys.given(group)]
            for start in range(0, len(some), _HINTS_A_GIFT):
                gift = some[start : start + _HINTS_A_GIFT]
                arguments = [group, self._feed.consumer, partition, *(hint.id for hint in gift)]
                if not await _GIVE(self._redis, names, arguments):
                    kept += gift
        return kept

    def _heed(self, tenure: Tenure) -> None:
        before, self.tenure = self.tenure, tenure
        self._feed.hold(tenure.partitions)
        self._note_given(tenure)
        if (tenure.partitions, tenure.live) != (before.partitions, before.live):
            log.info("replicas_changed", partitions=sorted(tenure.partitions), replicas=len(tenure.live))
            self.replicas_changed.set()

    def _note_given(self, tenure: Tenure) -> None:
        """Have the hints read that others have given to this replica, which it is told of once."""
        if tenure.given:
            self._feed.read_own_pending_next()
