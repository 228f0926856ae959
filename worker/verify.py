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

from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from worker.events import EventId
from worker.finding import Finding, Obstacle, examine, of_other_version, without_row
from worker.folds import folds_at_positions
from worker.keys import Keys
from worker.log import Log, PageRequest
from worker.origin import explain
from worker.projection import Projection
from worker.snapshot import Snapshots
from worker.store import Store

STREAMS_A_LOOK = 50
"""About how many streams one look should take: their rows are in memory together."""

PATIENCE = timedelta(seconds=8)
"""How long a row may be missing, or its log be cut, before that counts: some sweeps must have passed."""

_LOOKS = 3
_LOOKS_AT_BUSY = 10
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 1.0
_PAGE_BYTES = 1024 * 1024

Pause = Callable[[float], Awaitable[object]]
"""Waits for so many seconds."""


@dataclass(slots=True)
class _Suspect:
    """A stream that seems wrong: since when, and in how many looks."""

    since: float
    looks: int = 1


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
        findings: dict[str, Finding] = {}
        for some in in_parts(list(dict.fromkeys(stream_ids))):
            findings |= await self._look(some)
        return [findings[stream_id] for stream_id in dict.fromkeys(stream_ids)]

    async def _look(self, stream_ids: Sequence[str]) -> dict[str, Finding]:
        version = self._projection.version
        snapshot = await self._snapshots.take(stream_ids)
        rowless = [stream_id for stream_id in stream_ids if stream_id not in snapshot.projected]
        news = await self._logs.find_projected([PageRequest(s, None) for s in rowless])
        findings = {
            found.stream_id: without_row(
                found.stream_id, snapshot.heeded.get(found.stream_id), version, has_events=found.news
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
                    suspect = suspects[finding.stream_id]
                    suspect.looks += 1
                    if self._is_settled(suspect, finding):
                        del suspects[finding.stream_id]
                        yield await self._explained(finding)

    def _is_settled(self, suspect: _Suspect, finding: Finding) -> bool:
        if not suspicious(finding):
            return True
        lasted = monotonic() - suspect.since >= self._patience_seconds
        if finding.obstacle is Obstacle.BUSY:
            return lasted and suspect.looks >= _LOOKS_AT_BUSY
        waits = finding.missing or finding.obstacle in (Obstacle.GONE, Obstacle.DIVERGED)
        return suspect.looks >= _LOOKS and (lasted or not waits)

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
    redis: Redis,
    engine: AsyncEngine,
    projection: Projection,
    stream_ids: Sequence[str],
    *,
    keys: Keys | None = None,
    patience: timedelta = PATIENCE,
    max_payload_bytes: int = 16 * 1024 * 1024,
) -> list[Finding]:
    """Verify some streams; what is found of each, in this order.

    Changes nothing, and may be called while workers run. Returns at once where all is right, else after
    looking again, for as long as ``patience`` where a row is missing or its log was cut. ``redis`` is a
    client such as `worker.redis_client.make_client` makes, ``engine`` one of asyncpg, such as
    `worker.database.make_engine` makes. ``max_payload_bytes`` must be the workers', by default theirs.
    Raises errors of the servers; to call again then is safe.
    """
    logs = Log(
        redis,
        keys or Keys(),
        projection.types,
        max_payload_bytes=max_payload_bytes,
        page_bytes=_PAGE_BYTES,
    )
    return await Verifier(logs, engine, projection, patience=patience).verify(stream_ids)
