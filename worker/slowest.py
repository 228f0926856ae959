"""Which streams are furthest behind their logs, by how much, and why. Nothing here writes.

What is told may have changed in between: of a projection that gets on, most of it has.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from contextlib import aclosing, closing
from dataclasses import dataclass
from itertools import islice
from math import inf

from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from worker.dead_letters import find_letters
from worker.diverged import DivergedStreams
from worker.events import EventId, is_event_id, parse_stream_id
from worker.extent import Extent
from worker.feed_backlog import oldest_hinted
from worker.keys import Keys
from worker.lag import PAGES_AT_MOST, Waiting, count_waiting
from worker.letters import State
from worker.log import Log, PageRequest
from worker.log_scan import NO_STREAM, LogScan
from worker.projection import Projection
from worker.standing import Standing, place_of
from worker.store import Store
from worker.whereabouts import Rows, RowStanding

_STEP_KEYS = 1_000
_NOWHERE = RowStanding()
_BEHIND = (Standing.BEHIND, Standing.BLOCKED, Standing.DIVERGED, Standing.LOG_GONE)


@dataclass(frozen=True, slots=True)
class SlowStream:
    """A stream that is behind its log.

    ``lag_seconds`` is the age of the oldest event that waits. Of a diverged stream, and of one whose log is
    gone, nobody knows what waits: there it is the time since the event at which the row stands. None is where
    that is no event's id, and where so much else stands before the first event that it was not found.
    """

    stream_id: str
    standing: Standing
    position: str | None
    lag_seconds: float | None
    waiting: Waiting | None


class Slowest:
    """Looks for the slowest streams of one projection, and counts what waits in so many pages of each."""

    def __init__(
        self, redis: Redis, engine: AsyncEngine, keys: Keys, projection: Projection, logs: Log,
        pages_at_most: int = PAGES_AT_MOST,
    ) -> None:  # fmt: skip
        self._redis = redis
        self._engine = engine
        self._keys = keys
        self._projection = projection
        self._logs = logs
        self._pages_at_most = pages_at_most
        self._diverged = DivergedStreams(redis, keys, projection.name)
        self._store = Store(engine, projection)

    async def find(self, most: int) -> list[SlowStream]:
        """So many at most, the slowest first, after a look at the end of every log."""
        oldest: dict[str, int] = {}
        scan = LogScan(self._redis, self._logs.keys, self._projection.streams)
        async with aclosing(scan.scan_ends(_STEP_KEYS)) as steps:
            async for ends in steps:
                oldest |= await self._behind(ends)
                oldest = _first(oldest, most)
        diverged = [stream_id async for stream_id in self._diverged.all()]
        oldest |= {s: _ms(position) for s, position in (await self._store.positions(diverged)).items()}
        return await self.look_at(_first(oldest, most))

    async def guess(self, most: int) -> list[SlowStream]:
        """The slowest of those that stand before something, and of those with the oldest hints.

        This costs the same however many logs there are. Streams whose producers write no hints are not seen.
        """
        name = self._projection.name
        letters = await find_letters(self._engine, projection=name, states=[State.OPEN], limit=most)
        positions = await self._store.positions((await self._diverged.some(10 * most))[: 10 * most])
        known = {letter.stream_id for letter in letters}
        known.update(_first({s: _ms(position) for s, position in positions.items()}, most))
        known.update(await oldest_hinted(self._redis, self._keys, name, most))
        return (await self.look_at(known))[:most]

    async def _behind(self, ends: Mapping[bytes, bytes]) -> dict[str, int]:
        """Those of these logs that go on after their row, with the time of the first event that waits."""
        no_stream = NO_STREAM.encode()
        last = {
            parse_stream_id(raw): end.decode() for raw, end in ends.items() if end not in (b"", no_stream)
        }
        stream_ids = [stream_id for stream_id in last if stream_id is not None]
        positions = await self._store.positions(stream_ids)
        requests = [
            PageRequest(s, position if position and is_event_id(position) else None)
            for s in stream_ids
            if (position := positions.get(s)) != last[s]
        ]
        found = {f.stream_id: f.oldest for f in await self._logs.find_projected(requests) if f.news}
        # Without an id the position is gone from the log: its time has to serve where nothing else is known.
        gone = {s: positions.get(s) for s, oldest in found.items() if oldest is None}
        found |= gone | await self._oldest_left(gone)
        return {stream_id: _ms(event_id) for stream_id, event_id in found.items()}

    async def _oldest_left(self, positions: Mapping[str, str | None]) -> dict[str, str | None]:
        """The first events of those of these logs that were trimmed beyond their rows' positions."""
        wanted = {s: position for s, position in positions.items() if position and is_event_id(position)}
        extents = await self._logs.extents(wanted) if wanted else {}
        trimmed = [s for s in wanted if place_of(wanted[s], extents[s], has_row=True).trimmed]
        findings = await self._logs.find_projected([PageRequest(s, None) for s in trimmed])
        return {finding.stream_id: finding.oldest for finding in findings if finding.oldest}

    async def look_at(self, stream_ids: Collection[str]) -> list[SlowStream]:
        """Those of these streams that are behind, the slowest first."""
        ours = [stream_id for stream_id in stream_ids if self._projection.streams.covers(stream_id)]
        with closing(Rows(self._engine, self._projection)) as rows:
            standings = await rows.look(ours) if ours else {}
        positions = {s: standings.get(s, _NOWHERE).position for s in ours}
        wanted = {s: p if p and is_event_id(p) else None for s, p in positions.items()}
        extents = await self._logs.extents(wanted)
        looked = [await self._look(s, standings.get(s, _NOWHERE), extents[s]) for s in ours]
        slow = [stream for stream in looked if stream.standing in _BEHIND]
        return sorted(slow, key=lambda s: -inf if s.lag_seconds is None else -s.lag_seconds)

    async def _look(self, stream_id: str, row: RowStanding, extent: Extent) -> SlowStream:
        place = place_of(row.position, extent, has_row=row.has_row)
        if place.standing is not None:
            return SlowStream(stream_id, place.standing, row.position, _age(_ms(row.position)), None)
        after = None if place.trimmed else row.position
        waiting = await count_waiting(self._logs, stream_id, after, pages_at_most=self._pages_at_most)
        behind = waiting.events > 0 or not waiting.counted
        standing = Standing.BLOCKED if row.stops else Standing.BEHIND if behind else Standing.CAUGHT_UP
        oldest = waiting.oldest or min((stop.event_id for stop in row.stops), default=None)
        return SlowStream(stream_id, standing, row.position, _age(oldest.ms) if oldest else None, waiting)


def _first(oldest: Mapping[str, int], most: int) -> dict[str, int]:
    """The oldest of them."""
    return dict(islice(sorted(oldest.items(), key=lambda item: item[1]), most))


def _ms(event_id: str | None) -> int:
    """The time of an event; of none, and of what is no event id, the beginning of time."""
    return EventId.parse(event_id).ms if event_id and is_event_id(event_id) else 0


def _age(ms: int) -> float | None:
    return max(0.0, time.time() - ms / 1000) if ms else None
