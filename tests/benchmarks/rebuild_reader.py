"""A reader that polls random rows all the time, and finds out afterwards whether all it saw was right."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from worker import EventId, Projection
from worker.difference import equal
from worker.events import AnyEvent
from worker.log import Log, PageRequest
from worker.store import Store

ROWS_AT_ONCE = 50
PAUSE_SECONDS = 0.005


@dataclass(frozen=True, slots=True)
class Seen:
    """A row as it was seen, but for what follows from other streams."""

    version: int
    position: str | None
    state: tuple[Any, ...]


@dataclass
class Reader:
    """Keeps everything that it sees once."""

    engine: AsyncEngine
    projection: Projection
    streams: Sequence[str]
    looks: int = 0
    seen: dict[str, set[Seen]] = field(default_factory=lambda: defaultdict(set))

    async def run(self, stop: asyncio.Event) -> None:
        """Look until told to stop."""
        store, rng = Store(self.engine, self.projection), random.Random(1)
        while not stop.is_set():
            rows = (await store.load(rng.sample(self.streams, min(ROWS_AT_ONCE, len(self.streams))))).rows
            self.looks += len(rows)
            for stream_id, row in rows.items():
                stamp = row.stamp
                self.seen[stream_id].add(Seen(stamp.version, stamp.last_event_id, row.state))
            await asyncio.sleep(PAUSE_SECONDS)

    async def wrong(self, logs: Log, versions: Mapping[int, Projection]) -> list[str]:
        """What was seen that is not the fold of its log up to its position, by the version that it tells."""
        found: list[str] = []
        for stream_id, rows in self.seen.items():
            events = await _events(logs, stream_id)
            for version, projection in versions.items():
                of_version = [row for row in rows if row.version == version]
                found += _not_folds(projection, stream_id, of_version, events)
            found += [f"{stream_id}: version {row.version}" for row in rows if row.version not in versions]
        return found


def _not_folds(
    projection: Projection, stream_id: str, rows: Sequence[Seen], events: Sequence[AnyEvent]
) -> list[str]:
    found = [f"{stream_id} has no position" for row in rows if row.position is None]
    placed = sorted(((EventId.parse(r.position), r) for r in rows if r.position), key=lambda pair: pair[0])
    state, at = projection.new_state, 0
    for position, row in placed:
        upto = next((i for i in range(at, len(events)) if events[i].id > position), len(events))
        state, at = projection.fold(state, events[at:upto]).state, upto
        if not at or events[at - 1].id != position:
            found.append(f"{stream_id} stood at {position}, which is no event")
        elif not all(map(equal, state, row.state)):
            found.append(f"{stream_id} at {position} in version {row.version}")
    return found


async def _events(logs: Log, stream_id: str) -> list[AnyEvent]:
    """All events of a log."""
    events: list[AnyEvent] = []
    start: str | None = None
    while True:
        [page] = await logs.read([PageRequest(stream_id, start)])
        events += [event for event in page.events if start is None or event.id > EventId.parse(start)]
        if page.ended or page.last_id is None:
            return events
        start = page.last_id
