"""One pass over a batch of streams: load their rows, read their logs, fold, and write what changed.

A large batch is cut into parts, so that the servers have something to do while a part is folded.
"""

from __future__ import annotations

import time
from asyncio import Future
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

import structlog

from worker.batch_writer import BatchWriter
from worker.blocked import Block, BlockedStreams
from worker.cache import KnownStream, RowCache
from worker.events import AnyEvent, EventId, SkippedEvent, is_event_id, without_skipped
from worker.fault_points import Point, reach
from worker.fold import Folded
from worker.fold_report import report_fold
from worker.judgement import Refusal, replacement
from worker.known_streams import KnownStreams, stamp_of
from worker.letters import Heeded, letter_of, letters_of, stops
from worker.log import Log, Page, PageRequest, ReadTerms
from worker.measures import Measures
from worker.outcome import Outcome, StreamResult, Tally
from worker.overlap import Turns, overlap
from worker.projection import Projection
from worker.replay import FoldedLog
from worker.store import Store
from worker.table import RowWrite, Stamp, StoredRow
from worker.upgrade import Upgrade, Upgrades, is_stale

log = structlog.get_logger("batches")

_MAX_UNREADABLE = 10_000
_PART_STREAMS = 64
_PARTS_IN_MEMORY = 4
"""Two that are read, one that is folded, and one that is written."""


