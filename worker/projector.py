"""One pass over a batch of streams: load their rows, read their logs, fold, and write what changed."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from time import monotonic

import structlog
from sqlalchemy.exc import DBAPIError

from worker.blocked import Block, BlockedStreams
from worker.cache import KnownStream, RowCache, state_bytes
from worker.events import EventId, is_event_id, without_skipped
from worker.fault_points import Point, reach
from worker.fold import Folded
from worker.letters import Heeded, letter_of, letters_of
from worker.log import Log, Page, PageRequest
from worker.outcome import Outcome, StreamResult, Tally
from worker.projection import Projection
from worker.store import Store
from worker.table import RowWrite, Stamp, StoredRow
from worker.trouble import Trouble, classify, describe

log = structlog.get_logger(__name__)

_MAX_UNREADABLE = 10_000
_PARTS = 16
"""Into how many parts a refused batch is split: most of them are written, and only one is split again."""
_MAX_REASON_CHARACTERS = 200
_WRITE_BYTES = 16 * 1024 * 1024
_LONGEST_WITHOUT_TURN_SECONDS = 0.1


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
    """A pass under way: what to write, what will be known of each stream then, and results so far."""

    writes: list[RowWrite] = field(default_factory=list)
    applied: dict[str, int] = field(default_factory=dict)
    blocks: list[Block] = field(default_factory=list)
    gone: dict[str, EventId] = field(default_factory=dict)
    known_after: dict[str, KnownStream] = field(default_factory=dict)
    results: dict[str, StreamResult] = field(default_factory=dict)


class Projector:
    """Projects streams of one projection. A stream must be in one batch at a time, which `Pending` sees to.

    If the process dies anywhere in `project_batch`, either the transaction was committed, rows and positions
    together, or nothing happened. If two replicas project the same stream, one comparison wins.
    """

    def __init__(
        self, projection: Projection, logs: Log, store: Store, blocked: BlockedStreams, cache: RowCache
    ) -> None:
        self.tally = Tally()
        self._projection = projection
        self._logs = logs
        self._store = store
        self._blocked = blocked
        self._cache = cache
        self._halfway: dict[str, _Halfway] = {}
        self._unreadable: set[str] = set()

    async def project_batch(
        self, stream_ids: Sequence[str], *, one_event: bool = False
    ) -> dict[str, StreamResult]:
        """Apply up to a page of events to each stream, and say where each stands.

        With ``one_event`` no more than one event of each is applied, so that what goes wrong is its doing.
        """
        known = await self._load(stream_ids)
        reach(Point.ROWS_LOADED)
        batch = _Batch()
        batch.results.update({s: result for s in stream_ids if (result := self._left_unread(known[s]))})
        moving = [stream_id for stream_id in stream_ids if stream_id not in batch.results]
        pages = await self._logs.read([PageRequest(s, _start(known[s])) for s in moving])
        reach(Point.LOGS_READ)
        astray: dict[str, Page] = {}
        turned_at = monotonic()
        for stream_id, whole in zip(moving, pages, strict=True):
            if monotonic() - turned_at > _LONGEST_WITHOUT_TURN_SECONDS:
                await asyncio.sleep(0)  # Slow handlers must not keep the loop from turning for a whole batch.
                turned_at = monotonic()
            page = whole.up_to_first_event() if one_event else whole
            if self._begins_right(stream_id, known[stream_id], page, batch):
                self._fold(stream_id, known[stream_id], page, batch)
            elif stream_id not in batch.results:
                astray[stream_id] = page
        await self._examine_astray(astray, known, batch)
        reach(Point.FOLDED)
        await self._write(batch)
        reach(Point.COMMITTED)
        await self._block(batch)
        self.tally.batches += 1
        return batch.results

    async def _load(self, stream_ids: Sequence[str]) -> dict[str, KnownStream]:
        """Taken out of the cache: it stays out unless the pass succeeds, since its write may or may not."""
        cached = {s: known for s in stream_ids if (known := self._cache.pop(s))}
        loaded = await self._store.load([s for s in stream_ids if s not in cached])
        halfway = {s: self._halfway.pop(s, None) for s in stream_ids}
        return {
            s: cached.get(s) or _go_on(loaded.rows.get(s), loaded.heeded.get(s, Heeded()), halfway[s])
            for s in stream_ids
        }

    def _left_unread(self, known: KnownStream) -> StreamResult | None:
        """Where a stream stands whose log need not, or cannot, be read; None where it must be."""
        position = known.row.stamp.last_event_id if known.row else None
        if position is not None and not is_event_id(position):
            return StreamResult(Outcome.DIVERGED, position)  # Somebody's own idea: no log can hold it.
        return StreamResult(Outcome.BLOCKED) if self._is_stopped(known) else None

    def _is_stopped(self, known: KnownStream) -> bool:
        """Whether a dead letter stops the stream, and it is too early to try again."""
        letter = known.heeded.open
        if letter is None or letter.due or letter.version < self._projection.version:
            return False
        position = known.row.stamp.last_event_id if known.row else None
        return position is None or letter.event_id > EventId.parse(position)

    def _begins_right(self, stream_id: str, known: KnownStream, page: Page, batch: _Batch) -> bool:
        """Whether a page begins where it should. A result is noted for a stream that must be left alone."""
        start = _start(known)
        if page.refusal is not None:
            self._note_unreadable(stream_id, page.refusal)
            batch.results[stream_id] = StreamResult(Outcome.UNREADABLE)
        elif known.row and _projected_by_other_version(known.row, self._projection.version):
            log.warning("row_of_other_version", stream=stream_id, version=known.row.stamp.version)
            batch.results[stream_id] = StreamResult(Outcome.OTHER_VERSION)
        else:
            return start is None or page.first_id == start
        return False

    def _note_unreadable(self, stream_id: str, reason: str) -> None:
        """Count a hint at a key that is no stream, and log it, but not at each of them."""
        self.tally.unreadable_logs += 1
        if stream_id not in self._unreadable:
            log.warning("log_unreadable", stream=stream_id, reason=reason)
            if len(self._unreadable) >= _MAX_UNREADABLE:
                self._unreadable.clear()
            self._unreadable.add(stream_id)

    async def _examine_astray(
        self, astray: dict[str, Page], known: dict[str, KnownStream], batch: _Batch
    ) -> None:
        """Decide for logs that do not hold the entry to start from: trimmed, or diverged?

        A log that starts after the position has been trimmed, unless nothing was ever removed from it: then
        it was lost and begun anew.
        """
        extents = await self._logs.extents(dict.fromkeys(astray))
        for stream_id, page in astray.items():
            row = known[stream_id].row
            if known[stream_id].read_to is not None or row is None:
                # The log changed since it was read; the row may have changed too.
                batch.results[stream_id] = StreamResult(Outcome.LOST)
                continue
            position = row.stamp.last_event_id
            assert position is not None
            first_id = extents[stream_id].first_id
            starts_later = first_id is not None and EventId.parse(first_id) > EventId.parse(position)
            if starts_later and not extents[stream_id].whole:
                log.warning("log_trimmed", stream=stream_id, position=position, log_starts_at=first_id)
                self._fold(stream_id, known[stream_id], page, batch)
            else:
                batch.results[stream_id] = StreamResult(Outcome.DIVERGED, position)

    def _fold(self, stream_id: str, known: KnownStream, page: Page, batch: _Batch) -> None:
        anew = known.row is None or known.row.stamp.last_event_id is None
        before = self._projection.new_state if anew or known.row is None else known.row.state
        folded = self._projection.fold(before, without_skipped(page.events, known.heeded.skipped))
        self._report(stream_id, folded, known.heeded)
        self.tally.untyped_entries += page.untyped
        self.tally.mended_values += page.mended
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
                    passed=letters_of(stream_id, folded.rejections),
                    settles=row.stamp.last_event_id if known.heeded.open else None,
                )
            )
        if folded.failure:
            batch.blocks.append(Block(_stamp(row), letter_of(stream_id, folded.failure)))
            batch.results[stream_id] = StreamResult(Outcome.BLOCKED)
            return
        read_to = page.last_id or known.read_to
        if read_to is not None:
            heeded = Heeded(skipped=known.heeded.skipped)
            batch.known_after[stream_id] = KnownStream(row, read_to, log_starts_at, heeded)
        if page.ended and known.heeded.open and folded.last is None:
            batch.gone[stream_id] = known.heeded.open.event_id
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

    def _report(self, stream_id: str, folded: Folded, heeded: Heeded) -> None:
        self.tally.events_rejected += len(folded.rejections)
        self.tally.events_skipped += folded.skipped
        if folded.rejections:
            first = folded.rejections[0]
            log.warning(
                "events_rejected",
                stream=stream_id,
                events=len(folded.rejections),
                event_id=str(first.event_id),
                type=first.type,
                reason=first.reason[:_MAX_REASON_CHARACTERS],
            )
        self.tally.remarks += len(folded.remarks)
        for remark in folded.remarks:
            log.warning(remark.what, stream=stream_id, event_id=str(remark.event_id), reason=remark.reason)
        if failure := folded.failure:
            self.tally.handler_failures += 1
            again = heeded.open is not None and heeded.open.event_id == failure.event_id
            log.log(
                logging.DEBUG if again else logging.ERROR,
                "handler_failed",
                stream=stream_id,
                event_id=str(failure.event_id),
                type=failure.type,
                error=_place_of(failure.error),
            )

    async def _write(self, batch: _Batch) -> None:
        """Write, then remember what is now committed. What lost its comparison is not remembered."""
        won: set[str] = set()
        for chunk in _chunks(batch.writes):
            won |= await self._write_chunk(chunk, batch)
        refused = {s for s, result in batch.results.items() if result.outcome is Outcome.REFUSED}
        lost = {write.stream_id for write in batch.writes} - won
        self.tally.rows_written += len(batch.writes) - len(lost)
        self.tally.comparisons_lost += len(lost - refused)
        self.tally.events_redone += sum(batch.applied[stream_id] for stream_id in lost - refused)
        self.tally.events_applied += sum(n for stream_id, n in batch.applied.items() if stream_id not in lost)
        batch.results.update(dict.fromkeys(lost - refused, StreamResult(Outcome.LOST)))
        for stream_id, known in batch.known_after.items():
            if stream_id not in lost:
                self._cache.put(stream_id, known)
                if batch.results[stream_id].outcome is Outcome.MORE:
                    self._halfway[stream_id] = _Halfway(_stamp(known.row), known.read_to, known.log_starts_at)

    async def _write_chunk(self, writes: Sequence[RowWrite], batch: _Batch) -> set[str]:
        """Write; where PostgreSQL refuses, in smaller and smaller parts, until a row to blame is alone."""
        try:
            return await self._store.write(writes)
        except DBAPIError as error:
            if classify(error, self._projection.races) is not Trouble.POISON:
                raise
            if len(writes) == 1:
                refused = StreamResult(Outcome.REFUSED, error=describe(error))
                batch.results[writes[0].stream_id] = refused
                return set()
        won: set[str] = set()
        part = -(-len(writes) // _PARTS)
        for at in range(0, len(writes), part):
            won |= await self._write_chunk(writes[at : at + part], batch)
        return won

    async def _block(self, batch: _Batch) -> None:
        """Record where streams are stopped: after the write of what comes before, which may have lost.

        Dying in between leaves a stream that the next replica stops in the same place.
        """
        blocks = [b for b in batch.blocks if batch.results[b.letter.stream_id].outcome is Outcome.BLOCKED]
        moved_on = {block.letter.stream_id for block in blocks} - await self._blocked.add(blocks)
        batch.results.update(dict.fromkeys(moved_on, StreamResult(Outcome.LOST)))
        if batch.gone:
            await self._blocked.settle_gone(batch.gone)


def _start(known: KnownStream) -> str | None:
    """Where to read from, inclusive: the last entry read, else the position, else the log's start."""
    return known.read_to or (known.row.stamp.last_event_id if known.row else None)


def _projected_by_other_version(row: StoredRow, version: int) -> bool:
    """A row without a position was made by somebody else: its version says nothing."""
    return row.stamp.last_event_id is not None and row.stamp.version != version


def _go_on(row: StoredRow | None, heeded: Heeded, halfway: _Halfway | None) -> KnownStream:
    """What is known of a row just loaded: how far its log was read, too, if it is the same row as then."""
    if halfway is None or halfway.stamp != _stamp(row):
        return KnownStream(row, heeded=heeded)
    return KnownStream(row, halfway.read_to, halfway.log_starts_at, heeded)


def _stamp(row: StoredRow | None) -> Stamp | None:
    return row.stamp if row else None


def _place_of(error: Exception) -> str:
    """What was raised, and where. Its text may quote the payload; the dead letter has all of it."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {frame.name}, line {frame.lineno} of {frame.filename}"


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
