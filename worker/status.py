"""What `status` tells: who works, what is behind, how many rows there are."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

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


async def take_status(
    redis: Redis, engine: AsyncEngine, keys: Keys, projection: Projection
) -> ProjectionStatus:
    """Ask both servers how a projection stands. Changes nothing."""
    reports = await Replicas(redis, keys, projection.name).all()
    sweep = await redis.get(keys.sweep_report(projection.name))
    versions, unreadable = await _count_rows(engine, projection)
    return ProjectionStatus(
        name=projection.name,
        version=projection.version,
        taken_at=time.time(),
        rows=sum(versions.values()),
        rows_of_other_versions=sum(n for version, n in versions.items() if version != projection.version),
        rows_by_version=dict(sorted(versions.items())),
        rebuild=await _rebuild_under_way(engine, projection),
        feed=await feed_backlog(redis, keys, projection.name),
        sweep=SweepReport.parse(sweep) if sweep else None,
        letters=await count_letters(engine, projection),
        diverged=await DivergedStreams(redis, keys, projection.name).count(),
        replicas=[report for report in reports if report.alive],
        unreadable=unreadable,
    )


async def _count_rows(engine: AsyncEngine, projection: Projection) -> tuple[dict[int, int], str]:
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
