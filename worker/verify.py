"""Verify: are the rows of a table in use what their logs say? Nothing here writes.

A look takes one snapshot of rows, facts and skips, and folds each log up to exactly its row's position:
however far the row lags behind, or moves meanwhile, the two belong together. What appends to logs changes
nothing before the position; whoever undoes, deletes or rebuilds does. So a stream that seems wrong is looked
at again, from a new snapshot, and is reported only if it stays wrong.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from time import monotonic

from sqlalchemy.ext.asyncio import AsyncEngine

from worker.application import check_stream_ids, log_of_application
from worker.cluster_client import AnyRedis
from worker.events import EventId
from worker.finding import Finding, Obstacle, examine, of_other_version, without_row
from worker.folds import folds_at_positions
from worker.keys import Keys
from worker.log import MAX_PAYLOAD_MEGABYTES, Log, PageRequest
from worker.origin import explain
from worker.projection import Projection
from worker.snapshot import Snapshots
from worker.store import Store
from worker.table import Stamp

STREAMS_A_LOOK = 50
"""About how many streams one look should take: their rows are in memory together."""

PATIENCE = timedelta(seconds=8)
"""How long a row may be missing, or its log be cut, before that counts: some sweeps must have passed."""

_LOOKS_AGAIN = 2
_LOOKS_AT_BUSY = 12
_BUSY = "Its row or its log was replaced again and again meanwhile."
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 1.0
_KEYS = Keys()

_ASTRAY = (Obstacle.GONE, Obstacle.DIVERGED)

Pause = Callable[[float], Awaitable[object]]
"""Waits for so many seconds."""


@dataclass(slots=True)
class _Suspect:
    """A stream that seems wrong: looked at again since when, and how often.

    ``seen`` of these looks, from ``since`` on, saw one and the same row be wrong: what was seen of a row
    before it was folded anew, or deleted, proves nothing any more.
    """

    begun: float
    looks: int = 0
    since: float = 0.0
    seen: int = 0
    row: Stamp | int | str | None = None

    def take(self, finding: Finding, now: float) -> None:
        """Take another look in."""
        row = self._row(finding)
        if finding.obstacle is Obstacle.BUSY or row != self.row or not self.seen:
            self.since, self.seen = now, 0
        self.row = row
        self.looks += 1
        self.seen += finding.obstacle is not Obstacle.BUSY

    @staticmethod
    def _row(finding: Finding) -> Stamp | int | str | None:
        """What one and the same row is told by. It may move on, unless it does not belong to its log.

        One that is missing is told by the first event of its log, which may be deleted and begun anew.
        """
        if finding.stamp is None:
            return finding.missing
        return finding.stamp if finding.obstacle in _ASTRAY else finding.stamp.generation


class Verifier:
    """Verifies streams of one projection."""

    def __init__(
        self,
        logs: Log,
        engine: AsyncEngine,
        projection: Projection,
        *,
        patience: timedelta = PATIENCE,
        pause: Pause = asyncio.sleep,
    ) -> None:
        self._logs = logs
        self._projection = projection
        self._store = Store(engine, projection)
        self._snapshots = Snapshots(engine, projection)
        self._patience_seconds = patience.total_seconds()
        self._pause = pause

    async def verify(self, stream_ids: Sequence[str]) -> list[Finding]:
        """What is found of each stream, in this order; takes as long as `confirm` if any seems wrong."""
        first = await self.look(stream_ids)
        suspects = [found.stream_id for found in first if suspicious(found)]
        later = {found.stream_id: found async for found in self.confirm(suspects)}
        return [later.get(finding.stream_id, finding) for finding in first]

    async def look(self, stream_ids: Sequence[str]) -> list[Finding]:
        """Look once at each stream. What seems wrong may only have been changed meanwhile; see `confirm`."""
        left_out = {s: why for s in stream_ids if (why := self._projection.left_out(s))}
        findings = {s: Finding(s, obstacle=Obstacle.LEFT_OUT, detail=why) for s, why in left_out.items()}
        for some in in_parts([s for s in dict.fromkeys(stream_ids) if s not in left_out]):
            for part in await self._snapshots.parts(some):
                findings |= await self._look(part)
        return [findings[stream_id] for stream_id in dict.fromkeys(stream_ids)]

    async def _look(self, stream_ids: Sequence[str]) -> dict[str, Finding]:
        version = self._projection.version
        snapshot = await self._snapshots.take(stream_ids)
        rowless = [stream_id for stream_id in stream_ids if stream_id not in snapshot.projected]
        news = await self._logs.find_projected([PageRequest(s, None) for s in rowless])
        findings = {
            found.stream_id: without_row(
                found.stream_id, snapshot.heeded.get(found.stream_id), version, found.oldest
            )
            for found in news
        }
        others = {s: of_other_version(s, row, version) for s, row in snapshot.projected.items()}
        findings |= {stream_id: found for stream_id, found in others.items() if found}
        folds = await folds_at_positions(
            self._logs, self._projection, snapshot, [s for s, found in others.items() if not found]
        )
        findings |= {
            s: examine(
                self._projection,
                s,
                snapshot.rows[s],
                snapshot.facts.get(s),
                snapshot.children.get(s, {}),
                snapshot.heeded.get(s),
                at.log,
                at.extent,
            )
            for s, at in folds.items()
        }
        for stream_id, found in findings.items():
            if found.differences:
                findings[stream_id] = await self._as_stored(found)
        return await self._without_replaced(findings)

    async def _as_stored(self, finding: Finding) -> Finding:
        return replace(finding, differences=await self._snapshots.as_stored(finding.differences))

    async def _without_replaced(self, findings: dict[str, Finding]) -> dict[str, Finding]:
        """The findings, BUSY for those streams whose row was deleted or folded anew since the snapshot.

        A row that only moved on is none of these: the log up to where it stood is still the same.
        """
        doubtful = {
            s: found.stamp for s, found in findings.items() if found.stamp and (found.wrong or found.obstacle)
        }
        now = await self._store.stamps(doubtful.keys()) if doubtful else {}
        replaced = [s for s, then in doubtful.items() if s not in now or now[s].generation != then.generation]
        return findings | {s: Finding(s, obstacle=Obstacle.BUSY, stamp=doubtful[s]) for s in replaced}

    async def confirm(self, stream_ids: Collection[str]) -> AsyncGenerator[Finding, None]:
        """Look again and again at streams that have seemed wrong just now, and tell what remains to be said.

        Differences must stay in several looks. Where a row is missing, or does not belong to its log, that
        must last for as long as the patience: live projection may be on its way, or somebody about to ask for
        a rebuild, or to delete the row.
        """
        suspects = {stream_id: _Suspect(monotonic()) for stream_id in stream_ids}
        pause = _FIRST_PAUSE_SECONDS
        while suspects:
            await self._pause(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
            for some in in_parts(list(suspects)):
                for finding in await self.look(some):
                    settled = self._settled(suspects[finding.stream_id], finding)
                    if settled is not None:
                        del suspects[finding.stream_id]
                        yield await self._explained(settled)

    def _settled(self, suspect: _Suspect, finding: Finding) -> Finding | None:
        """What is to be said of a suspect after another look; None before that is clear."""
        now = monotonic()
        suspect.take(finding, now)
        if not suspicious(finding):
            return finding
        waits = finding.missing is not None or finding.obstacle in _ASTRAY
        lasted = not waits or now - suspect.since >= self._patience_seconds
        if finding.wrong and suspect.seen >= _LOOKS_AGAIN and lasted:
            return finding
        if suspect.looks >= _LOOKS_AT_BUSY and now - suspect.begun >= 3 * self._patience_seconds:
            return Finding(finding.stream_id, obstacle=Obstacle.BUSY, detail=_BUSY, stamp=finding.stamp)
        return None

    async def _explained(self, finding: Finding) -> Finding:
        """The finding with the first event of each difference, where that can be told."""
        position = finding.stamp.last_event_id if finding.stamp else None
        if not finding.differences or position is None:
            return finding
        snapshot = await self._snapshots.take([finding.stream_id])
        skipped = snapshot.skipped(finding.stream_id)
        at = EventId.parse(position)
        explained = await explain(self._logs, self._projection, finding.differences, at, skipped)
        return replace(finding, differences=explained)


def in_parts(stream_ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """The same streams, as many at a time as one look should take."""
    for at in range(0, len(stream_ids), STREAMS_A_LOOK):
        yield stream_ids[at : at + STREAMS_A_LOOK]


def suspicious(finding: Finding) -> bool:
    """Whether to look at the stream again before anything is said of it."""
    return finding.wrong or finding.obstacle is Obstacle.BUSY


async def verify_streams(
    redis: AnyRedis,
    engine: AsyncEngine,
    projection: Projection,
    stream_ids: Sequence[str],
    *,
    keys: Keys = _KEYS,
    patience: timedelta = PATIENCE,
    max_payload_megabytes: float = MAX_PAYLOAD_MEGABYTES,
) -> list[Finding]:
    """Verify some streams; what is found of each, in this order.

    Changes nothing, and may be called while workers run. Returns at once where all is right, else after
    looking again, for as long as ``patience`` where a row is missing or its log was cut. ``redis`` is any
    asyncio client of redis-py, ``engine`` any of asyncpg. ``max_payload_megabytes`` must be what the workers
    are set to. Raises errors of the servers; to call again then is safe.
    """
    check_stream_ids(stream_ids)
    logs = log_of_application(redis, keys, projection, max_payload_megabytes)
    return await Verifier(logs, engine, projection, patience=patience).verify(stream_ids)
