"""The service: one projection's loop in one replica, from hints to acknowledgements."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial
from typing import assert_never

import structlog

from worker.blocked import BlockedStreams
from worker.feed import Feed
from worker.feed_upkeep import FeedUpkeep
from worker.handover import Handover
from worker.hint import Hint
from worker.pending import Pending, Work
from worker.projection import Projection
from worker.projector import Outcome, Projector, StreamResult
from worker.replicas import ReplicaReport, Replicas
from worker.retry import SERVER_ERRORS, Perseverance
from worker.sweep import Sweep
from worker.waiting import wait_for, wait_for_any

log = structlog.get_logger(__name__)

_HOUSEKEEPING_SECONDS = 5.0
_REPORT_SECONDS = 1.0
_LEASE_POLL_SECONDS = 1.0
_TICK_SECONDS = 0.25
_REPORTS_A_LAG_LINE = 60


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
        self, projection: Projection, consumer: str, feed: Feed, upkeep: FeedUpkeep, handover: Handover,
        pending: Pending, projector: Projector,
        sweep: Sweep, replicas: Replicas, pace: Pace, stop: asyncio.Event,
    ) -> None:  # fmt: skip
        self._projection = projection
        self._consumer = consumer
        self._feed = feed
        self._upkeep = upkeep
        self._handover = handover
        self._pending = pending
        self._projector = projector
        self._sweep = sweep
        self._replicas = replicas
        self._pace = pace
        self._stop = stop
        self._persevere = Perseverance(stop)
        self._blocked = BlockedStreams()
        self._retired = asyncio.Event()
        self._all_done = asyncio.Event()
        self._joined = False
        self._started_at = time.time()

    async def run(self) -> None:
        """Work until ``stop`` is set, then finish what is in hand and hand over."""
        if not await self._persevere("joining the group", self._join):
            return
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._hold_leases())
            tasks.create_task(self._read_hints())
            projecting = tasks.create_task(self._project_streams())
            tasks.create_task(self._sweep_logs())
            tasks.create_task(self._keep_house())
            tasks.create_task(self._report_progress())
            await self._stop.wait()
            self._pending.hurry()
            await asyncio.wait([projecting])
            self._all_done.set()
        await self._hand_over()

    async def _join(self) -> bool:
        """Join the group, and get to know which partitions are ours before the first of them is read."""
        await self._feed.join()
        await self._handover.tick()
        self._joined = True
        return True

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
            if hints := await self._persevere("reading hints", self._next_hints):
                await self._take_in(hints)
        await self._retired.wait()
        self._pending.close()

    async def _project_streams(self) -> None:
        while works := await self._pending.take():
            resting = {work.stream_id for work in works if self._blocked.resting(work.stream_id)}
            due = [work.stream_id for work in works if work.stream_id not in resting]
            results = await self._persevere("projecting", partial(self._projector.project_batch, due))
            await self._settle(works, results or {}, resting)

    async def _sweep_logs(self) -> None:
        period = self._pace.sweep_period.total_seconds()
        while not self._stop.is_set():
            swept = await self._persevere("sweeping", self._sweep.run_once)
            # Who does not hold the lease asks often, to take over soon from a replica that died.
            await self._sweep.pause(period if swept else min(period, _LEASE_POLL_SECONDS))

    async def _keep_house(self) -> None:
        # Often enough for a short claim_after, yet never in a busy loop.
        pause = min(_HOUSEKEEPING_SECONDS, max(self._pace.claim_after.total_seconds(), 0.5))
        while not self._stop.is_set():
            self._handover.replicas_changed.clear()
            await self._inherit_hints()
            abandoned = partial(self._upkeep.claim_abandoned, self._pace.claim_after)
            if hints := await self._persevere("claiming abandoned hints", abandoned):
                await self._take_in(hints)
            await self._persevere("trimming the feed", self._upkeep.trim)
            await self._persevere("forgetting dead replicas", self._replicas.remove_silent)
            await wait_for_any([self._stop, self._handover.replicas_changed], pause)

    async def _inherit_hints(self) -> None:
        """Take over what dead replicas had in hand in our partitions, as there is room for it."""
        while hints := await self._persevere("taking over from dead replicas", self._upkeep.inherit):
            await self._take_in(hints)
            await self._pending.room()

    async def _next_hints(self) -> list[Hint]:
        """The next hints. After any error the group is joined again, and own pending hints come first."""
        if not self._joined:
            await self._join()
        try:
            return await self._feed.read(self._pace.hints_a_read)
        except SERVER_ERRORS:
            self._joined = False
            raise

    async def _take_in(self, hints: Sequence[Hint]) -> None:
        """Queue the hinted streams. Hints of types that are not projected are done with at once."""
        others = [hint for hint in hints if hint.type and hint.type not in self._projection.types]
        projected = [hint for hint in hints if not hint.type or hint.type in self._projection.types]
        backlog = len(hints) >= self._pace.hints_a_read
        checkpoint = any(hint.type in self._projection.checkpoints for hint in projected)
        self._pending.add_hints(projected, flush=backlog or checkpoint)
        if others:
            await self._persevere("acknowledging", partial(self._feed.acknowledge, others))

    async def _settle(
        self, works: Sequence[Work], results: dict[str, StreamResult], resting: set[str]
    ) -> None:
        """Acknowledge what is done, and queue again what is not. Called after the commit.

        A stream without a result was given up at a stop: its hints stay pending for other replicas. Dying
        before the acknowledgement leaves the hints to another replica, which finds nothing to do.
        """
        done: list[Work] = []
        for work in works:
            result = results.get(work.stream_id)
            if result is not None:
                self._note(work.stream_id, result)
            if work.stream_id in resting or (result is not None and result.outcome in _FINAL):
                done.append(work)
            else:
                self._pending.finish(work, again=result is not None and result.outcome in _AGAIN)
        hints = [hint for work in done for hint in work.hints]
        await self._persevere("acknowledging", partial(self._feed.acknowledge, hints))
        for work in done:
            self._pending.finish(work)

    def _note(self, stream_id: str, result: StreamResult) -> None:
        self._sweep.note(stream_id, result)
        match result.outcome:
            case Outcome.BLOCKED:
                self._blocked.add(stream_id)
            case Outcome.CAUGHT_UP | Outcome.MORE:
                self._blocked.remove(stream_id)
            case Outcome.LOST | Outcome.DIVERGED | Outcome.OTHER_VERSION | Outcome.UNREADABLE:
                pass
            case _:
                assert_never(result.outcome)

    async def _report_progress(self) -> None:
        reports = 0
        while not await wait_for(self._stop, _REPORT_SECONDS):
            report = self._report()
            await self._persevere("reporting", partial(self._replicas.report, report))
            if reports % _REPORTS_A_LAG_LINE == 0:
                log.info("progress", **asdict(self._projector.tally), pending_streams=report.pending_streams)
            reports += 1

    def _report(self) -> ReplicaReport:
        return ReplicaReport(
            consumer=self._consumer,
            version=self._projection.version,
            partitions=sorted(self._handover.tenure.partitions),
            started_at=self._started_at,
            reported_at=time.time(),
            pending_streams=len(self._pending),
            hints_in_hand=self._pending.hints_in_hand,
            blocked_streams=len(self._blocked),
            **asdict(self._projector.tally),
        )

    async def _hand_over(self) -> None:
        """Let the other replicas go on at once. What fails here only costs them a little time."""
        try:
            await self._sweep.release_lease()
            await self._replicas.remove([self._consumer])
            await self._handover.leave()
            await self._feed.leave()
        except SERVER_ERRORS as error:
            log.warning("handover_failed", error=str(error))


_FINAL = frozenset({Outcome.CAUGHT_UP, Outcome.BLOCKED, Outcome.DIVERGED, Outcome.UNREADABLE})
"""Outcomes after which a stream's hints are acknowledged: trying again would do nothing."""

_AGAIN = frozenset({Outcome.MORE, Outcome.LOST})
"""Outcomes after which a stream is taken again at once. Hints of any other stay, for another replica."""