@dataclass(slots=True)
class _Batch:
    """A part of a pass under way: the logs that were read, what to write, what will be known, and results."""

    known: Mapping[str, KnownStream]
    read: Sequence[str] = ()
    pages: Sequence[Page] = ()
    writes: list[RowWrite] = field(default_factory=list)
    applied: dict[str, int] = field(default_factory=dict)
    oldest_ms: dict[str, int] = field(default_factory=dict)
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
        self.measures = Measures()
        self._projection = projection
        self._logs = logs
        self._known = KnownStreams(store, cache, self.measures)
        self._upgrades = Upgrades(projection, logs)
        self._writer = BatchWriter(store, projection.races)
        self._blocked = blocked
        self._unreadable: set[str] = set()

    async def project_batch(
        self,
        stream_ids: Sequence[str],
        *,
        one_event: bool = False,
        before_decoding: Future[None] | None = None,
    ) -> dict[str, StreamResult]:
        """Apply up to a page of events to each stream, and say where each stands.

        With ``one_event`` no more than one event of each is applied, so that what goes wrong is its doing.
        No payload is decoded, and no handler called, until ``before_decoding`` is done.
        """
        started = time.monotonic()
        results: dict[str, StreamResult] = {}

        async def fold(batch: _Batch) -> None:
            await self._fold_logs(batch, one_event=one_event)

        async def write(batch: _Batch) -> None:
            await self._write(batch)
            reach(Point.COMMITTED)
            await self._block(batch)
            results.update(batch.results)

        parts = [stream_ids[at : at + _PART_STREAMS] for at in range(0, len(stream_ids), _PART_STREAMS)]
        terms = ReadTerms(1 / max(1, min(len(parts), _PARTS_IN_MEMORY)), before_decoding)
        await overlap(parts, partial(self._read, terms=terms), fold, write)
        self.tally.batches += 1
        self.measures.batch_streams.add(len(stream_ids))
        seconds = time.monotonic() - started
        self.measures.batch_seconds.add(seconds)
        log.debug(
            "batch_projected",
            projection=self._projection.name,
            streams=len(stream_ids),
            seconds=round(seconds, 4),
        )
        return results

    async def _read(self, stream_ids: Sequence[str], terms: ReadTerms) -> _Batch:
        """Load rows, go on with stale ones, and read a page of each log from where its row stands."""
        batch = _Batch(await self._known.load(stream_ids))
        reach(Point.ROWS_LOADED)
        batch.results.update({s: result for s in stream_ids if (result := self._left_unread(batch.known[s]))})
        await self._fold_stale(batch, terms)
        batch.read = [s for s in stream_ids if s not in batch.results]
        requests = [PageRequest(s, _start(batch.known[s])) for s in batch.read]
        batch.pages = await self._logs.read(requests, terms)
        reach(Point.LOGS_READ)
        return batch

    def _left_unread(self, known: KnownStream) -> StreamResult | None:
        """Where a stream stands whose log need not, or cannot, be read; None where it must be."""
        stamp = stamp_of(known.row)
        if stamp and stamp.last_event_id is not None:
            if stamp.version > self._projection.version:
                return StreamResult(Outcome.NEWER_VERSION)
            if not is_event_id(stamp.last_event_id):
                return StreamResult(Outcome.DIVERGED, stamp.last_event_id)  # Somebody's own idea.
        return StreamResult(Outcome.BLOCKED) if self._is_stopped(known, stamp) else None

    def _is_stopped(self, known: KnownStream, stamp: Stamp | None) -> bool:
        """Whether a dead letter stops the stream, and it is too early to try again."""
        letter = known.heeded.open
        if letter is None or letter.due:
            return False
        return stops(
            letter.event_id,
            letter.version,
            running=self._projection.version,
            position=stamp.last_event_id if stamp else None,
            row_version=stamp.version if stamp else 0,
        )

    async def _fold_stale(self, batch: _Batch, terms: ReadTerms) -> None:
        """Go on folding the logs of stale rows from their start. Trimmed ones are left to be folded on."""
        stale = {
            stream_id: known
            for stream_id, known in batch.known.items()
            if stream_id not in batch.results and is_stale(known.row, self._projection.version)
        }
        for stream_id, upgrade in (await self._upgrades.advance(stale, terms)).items():
            if upgrade.verdict is None or upgrade.verdict.refusal is not Refusal.TRIMMED:
                self._note_upgrade(stream_id, stale[stream_id], upgrade, batch)

    def _note_upgrade(self, stream_id: str, known: KnownStream, upgrade: Upgrade, batch: _Batch) -> None:
        folded, stamp = upgrade.folded, stamp_of(known.row)
        assert stamp is not None
        if upgrade.verdict:
            if folded and folded.failure and upgrade.verdict.refusal is Refusal.HANDLER_FAILED:
                batch.blocks.append(Block(stamp, letter_of(stream_id, folded.failure)))
                batch.results[stream_id] = StreamResult(Outcome.BLOCKED)
            elif upgrade.verdict.refusal is Refusal.UNREADABLE:
                self._note_unreadable(stream_id, upgrade.verdict.detail)
                batch.results[stream_id] = StreamResult(Outcome.UNREADABLE)
            else:
                batch.results[stream_id] = StreamResult(Outcome.DIVERGED, stamp.last_event_id)
        elif folded is None:
            batch.results[stream_id] = StreamResult(Outcome.LOST)  # Others come first: memory is bounded.
        elif folded.goes_on:
            batch.results[stream_id] = StreamResult(Outcome.MORE)
        else:
            self._replace(stream_id, known, folded, batch)

    def _replace(self, stream_id: str, known: KnownStream, folded: FoldedLog, batch: _Batch) -> None:
        """Put the fold of the whole log in the place of a stale row."""
        write = replacement(self._projection, stream_id, stamp_of(known.row), folded)
        batch.writes.append(write)
        batch.applied[stream_id] = folded.events
        if folded.failure:
            batch.blocks.append(Block(write.row.stamp, letter_of(stream_id, folded.failure)))
            batch.results[stream_id] = StreamResult(Outcome.BLOCKED)
            return
        heeded = Heeded(skipped=known.heeded.skipped)
        batch.known_after[stream_id] = KnownStream(write.row, folded.read_to, folded.first_event_id, heeded)
        batch.results[stream_id] = StreamResult(Outcome.CAUGHT_UP, folded.read_to)

    async def _fold_logs(self, batch: _Batch, *, one_event: bool) -> None:
        """Fold what was read of each log."""
        astray: dict[str, Page] = {}
        turns = Turns()
        for stream_id, whole in zip(batch.read, batch.pages, strict=True):
            await turns.take()
            page = whole.up_to_first_event() if one_event else whole
            start = _start(batch.known[stream_id])
            if page.refusal is not None:
                self._note_unreadable(stream_id, page.refusal)
                batch.results[stream_id] = StreamResult(Outcome.UNREADABLE)
            elif start is None or page.first_id == start:
                self._fold(stream_id, page, batch)
            else:
                astray[stream_id] = page
        batch.pages = ()
        await self._examine_astray(astray, batch)
        reach(Point.FOLDED)

    def _note_unreadable(self, stream_id: str, reason: str) -> None:
        """Count a hint at a key that is no stream, and log it, but not at each of them."""
        self.tally.unreadable_logs += 1
        if stream_id not in self._unreadable:
            log.warning("log_unreadable", stream=stream_id, reason=reason)
            if len(self._unreadable) >= _MAX_UNREADABLE:
                self._unreadable.clear()
            self._unreadable.add(stream_id)

    async def _examine_astray(self, astray: Mapping[str, Page], batch: _Batch) -> None:
        """Decide for logs that do not hold the entry to start from: trimmed, or diverged?"""
        extents = await self._logs.extents(dict.fromkeys(astray))
        for stream_id, page in astray.items():
            known = batch.known[stream_id]
            row = known.row
            if known.read_to is not None or row is None:
                # The log changed since it was read; the row may have changed too.
                batch.results[stream_id] = StreamResult(Outcome.LOST)
                continue
            position = row.stamp.last_event_id
            assert position is not None
            if extents[stream_id].trimmed_beyond(position):
                starts_at = extents[stream_id].first_id
                log.warning("log_trimmed", stream=stream_id, position=position, log_starts_at=starts_at)
                self._fold(stream_id, page, batch)
            else:
                batch.results[stream_id] = StreamResult(Outcome.DIVERGED, position)

    def _fold(self, stream_id: str, page: Page, batch: _Batch) -> None:
        known = batch.known[stream_id]
        anew = known.row is None or known.row.stamp.last_event_id is None
        before = self._projection.new_state if anew or known.row is None else known.row.state
        events = without_skipped(page.events, known.heeded.skipped)
        folded = self._projection.fold(before, events)
        self._measure(events, folded)
        report_fold(stream_id, folded, known.heeded, self.tally)
        self.tally.untyped_entries += page.untyped
        self.tally.mended_values += page.mended
        log_starts_at = known.log_starts_at or (page.first_id if _start(known) is None else None)
        row = known.row
        if folded.last is not None:
            row = self._row_after(known, folded, log_starts_at, anew=anew)
            batch.applied[stream_id] = folded.applied
            batch.oldest_ms[stream_id] = events[0].id.ms
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
                    children=folded.children,
                )
            )
        if folded.failure:
            batch.blocks.append(Block(stamp_of(row), letter_of(stream_id, folded.failure)))
            batch.results[stream_id] = StreamResult(Outcome.BLOCKED)
            return
        read_to = page.last_id or known.read_to
        if read_to is not None:
            heeded = Heeded(skipped=known.heeded.skipped)
            batch.known_after[stream_id] = KnownStream(row, read_to, log_starts_at, heeded)
        if page.ended and known.heeded.open and folded.last is None:
            batch.gone[stream_id] = known.heeded.open.event_id
        batch.results[stream_id] = StreamResult(Outcome.CAUGHT_UP if page.ended else Outcome.MORE, read_to)

    def _measure(self, events: Sequence[AnyEvent], folded: Folded) -> None:
        self.measures.events_read += len(events)
        for rejection in folded.rejections:
            self.measures.events_skipped[rejection.type] += 1
        if folded.skipped:
            skipped = (event.type for event in events if isinstance(event, SkippedEvent))
            self.measures.events_skipped.update(islice(skipped, folded.skipped))

    def _row_after(
        self, known: KnownStream, folded: Folded, log_starts_at: str | None, *, anew: bool
    ) -> StoredRow:
        before = known.row
        # A stale row whose log has lost its beginning keeps its number: this version made only its end.
        stays_stale = before is not None and is_stale(before, self._projection.version)
        stamp = Stamp(
            last_event_id=str(folded.last),
            generation=before.stamp.generation + anew if before else 0,
            version=before.stamp.version if before and stays_stale else self._projection.version,
        )
        first_event_id = log_starts_at if before is None or anew else before.first_event_id
        return StoredRow(stamp, first_event_id, folded.state)

    async def _write(self, batch: _Batch) -> None:
        """Write, then remember what is now committed. What lost its comparison is not remembered."""
        started = time.monotonic()
        written = await self._writer.write(batch.writes)
        if batch.writes:
            self.measures.commit_seconds.add(time.monotonic() - started)
            self._measure_latency([batch.oldest_ms[s] for s in written.won if s in batch.oldest_ms])
        not_won = {write.stream_id for write in batch.writes} - written.won
        lost = not_won - written.refused.keys() - written.newer.keys()
        self.tally.rows_written += len(written.won)
        self.tally.comparisons_lost += len(lost)
        self.tally.events_redone += sum(batch.applied[stream_id] for stream_id in lost)
        self.tally.events_applied += sum(n for s, n in batch.applied.items() if s not in not_won)
        batch.results.update(dict.fromkeys(lost, StreamResult(Outcome.LOST)))
        batch.results.update(dict.fromkeys(written.newer, StreamResult(Outcome.NEWER_VERSION)))
        batch.results.update(
            {s: StreamResult(Outcome.REFUSED, error=why) for s, why in written.refused.items()}
        )
        for stream_id, known in batch.known_after.items():
            if stream_id not in not_won:
                goes_on = batch.results[stream_id].outcome is Outcome.MORE
                self._known.keep(stream_id, known, goes_on=goes_on)

    def _measure_latency(self, oldest_ms: Sequence[int]) -> None:
        now_ms = time.time() * 1_000
        for ms in oldest_ms:
            self.measures.latency_seconds.add(max(0.0, now_ms - ms) / 1_000)

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
