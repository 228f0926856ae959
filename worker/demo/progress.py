"""How far the table has come: which events readers of PostgreSQL see already, and after how long."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from worker.events import EventId
from worker.store import Store

_CHECKPOINT_POLL_SECONDS = 0.002
_POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Latencies:
    """Seconds from an event's XADD to the moment when a reader of PostgreSQL could see it."""

    seconds: Sequence[float]

    def __len__(self) -> int:
        return len(self.seconds)

    def percentile(self, percent: float) -> float | None:
        """The nearest-rank percentile; None when nothing was measured."""
        if not self.seconds:
            return None
        return sorted(self.seconds)[math.ceil(len(self.seconds) * percent / 100) - 1]


@dataclass(frozen=True, slots=True)
class Lag:
    """How many events are awaited, and the age of the oldest of them."""

    events: int
    oldest_seconds: float


@dataclass(frozen=True, slots=True)
class _Awaited:
    event_id: EventId
    checkpoint: bool


@dataclass(slots=True)
class _Stream:
    hinted: bool
    awaited: deque[_Awaited] = field(default_factory=deque)
    checkpoints: int = 0
    """How many of those awaited are checkpoint events."""


class Progress:
    """Every appended event of a projected type is awaited until its row's position has reached it.

    An event's XADD is the time in its id, which Redis takes from this machine's clock in whole milliseconds.
    """

    def __init__(self, types: Collection[str], checkpoints: Collection[str]) -> None:
        self.appended = 0
        self.projected = 0
        self.waiting = 0
        self.nothing_waits = asyncio.Event()
        self.hinted_checkpoints: list[float] = []
        self.unhinted: list[float] = []
        self._types = types
        self._checkpoints = checkpoints
        self._streams: dict[str, _Stream] = {}
        self._urgent: set[str] = set()

    def note_appended(self, stream_id: str, event_id: str, event_type: str, *, hinted: bool) -> None:
        """An event was appended. Those of one stream are told in the order of their ids."""
        self.appended += 1
        if event_type not in self._types:
            return
        stream = self._streams.setdefault(stream_id, _Stream(hinted))
        checkpoint = event_type in self._checkpoints
        stream.awaited.append(_Awaited(EventId.parse(event_id), checkpoint))
        self.waiting += 1
        self.nothing_waits.clear()
        if checkpoint and hinted:
            stream.checkpoints += 1
            self._urgent.add(stream_id)

    def note_positions(self, positions: Mapping[str, str | None], now: float) -> None:
        """Where rows stood when they were asked for, the answer having come at ``now`` (Unix seconds)."""
        for stream_id, position in positions.items():
            stream = self._streams.get(stream_id)
            if stream is None or position is None:
                continue
            reached = EventId.parse(position)
            while stream.awaited and stream.awaited[0].event_id <= reached:
                self._seen(stream, stream.awaited.popleft(), now)
            if not stream.checkpoints:
                self._urgent.discard(stream_id)

    def _seen(self, stream: _Stream, event: _Awaited, now: float) -> None:
        self.projected += 1
        self.waiting -= 1
        if not self.waiting:
            self.nothing_waits.set()
        seconds = max(0.0, now - event.event_id.ms / 1000)
        if not stream.hinted:
            self.unhinted.append(seconds)
        elif event.checkpoint:
            stream.checkpoints -= 1
            self.hinted_checkpoints.append(seconds)

    def urgent(self) -> list[str]:
        """Streams with a hinted checkpoint event that is awaited."""
        return list(self._urgent)

    def behind(self) -> dict[str, EventId]:
        """Streams with awaited events, and the last of these."""
        return {s: stream.awaited[-1].event_id for s, stream in self._streams.items() if stream.awaited}

    def lag(self, now: float, *, hinted: bool) -> Lag:
        """What is awaited of streams whose producers write hints, or of those whose producers do not."""
        awaited = [s.awaited for s in self._streams.values() if s.hinted is hinted and s.awaited]
        if not awaited:
            return Lag(0, 0.0)
        oldest_ms = min(events[0].event_id.ms for events in awaited)
        return Lag(sum(map(len, awaited)), max(0.0, now - oldest_ms / 1000))


class Observer:
    """Asks PostgreSQL how far the rows are, all the time for checkpoint events and now and then for all."""

    def __init__(self, store: Store, progress: Progress) -> None:
        self.pauses: list[float] = []
        """Seconds between two answers while a checkpoint event was awaited: latency is told no finer."""
        self._store = store
        self._progress = progress

    async def watch_checkpoints(self) -> None:
        """Never returns."""
        answered_at: float | None = None
        while True:
            if streams := self._progress.urgent():
                positions = await self._store.positions(streams)
                now = time.time()
                self._progress.note_positions(positions, now)
                if answered_at is not None:
                    self.pauses.append(now - answered_at)
                answered_at = now
            else:
                answered_at = None
            await asyncio.sleep(_CHECKPOINT_POLL_SECONDS)

    async def watch_all(self) -> None:
        """Never returns."""
        while True:
            if streams := list(self._progress.behind()):
                self._progress.note_positions(await self._store.positions(streams), time.time())
            await asyncio.sleep(_POLL_SECONDS)
