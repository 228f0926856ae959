"""A replica that sweeps and projects what it finds, step by step."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta

from tests.projecting import Replica
from worker.diverged import DivergedStreams
from worker.outcome import Outcome
from worker.pending import Pending
from worker.sweep import Sweep, SweepReport

AGAIN = (Outcome.MORE, Outcome.LOST)


@dataclass
class SweepingReplica(Replica):
    """A replica that does what its service would do, but only when it is told to."""

    consumer: str = "consumer"
    period: timedelta = timedelta(seconds=60)
    batch_streams: int = 100
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    pending: Pending = field(init=False)
    sweeper: Sweep = field(init=False)
    diverged: DivergedStreams = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.pending = Pending(batch_streams=self.batch_streams, linger=timedelta(0), max_hints=1000)
        self.diverged = DivergedStreams(self.redis, self.keys, self.projection.name)
        self.sweeper = Sweep(
            self.redis,
            self.keys,
            self.logs,
            self.store,
            self.cache,
            self.pending,
            self.diverged,
            projection=self.projection,
            consumer=self.consumer,
            period=self.period,
            stop=self.stop,
        )

    async def sweep(self) -> tuple[SweepReport, set[str]]:
        """One sweep, which must have the lease; its report, and the streams that it queued."""
        report = await self.sweeper.run_once()
        assert report is not None
        return report, await self.project_queued()

    async def project_queued(self) -> set[str]:
        """Project what is queued, to the end of each log, and tell the sweep; which streams those were."""
        queued: set[str] = set()
        while len(self.pending):
            works = await self.pending.take()
            streams = [work.stream_id for work in works]
            results = await self.projector.project_batch(streams)
            for work in works:
                result = results[work.stream_id]
                self.sweeper.note(work.stream_id, result)
                if result.outcome is Outcome.DIVERGED:
                    await self.diverged.add(work.stream_id, str(result.read_to))
                else:
                    await self.diverged.remove(work.stream_id)
                self.pending.finish(work, again=result.outcome in AGAIN)
            queued.update(streams)
        return queued
