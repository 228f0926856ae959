"""One batch of streams: load their rows, read their logs, fold, and write what changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

import structlog
from sqlalchemy.exc import DBAPIError

from worker.cache import KnownStream, RowCache, state_bytes
from worker.events import Event, EventId, UndecodableEvent
from worker.fold import Folded
from worker.log import Log, Page, PageRequest
from worker.projection import Projection
from worker.retry import describe, refuses_a_row
from worker.store import RowWrite, Stamp, Store, StoredRow

log = structlog.get_logger(__name__)

_WRITE_BYTES = 16 * 1024 * 1024


class Outcome(Enum):
    """Where a stream stands after a pass."""

    CAUGHT_UP = auto()
    """Nothing of the log is left to apply, as far as it reached when it was read."""
    MORE = auto()
    """A page was applied and the log goes on: take the stream again."""
    LOST = auto()
    """Another writer moved the row, or what was known of it is out of date: take the stream again."""
    BLOCKED = auto()
    """A handler raised, and the row stands before that event; or PostgreSQL refuses the row."""
    DIVERGED = auto()
    """The log does not hold the row's position any more; the row is left as it is."""
    OTHER_VERSION = auto()
    """The row was written by another version of the projection; it is left as it is."""
    UNREADABLE = auto()
    """The key is no stream."""


@dataclass(frozen=True, slots=True)
class StreamResult:
    """``read_to`` is the last entry that was read, where that is known."""

    outcome: Outcome
    read_to: str | None = None


@dataclass(slots=True)
class Tally:
    """What a projector has done since it started. Written by the projecting task only.

    ``events_applied`` counts handler calls that were kept; ``events_redone`` those of passes whose write
    lost its comparison, so that somebody applies the events again.
    """

    batches: int = 0
    events_applied: int = 0
    events_redone: int = 0
    events_rejected: int = 0
    rows_written: int = 0
    comparisons_lost: int = 0
    handler_failures: int = 0
    remarks: int = 0


@dataclass(frozen=True, slots=True)
class _Halfway:
    """How far a log that goes on was read, and the row that was right for.

    The cache may forget that at any time; a log with page after page of nothing to project would then be read
    from the same position for ever.
    """

    stamp: Stamp | None
    read_to: str | None
    log_starts_at: str | None


@dataclass(slots=True)
class _Batch:
    """A pass under way: the writes to make, what will be known of each stream then, and results so far."""

    writes: list[RowWrite] = field(default_factory=list)
    applied: dict[str, int] = field(default_factory=dict)
    known_after: dict[str, KnownStream] = field(default_factory=dict)
    results: dict[str, StreamResult] = field(default_factory=dict)


