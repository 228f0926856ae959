"""What `status` tells: who works, what is behind, how many rows there are."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from worker.dead_letters import LetterCounts, count_letters
from worker.keys import Keys
from worker.projection import Projection
from worker.redis_client import pipelined, refused
from worker.replicas import ReplicaReport, Replicas
from worker.store import Store
from worker.sweep import SweepReport

_COUNTED_AT_MOST = 10_000


@dataclass(frozen=True, slots=True)
class FeedStatus:
    """Hints of all partitions: not yet delivered to the group, and delivered but not acknowledged.

    ``waiting`` is None before the group exists. Where the server cannot tell it, it is counted up to
    10,000 a partition.
    """

    waiting: int | None
    pending: int


@dataclass(frozen=True, slots=True)
class ProjectionStatus:
    """One projection. ``sweep`` is the last finished one, None if none was lately. Times are Unix seconds."""

    name: str
    version: int
    taken_at: float
    rows: int
    rows_of_other_versions: int
    feed: FeedStatus
    sweep: SweepReport | None
    letters: LetterCounts
    replicas: list[ReplicaReport] = field(default_factory=list)

    @property
    def fine(self) -> bool:
        """Whether a replica works on it, and none is in trouble."""
        return bool(self.replicas) and all(replica.ready for replica in self.replicas)

    @property
    def events_applied(self) -> int:
        """By the replicas that are alive, since each of them started."""
        return sum(replica.events_applied for replica in self.replicas)

    @property
    def rows_verified(self) -> int:
        """By the same, of rows that chance chose."""
        return sum(replica.rows_verified for replica in self.replicas)

    @property
    def rows_drifted(self) -> int:
        """How many of these were not what their logs say."""
        return sum(replica.rows_drifted for replica in self.replicas)

    @property
    def lag_seconds(self) -> float | None:
        """The age of the oldest event that the last sweep found waiting; 0 if it found none."""
        if self.sweep is None:
            return None
        if self.sweep.oldest_behind_ms is None:
            return 0.0
        return max(0.0, self.sweep.finished_at - self.sweep.oldest_behind_ms / 1000)


async def take_status(
    redis: Redis, engine: AsyncEngine, keys: Keys, projection: Projection
) -> ProjectionStatus:
    """Ask both servers how a projection stands. Changes nothing."""
    reports = await Replicas(redis, keys, projection.name).all()
    sweep = await redis.get(keys.sweep_report(projection.name))
    versions = await Store(engine, projection).count_rows()
    return ProjectionStatus(
        name=projection.name,
        version=projection.version,
        taken_at=time.time(),
        rows=sum(versions.values()),
        rows_of_other_versions=sum(n for version, n in versions.items() if version != projection.version),
        feed=await _feed_status(redis, keys, projection.name),
        sweep=SweepReport.parse(sweep) if sweep else None,
        letters=await count_letters(engine, projection),
        replicas=[report for report in reports if report.alive],
    )


async def _feed_status(redis: Redis, keys: Keys, group: str) -> FeedStatus:
    names = [keys.feed(partition) for partition in range(keys.partitions)]
    waiting, pending, joined = 0, 0, False
    for name, groups in zip(names, await pipelined(redis, [("XINFO GROUPS", n) for n in names]), strict=True):
        if refused(groups):
            continue  # Nobody has hinted at this partition yet.
        for info in groups:
            if info["name"] != group.encode():
                continue
            joined = True
            pending += info["pending"]
            waiting += await _undelivered(redis, name, info)
    return FeedStatus(waiting if joined else None, pending)


async def _undelivered(redis: Redis, name: str, info: dict[str, Any]) -> int:
    """Redis 7 knows the lag of a group, mostly; Redis 6.2 does not."""
    if info.get("lag") is not None:
        return int(info["lag"])
    after = b"(" + info["last-delivered-id"]
    return len(await redis.xrange(name, after, "+", count=_COUNTED_AT_MOST) or ())
