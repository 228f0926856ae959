"""The sweep: compares logs with rows, so that no event depends on its hint.

Hints get lost: producers that write none, failovers, a deleted group, a capped feed. One replica sweeps at a
time, under a lease that only saves work; two that sweep at once do no harm.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, fields
from datetime import timedelta

import orjson
import structlog
from redis.asyncio import Redis

from worker.cache import RowCache
from worker.diverged import DivergedStreams
from worker.events import EventId, is_event_id, parse_stream_id
from worker.handover import Handover
from worker.keys import Keys
from worker.log import Finding, Log, PageRequest
from worker.log_scan import NO_STREAM, LogScan
from worker.outcome import Outcome, StreamResult
from worker.pending import Pending
from worker.projection import Projection
from worker.settled import Settled
from worker.store import Store
from worker.sweep_lease import SweepLease
from worker.unusable import UnusableKeys
from worker.waiting import wait_for_any

log = structlog.get_logger("sweep")

_STEP_KEYS = 1_000
_STEP_ROWS = 500
_ROWS_A_SWEEP = 5_000
_LOOK_AGAIN_AFTER = timedelta(minutes=10)
_REPORT_LIVES = timedelta(minutes=10)


@dataclass(slots=True)
class SweepReport:
    """What one sweep found: logs seen, logs with news, rows without a log, and keys that can have no row.

    ``oldest_behind_ms`` is the time, in Unix milliseconds, of the oldest event found that awaited projection.
    """

    streams: int = 0
    behind: int = 0
    vanished: int = 0
    unusable_keys: int = 0
    oldest_behind_ms: int | None = None
    seconds: float = 0.0
    finished_at: float = 0.0

    @classmethod
    def parse(cls, stored: bytes | str) -> SweepReport | None:
        """A report as it is stored; None if it is none, or if another version of the worker wrote it."""
        try:
            values = orjson.loads(stored)
        except orjson.JSONDecodeError:
            return None
        known = {field.name for field in fields(cls)}
        return cls(**values) if isinstance(values, dict) and values.keys() == known else None


class Sweep:
    """Finds streams whose log is ahead of their row and queues them, behind those with hints.

    Streams whose hints another replica reads are left to it at first, by a hint: two that project the same
    stream at the same time waste work.

    It remembers for each stream up to which entry nothing is left to do, and passes over it while its log
    still ends there: most logs end in entries that are not projected, so their last id alone says little.
    The memory is dropped now and then, so that a row that was deleted or changed by hand is noticed, too.

    ``untyped_entries`` counts entries without a type that it passed over, ``streams_found`` how often a
    stream was behind its log that was not pending here.
    """

    def __init__(
        self, redis: Redis, keys: Keys, logs: Log, store: Store, cache: RowCache, pending: Pending,
        diverged: DivergedStreams, handover: Handover | None = None, *, projection: Projection, consumer: str,
        period: timedelta, stop: asyncio.Event,
    ) -> None:  # fmt: skip
        self.untyped_entries = 0
        self.streams_found = 0
        self._redis = redis
        self._keys = keys
        self._logs = logs
        self._scan = LogScan(redis, keys, projection.streams)
        self._store = store
        self._cache = cache
        self._pending = pending
        self._diverged = diverged
        self._projection = projection.name
        self._covers = projection.streams.covers
        self._stop = stop
        self._handover = handover
        self._requested = asyncio.Event()
        self._lease = SweepLease(redis, keys.sweep_lease(projection.name), consumer, period)
        self._settled = Settled()
        self._queued: dict[str, str | None] = {}
        self._passed_on: dict[str, str | None] = {}
        self._know_rows = False
        self._unusable = UnusableKeys()
        self._forget_at = 0.0
        self._rows_seen_to = ""

    def note(self, stream_id: str, result: StreamResult) -> None:
        """Learn where a pass has left a stream, whoever had queued it."""
        queued_at = self._queued.pop(stream_id, None)
        match result.outcome:
            case Outcome.CAUGHT_UP:
                self._settled.put(stream_id, result.read_to)
            case Outcome.BLOCKED | Outcome.DIVERGED | Outcome.NEWER_VERSION | Outcome.UNREADABLE:
                self._settled.put(stream_id, queued_at)  # Nothing to do until the log ends elsewhere.
            case Outcome.MORE | Outcome.LOST | Outcome.REFUSED:
                pass

    def request(self) -> None:
        """Have the next sweep come at once, whoever has the lease: hints may have been lost."""
        self._requested.set()

    async def pause(self, seconds: float) -> None:
        """Wait for so long, but no longer than until a sweep is requested or the worker stops."""
        await wait_for_any([self._requested, self._stop], seconds)

    async def release_lease(self) -> None:
        """Let another replica sweep at once."""
        await self._lease.release()

    async def run_once(self) -> SweepReport | None:
        """Sweep all logs and a share of the rows; None when another replica has the lease, or at a stop."""
        requested = self._requested.is_set()
        if not await self._lease.hold() and not requested:
            return None
        self._requested.clear()
        if requested:
            self._passed_on.clear()
        swept = False
        try:
            report = await self._sweep(requested=requested)
            swept = True
        finally:
            if requested and not swept:
                self._requested.set()
        return report

    async def _sweep(self, *, requested: bool) -> SweepReport | None:
        started = time.monotonic()
        if started >= self._forget_at:
            self._settled.clear()
            self._passed_on.clear()
            self._know_rows = False
            self._forget_at = started + _LOOK_AGAIN_AFTER.total_seconds()
        report = SweepReport()
        self._unusable.start_of_sweep()
        async with aclosing(self._scan.scan_ends(_STEP_KEYS)) as steps:
            async for ends in steps:
                if self._stop.is_set() or not (await self._lease.keep() or requested):
                    return None
                report.streams += len(ends)
                await self._look_at_logs(self._moved(self._settled.others(ends), report), report)
        if not self._know_rows:
            await self._look_at_diverged()
        self._know_rows = True
        report.unusable_keys = self._unusable.end_of_sweep()
        report.vanished = await self._look_at_rows()
        await self._withdraw_abandoned()
        report.seconds = time.monotonic() - started
        report.finished_at = time.time()
        name = self._keys.sweep_report(self._projection)
        await self._redis.set(name, orjson.dumps(report), px=_REPORT_LIVES)
        log.debug("swept", projection=self._projection, **asdict(report))
        return report

    def _moved(self, ends: Mapping[bytes, bytes], report: SweepReport) -> dict[str, str]:
        """Where these logs end, without those that are empty; keys that can never be projected are noted."""
        moved: dict[str, str] = {}
        for raw, end in ends.items():
            stream_id = parse_stream_id(raw)
            if stream_id is None or end == NO_STREAM.encode():
                self._unusable.add([self._keys.log_prefix.encode() + raw])
                report.streams -= 1
            elif end:
                moved[stream_id] = end.decode()
        return moved

    async def _look_at_logs(self, moved: dict[str, str], report: SweepReport) -> None:
        """Queue those of these streams that have news."""
        # What waits to be projected is behind for sure; since when, its hint tells, if there is one.
        waiting = [s for s in moved if s in self._pending and s not in self._queued]
        report.behind += len(waiting)
        for stream_id in waiting:
            del moved[stream_id]
        if not moved:
            return
        starts = await self._starts(moved)
        findings = await self._logs.find_projected([PageRequest(s, start) for s, start in starts.items()])
        for finding in await self._without_old_news(findings, starts):
            if not finding.news:
                self.untyped_entries += finding.untyped
                self._settled.put(finding.stream_id, finding.read_to)
                continue
            report.behind += 1
            self.streams_found += 1
            if finding.oldest is not None:
                oldest = EventId.parse(finding.oldest).ms
                known = report.oldest_behind_ms
                report.oldest_behind_ms = oldest if known is None else min(known, oldest)
            await self._queue(finding.stream_id, moved[finding.stream_id])

    async def _starts(self, moved: dict[str, str]) -> dict[str, str | None]:
        """From where each log must be looked through: what was settled before, else its row's position.

        Rows are asked for in the first sweep only. A stream that turns up later is new, and whether its log
        holds anything to project is told by the log alone, without a query.
        """
        starts = {stream_id: self._settled.get(stream_id) for stream_id in moved}
        if not self._know_rows:
            unknown = [stream_id for stream_id, start in starts.items() if start is None]
            starts.update(await self._positions(unknown))
        return starts

    async def _without_old_news(
        self, findings: Sequence[Finding], starts: dict[str, str | None]
    ) -> list[Finding]:
        """The findings, those with news looked at again from where their rows stand now.

        Other replicas have projected most of what this one has not.
        """
        news = [finding.stream_id for finding in findings if finding.news]
        positions = await self._positions(news) if news else {}
        again = [PageRequest(s, p) for s, p in positions.items() if p is not None and p != starts[s]]
        later = {finding.stream_id: finding for finding in await self._logs.find_projected(again)}
        return [later.get(finding.stream_id, finding) for finding in findings]

    async def _positions(self, stream_ids: Sequence[str]) -> dict[str, str | None]:
        """The position of every stream that has a row; None also where it is no event id, and so diverged."""
        positions = await self._store.positions(stream_ids)
        return {
            s: position if position and is_event_id(position) else None for s, position in positions.items()
        }

    async def _look_at_diverged(self) -> None:
        """Queue all diverged streams: some may have been mended, or deleted with their rows."""
        async for stream_id in self._diverged.all():
            if not self._covers(stream_id):
                continue
            await self._queue(stream_id, self._settled.get(stream_id))

    async def _look_at_rows(self) -> int:
        """Queue those of some rows whose log has vanished, or ends before them; how many have vanished.

        Goes on where the last sweep stopped. A log that lost its tail in a failover may end where this
        replica had settled it, before another projected what is lost: nothing but the row tells of it then.
        """
        vanished = 0
        for _ in range(_ROWS_A_SWEEP // _STEP_ROWS):
            positions = await self._store.positions_after(self._rows_seen_to, _STEP_ROWS)
            stream_ids = list(positions)
            last_ids = await self._scan.last_ids(stream_ids) if stream_ids else []
            for stream_id, last_id in zip(stream_ids, last_ids, strict=True):
                if not self._covers(stream_id):
                    continue
                if last_id is None or last_id == NO_STREAM:
                    vanished += 1
                    if stream_id not in self._settled or self._settled.get(stream_id) is not None:
                        await self._queue(stream_id, None)
                elif self._is_beyond(stream_id, positions[stream_id], last_id):
                    await self._queue(stream_id, last_id)
            self._rows_seen_to = stream_ids[-1] if len(stream_ids) == _STEP_ROWS else ""
            if not self._rows_seen_to:
                break
        return vanished

    def _is_beyond(self, stream_id: str, position: str, last_id: str) -> bool:
        """Whether a row, read before its log, stands at what the log has no more, and nobody has noticed."""
        if position == last_id or self._diverged.knows(stream_id, position) or not is_event_id(position):
            return False
        return EventId.parse(position) > EventId.parse(last_id)

    async def _queue(self, stream_id: str, last_id: str | None) -> None:
        """Have a stream projected by the replica that reads its hints, and may be at it; else here.

        Here, too, if the next sweep finds that it did not get on: a sweep relies on nobody.
        """
        elsewhere = self._handover is not None and not self._handover.reads(stream_id)
        if self._handover and elsewhere and self._passed_on.get(stream_id, "") != last_id:
            self._passed_on[stream_id] = last_id
            await self._handover.hint([stream_id])
            return
        await self._pending.swept_room()
        self._queued[stream_id] = last_id
        self._cache.pop(stream_id)  # What is remembered of the row may be why it is behind.
        self._pending.add_swept(stream_id)

    async def _withdraw_abandoned(self) -> None:
        """Withdraw the facts of deleted conversations: those without a row, and with nothing to project.

        A straggler may have written another entry to a log that was deleted, such as a token delta.
        """
        abandoned = await self._store.abandoned(_STEP_ROWS)
        findings = await self._logs.find_projected([PageRequest(s, None) for s in abandoned])
        gone = [f.stream_id for f in findings if not f.news or not self._covers(f.stream_id)]
        if gone:
            await self._store.withdraw(gone)
            log.info("deleted_streams_withdrawn", streams=len(gone))
