"""The service: one projection's loop in one replica, from hints to acknowledgements."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial

import structlog

from worker.aftermath import Aftermath
from worker.blocked import BlockedStreams
from worker.deaths import Deaths
from worker.fault_points import Point, reach
from worker.feed import Feed
from worker.feed_upkeep import FeedUpkeep
from worker.handover import Handover
from worker.health import Health
from worker.hint import Hint
from worker.isolation import ProjectBatch
from worker.measures import Measures
from worker.outcome import StreamResult
from worker.pending import Pending, Work
from worker.projection import Projection
from worker.projector import Projector
from worker.replicas import ReplicaReport, Replicas
from worker.retry import Perseverance
from worker.sample import Sample
from worker.skim import Skims
from worker.sweep import Sweep
from worker.trouble import SERVER_ERRORS, describe
from worker.waiting import unless, wait_for, wait_for_any

log = structlog.get_logger("worker")

_HOUSEKEEPING_SECONDS = 5.0
_REPORT_SECONDS = 1.0
_LEASE_POLL_SECONDS = 1.0
_SWEEP_WITHOUT_HINTS_SECONDS = 1.0
_TICK_SECONDS = 0.25
_DUE_AT_ONCE = 1_000


@dataclass(frozen=True, slots=True)
class Pace:
    """How much and how often: the settings that the loop itself obeys."""

    hints_a_read: int
    sweep_period: timedelta
    claim_after: timedelta


class Service:
    """Reads hints, queues their streams, projects them in batches, acknowledges.

    Reading ahead, projecting and sweeping are tasks of their own that meet in `Pending`. One that dies stops
    the service with its error; a server that is away kills none of them.

    Killed between any two lines, the service loses nothing: rows and positions change together, hints that
    were not acknowledged stay in the group, and the sweep compares logs with rows. Two replicas that do the
    same work at once waste it: one of their writes loses its comparison.
    """

    def __init__(
        self, projection: Projection, consumer: str, feed: Feed, skims: Skims, upkeep: FeedUpkeep,
        handover: Handover, deaths: Deaths, pending: Pending, projector: Projector,
        project_batch: ProjectBatch, blocked: BlockedStreams, aftermath: Aftermath, sweep: Sweep,
        sample: Sample, replicas: Replicas, pace: Pace, persevere: Perseverance, health: Health,
        stop: asyncio.Event,
    ) -> None:  # fmt: skip
        self._projection = projection
        self._consumer = consumer
        self._feed = feed
        self._skims = skims
        self._upkeep = upkeep
        self._handover = handover
        self._pending = pending
        self._projector = projector
        self._project_batch = project_batch
        self._deaths = deaths
        self._blocked = blocked
        self._aftermath = aftermath
        self._sweep = sweep
        self._sample = sample
        self._replicas = replicas
        self._pace = pace
        self._persevere = persevere
        self._health = health
        self._stop = stop
        self._has_read = asyncio.Event()
        self._retired = asyncio.Event()
        self._all_done = asyncio.Event()
        self._joined = False
        self._started_at = time.time()

    async def run(self) -> None:
        """Work until ``stop`` is set, then finish what is in hand and hand over."""
        await self._persevere("joining the group", self._arrive)
        if not self._joined:
            return
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._hold_leases())
            tasks.create_task(self._read_hints())
            projecting = tasks.create_task(self._project_streams())
            tasks.create_task(self._sweep_logs())
            tasks.create_task(self._keep_house())
            tasks.create_task(self._report_progress())
            if self._sample.on:
                tasks.create_task(self._verify_rows())
            await self._stop.wait()
            self._pending.hurry()
            await asyncio.wait([projecting])
            self._all_done.set()
        await self._hand_over()

    async def _arrive(self) -> None:
        """Join for the first time, and count deaths before anything is taken on that may have caused them."""
        await self._deaths.count_own()
        await self._join()
        await self._deaths.count_at_once()

    async def _join(self) -> None:
        """Join the group, and get to know which partitions are ours before the first of them is read."""
        await self._feed.join()
        await self._handover.tick()
        self._joined = True

    async def _hold_leases(self) -> None:
        """Hold a fair share of the partitions until the stop, and be alive for the others to the end."""
        while not await wait_for(self._stop, _TICK_SECONDS):
            await self._persevere("renewing leases", self._handover.tick)
        alive = await self._persevere("giving up partitions", self._handover.retire)
        self._retired.set()
        while alive and not await wait_for(self._all_done, _TICK_SECONDS):
            alive = await self._persevere("renewing leases", self._handover.tick)

    async def _read_hints(self) -> None:
        while not self._stop.is_set():
            await self._pending.room()
            news = self._feed.reads_news
            if hints := await self._persevere("reading hints", self._next_hints):
                reach(Point.HINTS_READ)
                log.debug("hints_read", projection=self._projection.name, hints=len(hints))
                await self._take_in(hints)
            if news:
                self._has_read.set()
        await self._retired.wait()
        self._pending.close()

    async def _project_streams(self) -> None:
        while works := await self._pending.take():
            streams = [work.stream_id for work in works]
            results = await self._persevere("projecting", partial(self._project_batch, streams))
            await self._settle(works, results or {})

    async def _sweep_logs(self) -> None:
        period = self._pace.sweep_period.total_seconds()
        # What hints tell is pending then, and need not be looked for.
        await wait_for_any([self._has_read, self._stop], _SWEEP_WITHOUT_HINTS_SECONDS)
        while not self._stop.is_set():
            if self._handover.stands_back:  # What is to be swept, a newer version knows better.
                swept = None
                await self._persevere("handing over the sweep", self._sweep.release_lease)
            else:
                swept = await self._persevere("sweeping", self._sweep.run_once, at_leisure=True)
            # Who does not hold the lease asks often, to take over soon from a replica that died.
            await self._sweep.pause(period if swept else min(period, _LEASE_POLL_SECONDS))

    async def _keep_house(self) -> None:
        # Often enough for a short claim_after, yet never in a busy loop.
        pause = min(_HOUSEKEEPING_SECONDS, max(self._pace.claim_after.total_seconds(), 0.5))
        while not self._stop.is_set():
            self._handover.replicas_changed.clear()
            await self._persevere("counting deaths", self._deaths.count)
            await self._inherit_hints()
            abandoned = partial(self._upkeep.claim_abandoned, self._pace.claim_after)
            if hints := await self._persevere("claiming abandoned hints", abandoned):
                await self._take_in(hints)
            await self._persevere("trimming the feed", self._upkeep.trim)
            await self._persevere("forgetting dead replicas", self._replicas.remove_silent)
            await self._persevere("looking after blocked streams", self._look_after_blocked)
            await wait_for_any([self._stop, self._handover.replicas_changed], pause)

    async def _verify_rows(self) -> None:
        while not await wait_for(self._stop, self._sample.pause_seconds):
            await self._persevere("verifying", self._verify_some, at_leisure=True)

    async def _verify_some(self) -> None:
        """A stop is not held up by a row that must be looked at again, nor by a long log."""
        await unless(self._stop, self._sample.check())

    async def _inherit_hints(self) -> None:
        """Take over what dead replicas had in hand in our partitions, as there is room for it."""
        while hints := await self._persevere("taking over from dead replicas", self._upkeep.inherit):
            await self._take_in(hints)
            await self._pending.room()

    async def _look_after_blocked(self) -> None:
        """Queue the blocked streams that are to be tried again; settle letters that are out of date."""
        await self._blocked.settle_stale()
        for stream_id in await self._blocked.due(_DUE_AT_ONCE):
            if not self._projection.streams.covers(stream_id):
                continue
            if self._feed.reads(stream_id):  # else another replica tries it
                self._pending.add_swept(stream_id)

    async def _next_hints(self) -> list[Hint]:
        """The next hints. After any error the group is joined again, and own pending hints come first."""
        if not self._joined:
            await self._join()
        try:
            hints = await self._feed.read(self._pace.hints_a_read)
            return [*hints, *await self._skims.begin()]
        except SERVER_ERRORS:
            self._joined = False
            raise

    async def _take_in(self, hints: Sequence[Hint]) -> None:
        """Queue the hinted streams. Hints of other types, or at streams left out, are done with at once."""
        types, covers = self._projection.types, self._projection.streams.covers
        projected = [h for h in hints if (not h.type or h.type in types) and covers(h.stream_id)]
        taken = set(map(id, projected))
        others = [hint for hint in hints if id(hint) not in taken]
        backlog = len(hints) >= self._pace.hints_a_read
        checkpoint = any(hint.type in self._projection.checkpoints for hint in projected)
        self._pending.add_hints(projected, flush=backlog or checkpoint)
        if others:
            await self._persevere("acknowledging", partial(self._acknowledge, others))

    async def _settle(self, works: Sequence[Work], results: dict[str, StreamResult]) -> None:
        """Acknowledge what is done, and queue again what is not. Called after the commit.

        A stream without a result was given up at a stop: its hints stay pending for other replicas. Dying
        before the acknowledgement leaves the hints to another replica, which finds nothing to do.
        """
        reach(Point.PROJECTED)
        await self._persevere("noting results", partial(self._aftermath.note, results))
        done = [w for w in works if self._aftermath.is_final(w.stream_id, results.get(w.stream_id))]
        hints = [hint for work in done for hint in work.hints]
        await self._persevere("acknowledging", partial(self._acknowledge, hints))
        await self._put_off(works, results)
        reach(Point.ACKNOWLEDGED)
        for work in works:
            result = results.get(work.stream_id)
            again = result is not None and not self._aftermath.is_final(work.stream_id, result)
            rest_seconds = self._aftermath.rest_seconds(work.stream_id, result)
            self._pending.finish(work, again=again, rest_seconds=rest_seconds)

    async def _acknowledge(self, hints: Sequence[Hint]) -> None:
        await self._feed.acknowledge(hint for hint in hints if not hint.skimmed)
        await self._skims.settle(hint for hint in hints if hint.skimmed)

    async def _put_off(self, works: Sequence[Work], results: Mapping[str, StreamResult]) -> None:
        """A stream that is not done must not hold up the feed, which is not read while it is skimmed."""
        going_on = {s for s, result in results.items() if not self._aftermath.is_final(s, result)}
        if hints := [h for work in works if work.stream_id in going_on for h in work.hints if h.skimmed]:
            await self._persevere("hinting again", partial(self._skims.put_off, hints))

    async def _report_progress(self) -> None:
        while not await wait_for(self._stop, _REPORT_SECONDS):
            await self._persevere("reporting", partial(self._replicas.report, self.report()))

    @property
    def progress(self) -> dict[str, int]:
        """What it has done since it started, and how many streams are in hand."""
        return {**asdict(self._projector.tally), "pending_streams": len(self._pending)}

    @property
    def measures(self) -> Measures:
        """What its projecting has measured."""
        return self._projector.measures

    @property
    def sweep_streams_found(self) -> int:
        """How often its sweeps found a stream behind that nothing else had told of."""
        return self._sweep.streams_found

    def report(self) -> ReplicaReport:
        """What it tells of itself at this moment."""
        return ReplicaReport(
            consumer=self._consumer,
            version=self._projection.version,
            partitions=sorted(self._handover.tenure.partitions),
            started_at=self._started_at,
            reported_at=time.time(),
            hints_in_hand=self._pending.hints_in_hand,
            untyped_entries_swept=self._sweep.untyped_entries,
            malformed_hints=self._feed.malformed,
            rows_verified=self._sample.rows_verified,
            rows_drifted=self._sample.rows_drifted,
            troubles=[str(problem) for problem in self._health.problems(self._projection.name)],
            **self.progress,
        )

    async def _hand_over(self) -> None:
        """Let the other replicas go on at once. What fails here only costs them a little time."""
        try:
            await self._sweep.release_lease()
            await self._replicas.remove([self._consumer])
            await self._handover.leave()
            await self._feed.leave()
        except SERVER_ERRORS as error:
            log.warning("handover_failed", error=describe(error))
