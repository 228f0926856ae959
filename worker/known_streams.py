"""What is known of streams between passes: hot rows, and how far logs were read that go on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from worker.cache import KnownStream, RowCache
from worker.letters import Heeded
from worker.measures import Measures
from worker.store import Store
from worker.table import Stamp, StoredRow


@dataclass(frozen=True, slots=True)
class _Halfway:
    """How far a log that goes on was read, and the row that was right for.

    The cache may forget that at any time; a log with page after page of nothing to project would then be read
    from the same position for ever.
    """

    stamp: Stamp | None
    read_to: str | None
    log_starts_at: str | None


class KnownStreams:
    """Streams as they were when they were last looked at, or as they are in PostgreSQL."""

    def __init__(self, store: Store, cache: RowCache, measures: Measures) -> None:
        self._store = store
        self._measures = measures
        self._cache = cache
        self._halfway: dict[str, _Halfway] = {}

    async def load(self, stream_ids: Sequence[str]) -> dict[str, KnownStream]:
        """Taken out: a stream is forgotten unless the pass puts it back, since its write may have failed."""
        cached = {s: known for s in stream_ids if (known := self._cache.pop(s))}
        self._measures.cache_hits += len(cached)
        self._measures.cache_misses += len(stream_ids) - len(cached)
        loaded = await self._store.load([s for s in stream_ids if s not in cached])
        halfway = {s: self._halfway.pop(s, None) for s in stream_ids}
        return {
            s: cached.get(s) or _go_on(loaded.rows.get(s), loaded.heeded.get(s, Heeded()), halfway[s])
            for s in stream_ids
        }

    def keep(self, stream_id: str, known: KnownStream, *, goes_on: bool) -> None:
        """Remember what is committed; ``goes_on`` says that there is more of the log."""
        self._cache.put(stream_id, known)
        if goes_on:
            self._halfway[stream_id] = _Halfway(stamp_of(known.row), known.read_to, known.log_starts_at)


def stamp_of(row: StoredRow | None) -> Stamp | None:
    """The stamp that a write of this row must find."""
    return row.stamp if row else None


def _go_on(row: StoredRow | None, heeded: Heeded, halfway: _Halfway | None) -> KnownStream:
    """What is known of a row just loaded: how far its log was read, too, if it is the same row as then."""
    if halfway is None or halfway.stamp != stamp_of(row):
        return KnownStream(row, heeded=heeded)
    return KnownStream(row, halfway.read_to, halfway.log_starts_at, heeded)