class Projector:
    """Projects streams of one projection. A stream must be in one batch at a time, which `Pending` sees to.

    If the process dies anywhere in `project_batch`, either the transaction was committed, rows and positions
    together, or nothing happened. If two replicas project the same stream, one comparison wins.
    """

    def __init__(self, projection: Projection, logs: Log, store: Store, cache: RowCache) -> None:
        self.tally = Tally()
        self._projection = projection
        self._logs = logs
        self._store = store
        self._cache = cache
        self._halfway: dict[str, _Halfway] = {}
        self._diverged: dict[str, str] = {}

    async def project_batch(self, stream_ids: Sequence[str]) -> dict[str, StreamResult]:
        """Apply up to a page of events to each stream, and say where each stands.

        Where PostgreSQL refuses a row the batch is halved until that row is alone, so that it holds up no
        other stream.
        """
        try:
            return await self._project_batch(stream_ids)
        except DBAPIError as error:
            if not refuses_a_row(error):
                raise
            if len(stream_ids) == 1:
                log.error("row_refused", stream=stream_ids[0], error=describe(error))
                return {stream_ids[0]: StreamResult(Outcome.BLOCKED)}
        middle = len(stream_ids) // 2
        first = await self.project_batch(stream_ids[:middle])
        return first | await self.project_batch(stream_ids[middle:])

    async def _project_batch(self, stream_ids: Sequence[str]) -> dict[str, StreamResult]:
        known = await self._load(stream_ids)
        pages = await self._logs.read([PageRequest(s, _start(known[s])) for s in stream_ids])
        batch = _Batch()
        astray: dict[str, Page] = {}
        for stream_id, page in zip(stream_ids, pages, strict=True):
            fresh = self._examine(stream_id, known[stream_id], page, batch)
            if fresh is None:
                astray[stream_id] = page
            else:
                self._fold(stream_id, known[stream_id], page, fresh, batch)
        await self._examine_astray(astray, known, batch)
        await self._write(batch)
        self.tally.batches += 1
        return batch.results

    async def _load(self, stream_ids: Sequence[str]) -> dict[str, KnownStream]:
        """Taken out of the cache: it stays out unless the pass succeeds, since its write may or may not."""
        cached = {s: known for s in stream_ids if (known := self._cache.pop(s))}
        rows = await self._store.load([s for s in stream_ids if s not in cached])
        halfway = {s: self._halfway.pop(s, None) for s in stream_ids}
        return {s: cached.get(s) or _go_on(rows.get(s), halfway[s]) for s in stream_ids}

    def _examine(
        self, stream_id: str, known: KnownStream, page: Page, batch: _Batch
    ) -> Sequence[Event | UndecodableEvent] | None:
        """The events of a page that are new to the row; None when the page does not begin where it should.

        A result is noted for a stream that must be left alone.
        """
        start = _start(known)
        if page.refusal is not None:
            log.warning("log_unreadable", stream=stream_id, reason=page.refusal)
            batch.results[stream_id] = StreamResult(Outcome.UNREADABLE)
        elif known.row and _projected_by_other_version(known.row, self._projection.version):
            log.warning("row_of_other_version", stream=stream_id, version=known.row.stamp.version)
            batch.results[stream_id] = StreamResult(Outcome.OTHER_VERSION)
        elif start is not None and page.first_id != start:
            return None
        return page.events if stream_id not in batch.results else ()

    async def _examine_astray(
        self, astray: dict[str, Page], known: dict[str, KnownStream], batch: _Batch
    ) -> None:
        """Decide for logs that do not hold the entry to start from: trimmed, or diverged?"""
        firsts = await self._logs.first_ids(list(astray))
        for (stream_id, page), first_id in zip(astray.items(), firsts, strict=True):
            row = known[stream_id].row
            if known[stream_id].read_to is not None or row is None:
                # The log changed since it was read; the row may have changed too.
                batch.results[stream_id] = StreamResult(Outcome.LOST)
                continue
            position = row.stamp.last_event_id
            assert position is not None
            if first_id is not None and EventId.parse(first_id) > EventId.parse(position):
                log.warning("log_trimmed", stream=stream_id, position=position, log_starts_at=first_id)
                self._fold(stream_id, known[stream_id], page, page.events, batch)
            else:
                if self._diverged.get(stream_id) != position:  # Once, and not at every hint.
                    self._diverged[stream_id] = position
                    log.error("stream_diverged", stream=stream_id, position=position, log_starts_at=first_id)
                batch.results[stream_id] = StreamResult(Outcome.DIVERGED)

    def _fold(
        self,
        stream_id: str,
        known: KnownStream,
        page: Page,
        events: Sequence[Event | UndecodableEvent],
        batch: _Batch,
    ) -> None:
        if stream_id in batch.results:
            return
        anew = known.row is None or known.row.stamp.last_event_id is None
        before = self._projection.new_state if anew or known.row is None else known.row.state
        folded = self._projection.fold(before, events)
        self._report(stream_id, folded)
        log_starts_at = known.log_starts_at or (page.first_id if _start(known) is None else None)
        row = known.row
        if folded.last is not None:
            row = self._row_after(known, folded, log_starts_at, anew=anew)
            batch.applied[stream_id] = folded.applied
            batch.writes.append(
                RowWrite(
                    stream_id=stream_id,
                    loaded=known.row.stamp if known.row else None,
                    row=row,
                    changed=folded.changed,
                    updated_at=folded.updated_at,
                    facts=folded.facts,
                    replace=anew,
                )
            )
        if folded.failure:
            batch.results[stream_id] = StreamResult(Outcome.BLOCKED)
            return
        read_to = page.last_id or known.read_to
        if read_to is not None:
            batch.known_after[stream_id] = KnownStream(row, read_to, log_starts_at)
        batch.results[stream_id] = StreamResult(Outcome.CAUGHT_UP if page.ended else Outcome.MORE, read_to)

    def _row_after(
        self, known: KnownStream, folded: Folded, log_starts_at: str | None, *, anew: bool
    ) -> StoredRow:
        before = known.row
        stamp = Stamp(
            last_event_id=str(folded.last),
            generation=before.stamp.generation + anew if before else 0,
            version=self._projection.version,
        )
        first_event_id = log_starts_at if before is None or anew else before.first_event_id
        return StoredRow(stamp, first_event_id, folded.state)

    def _report(self, stream_id: str, folded: Folded) -> None:
        self.tally.events_rejected += len(folded.rejections)
        for rejection in folded.rejections:
            log.warning(
                "event_rejected",
                stream=stream_id,
                event_id=str(rejection.event_id),
                type=rejection.type,
                reason=rejection.reason,
            )
        self.tally.remarks += len(folded.remarks)
        for remark in folded.remarks:
            log.warning(remark.what, stream=stream_id, event_id=str(remark.event_id), reason=remark.reason)
        if failure := folded.failure:
            self.tally.handler_failures += 1
            log.error(
                "handler_failed",
                stream=stream_id,
                event_id=str(failure.event_id),
                type=failure.type,
                exc_info=failure.error,
            )

    async def _write(self, batch: _Batch) -> None:
        """Write, then remember what is now committed. What lost its comparison is not remembered."""
        lost: set[str] = set()
        for chunk in _chunks(batch.writes):
            lost |= {write.stream_id for write in chunk} - await self._store.write(chunk)
        self.tally.rows_written += len(batch.writes) - len(lost)
        self.tally.comparisons_lost += len(lost)
        redone = sum(batch.applied[stream_id] for stream_id in lost)
        self.tally.events_redone += redone
        self.tally.events_applied += sum(batch.applied.values()) - redone
        batch.results.update(dict.fromkeys(lost, StreamResult(Outcome.LOST)))
        for stream_id, known in batch.known_after.items():
            if stream_id not in lost:
                self._cache.put(stream_id, known)
                if batch.results[stream_id].outcome is Outcome.MORE:
                    self._halfway[stream_id] = _Halfway(_stamp(known.row), known.read_to, known.log_starts_at)


