"""What `status` tells: who works, what is behind, how many rows there are."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from redis.asyncio import Redis
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from worker.campaign import CampaignProgress, Campaigns
from worker.dead_letters import LetterCounts, count_letters
from worker.diverged import DivergedStreams
from worker.feed_backlog import FeedBacklog, feed_backlog
from worker.keys import Keys
from worker.projection import Projection
from worker.replicas import ReplicaReport, Replicas
from worker.store import Store
from worker.sweep import SweepReport
from worker.trouble import Trouble, classify, sentence


@dataclass(frozen=True, slots=True)
class ProjectionStatus:
    """One projection. ``sweep`` is the last finished one, None if none was lately. Times are Unix seconds.

    ``rows_by_version`` counts rows by the version that they were folded with, 0 for those that somebody else
    made. ``rebuild`` is the one under way, None if there is none. ``unreadable`` says why the rows could not
    be counted, as where the table is missing; empty if they could.
    """

    name: str
    version: int
    taken_at: float
    rows: int
    rows_of_other_versions: int
    rows_by_version: dict[int, int]
    rebuild: CampaignProgress | None
    feed: FeedBacklog
    sweep: SweepReport | None
    letters: LetterCounts
    diverged: int
    replicas: list[ReplicaReport] = field(default_factory=list)
    unreadable: str = ""

    @property
    def fine(self) -> bool:
        """Whether its rows can be read, a replica works on it, and none is in trouble."""
        return not self.unreadable and bool(self.replicas) and all(replica.ready for replica in self.replicas)

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


@dataclass(frozen=True, slots=True)
class InRedis:
    """What Redis tells of a projection."""

    replicas: list[ReplicaReport]
    sweep: SweepReport | None
    feed: FeedBacklog
    diverged: int


@dataclass(frozen=True, slots=True)
class InDatabase:
    """What PostgreSQL tells of a projection; see `ProjectionStatus`."""

    rows_by_version: dict[int, int]
    rebuild: CampaignProgress | None
    letters: LetterCounts
    unreadable: str = ""


async def take_status(
    redis: Redis, engine: AsyncEngine, keys: Keys, projection: Projection
) -> ProjectionStatus:
    """Ask both servers how a projection stands. Changes nothing."""
    versions, unreadable = await count_rows(engine, projection)
    in_database = await look_into_database(engine, projection, versions, unreadable)
    return make_status(projection, await look_into_redis(redis, keys, projection), in_database)


async def look_into_redis(redis: Redis, keys: Keys, projection: Projection) -> InRedis:
    """Ask Redis alone."""
    reports = await Replicas(redis, keys, projection.name).all()
    sweep = await redis.get(keys.sweep_report(projection.name))
    return InRedis(
        replicas=[report for report in reports if report.alive],
        sweep=SweepReport.parse(sweep) if sweep else None,
        feed=await feed_backlog(redis, keys, projection.name),
        diverged=await DivergedStreams(redis, keys, projection.name).count(),
    )


async def look_into_database(
    engine: AsyncEngine, projection: Projection, rows_by_version: dict[int, int], unreadable: str = ""
) -> InDatabase:
    """Ask PostgreSQL alone, but for the rows: to count them takes long where there are many."""
    rebuild = await _rebuild_under_way(engine, projection)
    return InDatabase(rows_by_version, rebuild, await count_letters(engine, projection), unreadable)


def make_status(projection: Projection, in_redis: InRedis, in_database: InDatabase) -> ProjectionStatus:
    """Put together what both servers have told."""
    versions = in_database.rows_by_version
    return ProjectionStatus(
        name=projection.name,
        version=projection.version,
        taken_at=time.time(),
        rows=sum(versions.values()),
        rows_of_other_versions=sum(n for version, n in versions.items() if version != projection.version),
        rows_by_version=dict(sorted(versions.items())),
        rebuild=in_database.rebuild,
        feed=in_redis.feed,
        sweep=in_redis.sweep,
        letters=in_database.letters,
        diverged=in_redis.diverged,
        replicas=in_redis.replicas,
        unreadable=in_database.unreadable,
    )


def as_dict(status: ProjectionStatus, rate: float | None = None) -> dict[str, Any]:
    """A status as JSON, with what is computed from it; ``rate`` is in events a second."""
    return {
        **asdict(status),
        "rebuild": asdict(status.rebuild) | {"seconds_left": status.rebuild.seconds_left}
        if status.rebuild
        else None,
        "lag_seconds": status.lag_seconds,
        "events_applied": status.events_applied,
        "events_per_second": rate,
    }


def events_per_second(
    before: Sequence[ReplicaReport], after: Sequence[ReplicaReport], seconds: float
) -> float | None:
    """Events applied a second between two looks, by the replicas that both know; None after no time."""
    if seconds <= 0:
        return None
    then = {replica.consumer: replica.events_applied for replica in before}
    applied = sum(r.events_applied - then.get(r.consumer, 0) for r in after)
    return round(max(0, applied) / seconds, 1)


async def count_rows(engine: AsyncEngine, projection: Projection) -> tuple[dict[int, int], str]:
    """Rows by version; or why they cannot be counted, which is to keep nobody from looking at the others."""
    try:
        return await Store(engine, projection).count_rows(), ""
    except DBAPIError as error:
        if classify(error) is not Trouble.MISCONFIGURED:
            raise
        return {}, sentence(error)


async def _rebuild_under_way(engine: AsyncEngine, projection: Projection) -> CampaignProgress | None:
    campaigns = Campaigns(engine, projection.name)
    campaign = await campaigns.unfinished()
    return await campaigns.progress(campaign.id) if campaign else None