def _start(known: KnownStream) -> str | None:
    """Where to read from, inclusive: the last entry read, else the position, else the log's start."""
    return known.read_to or (known.row.stamp.last_event_id if known.row else None)


def _projected_by_other_version(row: StoredRow, version: int) -> bool:
    """A row without a position was made by somebody else: its version says nothing."""
    return row.stamp.last_event_id is not None and row.stamp.version != version


def _go_on(row: StoredRow | None, halfway: _Halfway | None) -> KnownStream:
    """What is known of a row just loaded: how far its log was read, too, if it is the same row as then."""
    if halfway is None or halfway.stamp != _stamp(row):
        return KnownStream(row)
    return KnownStream(row, halfway.read_to, halfway.log_starts_at)


def _stamp(row: StoredRow | None) -> Stamp | None:
    return row.stamp if row else None


def _chunks(writes: Sequence[RowWrite]) -> Iterator[list[RowWrite]]:
    """Cut a batch so that no transaction carries much more than _WRITE_BYTES."""
    chunk: list[RowWrite] = []
    size = 0
    for write in writes:
        size += state_bytes(write.row)
        if chunk and size > _WRITE_BYTES:
            yield chunk
            chunk, size = [], state_bytes(write.row)
        chunk.append(write)
    if chunk:
        yield chunk
