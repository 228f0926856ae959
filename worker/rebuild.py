"""Rebuilding: streams folded again from the start of their logs, each row replaced in one step.

Readers see the old row or the new one, never one in between. Live projection goes on: if it moves a row
meanwhile, the rebuild reads on from where its fold ends, and tries again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy.ext.asyncio import AsyncEngine

from worker.application import check_stream_ids, log_of_application, read_committed
from worker.batch_writer import BatchWriter
from worker.blocked import Block, BlockedStreams
from worker.cluster_client import AnyRedis
from worker.diverged import DivergedStreams
from worker.events import is_event_id
from worker.extent import Extent
from worker.hinting import hint_streams
from worker.judgement import Refusal, Verdict, judge, replacement
from worker.keys import Keys
from worker.letters import letter_of
from worker.log import MAX_PAYLOAD_MEGABYTES, Log
from worker.moved import write_moved
from worker.projection import Projection
from worker.redis_client import pipelined
from worker.replay import FoldedLog, ReplayRequest, fold_logs
from worker.store import Store
from worker.table import RowHead, RowWrite
from worker.trouble import SERVER_ERRORS, Trouble, classify

_KEYS = Keys()
_STREAMS_AT_ONCE = 100
_MOST_ATTEMPTS = 40
_FIRST_PAUSE_SECONDS = 0.01
_LONGEST_PAUSE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What became of one stream.

    ``refusal`` None: its row is the fold of its log, at ``position`` (None: it has no row, or one without any
    event). Otherwise the row is as it was, and ``detail`` is a sentence that says why and what to do.
    ``events`` is how many were applied.
    """

    stream_id: str
    refusal: Refusal | None = None
    detail: str = ""
    events: int = 0
    position: str | None = None


@dataclass(slots=True)
class _Rebuild:
    """One call under way. ``begun`` are folds to go on with, each with the head that its row had then.

    ``stopped`` are streams that live projection left alone, and whose hints it acknowledged all the same.
    """

    accept_loss: bool
    deliberate: bool
    results: dict[str, Rebuilt] = field(default_factory=dict)
    begun: dict[str, tuple[RowHead | None, FoldedLog]] = field(default_factory=dict)
    stopped: set[str] = field(default_factory=set)


class Rebuilder:
    """Rebuilds streams of one projection.

    If the process dies anywhere, a row was replaced as a whole or not at all, and doing it again does no
    harm. Two that rebuild the same stream, or a rebuild and live projection: one comparison wins, and the
    other reads on. A rebuild raises the generation, so that nobody writes what was folded from a log as it
    was before an undo.
    """

    def __init__(
        self,
        projection: Projection,
        logs: Log,
        store: Store,
        blocked: BlockedStreams,
        diverged: DivergedStreams,
    ) -> None:
        self._projection = projection
        self._logs = logs
        self._store = store
        self._writer = BatchWriter(store, projection.races)
        self._blocked = blocked
        self._diverged = diverged

    async def rebuild(
        self, stream_ids: Sequence[str], *, accept_loss: bool = False, deliberate: bool = False
    ) -> list[Rebuilt]:
        """Rebuild these streams, some hundreds at most, and say what became of each.

        ``deliberate`` says that somebody named them, so that a log whose last entries were deleted on purpose
        takes its row back. With ``accept_loss`` a log is taken as it is, whatever it has lost. Raises errors
        of the servers; to call again then is safe.
        """
        work = _Rebuild(accept_loss, deliberate)
        left_out = {s: why for s in stream_ids if (why := self._projection.left_out(s))}
        work.results |= {s: Rebuilt(s, Refusal.LEFT_OUT, why) for s, why in left_out.items()}
        moving = [stream_id for stream_id in dict.fromkeys(stream_ids) if stream_id not in left_out]
        pause = _FIRST_PAUSE_SECONDS
        for attempt in range(_MOST_ATTEMPTS):
            if attempt:
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
            moving = await self._attempt(moving, work)
            if not moving:
                break
        detail = "Others keep the row locked, or move it all the time; try again."
        work.results.update({s: Rebuilt(s, Refusal.BUSY, detail) for s in moving})
        await self._tell(work)
        return [work.results[stream_id] for stream_id in dict.fromkeys(stream_ids)]

    async def _attempt(self, stream_ids: Sequence[str], work: _Rebuild) -> list[str]:
        """Fold, or fold on, and write; the streams whose row has moved meanwhile."""
        loaded = await self._store.heads(stream_ids)
        heads = {s: loaded.heads.get(s) for s in stream_ids}
        skipped = {s: heeded.skipped for s, heeded in loaded.heeded.items()}
        begun = {s: log for s in stream_ids if (log := _to_go_on(work.begun.pop(s, None), heads[s]))}
        requests = [ReplayRequest(s, skipped.get(s, ())) for s in stream_ids]
        folded = await fold_logs(self._logs, self._projection, requests, begun)
        extents = await self._logs.extents({s: _position(heads[s]) for s in stream_ids})
        work.stopped |= {s for s in stream_ids if not extents[s].holds}
        work.stopped |= {s for s, heeded in loaded.heeded.items() if heeded.open}
        writes: list[RowWrite] = []
        for stream_id in stream_ids:
            verdict = self._judge(heads[stream_id], folded[stream_id], extents[stream_id], work)
            if verdict:
                await self._refuse(stream_id, verdict, heads[stream_id], folded[stream_id], work)
            elif _is_needed(heads[stream_id], folded[stream_id], extents[stream_id], work):
                head = heads[stream_id]
                stamp = head.stamp if head else None
                writes.append(replacement(self._projection, stream_id, stamp, folded[stream_id]))
            else:
                work.results[stream_id] = Rebuilt(stream_id)
        won = await self._write(writes, work)
        for stream_id in won:
            of = folded[stream_id]
            work.results[stream_id] = Rebuilt(stream_id, events=of.events, position=of.last_event_id)
        moving = [write.stream_id for write in writes if write.stream_id not in work.results]
        work.begun = {s: (heads[s], folded[s]) for s in moving}
        return moving

    def _judge(
        self, head: RowHead | None, folded: FoldedLog, extent: Extent, work: _Rebuild
    ) -> Verdict | None:
        return judge(
            self._projection.version,
            head,
            folded,
            extent,
            accept_loss=work.accept_loss,
            deliberate=work.deliberate,
        )

    async def _refuse(
        self, stream_id: str, verdict: Verdict, head: RowHead | None, folded: FoldedLog, work: _Rebuild
    ) -> None:
        """Note a refusal. A row of an older version is stopped there, for operators to see and to mend."""
        work.results[stream_id] = Rebuilt(stream_id, verdict.refusal, verdict.detail)
        stale = head is not None and head.stamp.version < self._projection.version
        if stale and folded.failure and verdict.refusal is Refusal.HANDLER_FAILED:
            assert head is not None
            await self._blocked.add([Block(head.stamp, letter_of(stream_id, folded.failure))])

    async def _write(self, writes: Sequence[RowWrite], work: _Rebuild) -> set[str]:
        """Write, and note what cannot be written. A transaction that others got into the way of has moved."""
        try:
            written = await self._writer.write(writes)
        except SERVER_ERRORS as error:
            if classify(error, self._projection.races) is not Trouble.RETRY:
                raise
            return set()
        for stream_id, why in written.newer.items():
            work.results[stream_id] = Rebuilt(stream_id, Refusal.NEWER_VERSION, why)
        for stream_id, why in written.refused.items():
            detail = f"PostgreSQL refuses the row: {why}."
            work.results[stream_id] = Rebuilt(stream_id, Refusal.ROW_REFUSED, detail)
        return written.won

    async def prune(self, stream_ids: Sequence[str]) -> list[str]:
        """Remove the rows of streams that have no log, with their claims; the streams of which that is so.

        A row that was changed meanwhile stays. If the log comes back in that moment, the hint that follows
        makes a row of it.
        """
        heads = (await self._store.heads(stream_ids)).heads
        extents = await self._logs.extents(dict.fromkeys(heads))
        gone = {s: head for s, head in heads.items() if not extents[s].exists}
        removed = await self._store.remove(gone) if gone else set()
        await self._diverged.forget(removed)
        await hint_streams(self._logs.redis, self._logs.keys, removed)
        return sorted(removed)

    async def _tell(self, work: _Rebuild) -> None:
        """Have workers look at streams that go on now, and those who wait at all that was rebuilt.

        News of any other stream have their own hints. Dying before this leaves it to the sweep, and to looks
        now and then.
        """
        done = [stream_id for stream_id, result in work.results.items() if result.refusal is None]
        if not done:
            return
        await self._diverged.forget(done)
        await hint_streams(self._logs.redis, self._logs.keys, work.stopped.intersection(done))
        channel = self._logs.keys.moved(self._projection.name)
        await pipelined(self._logs.redis, [("PUBLISH", channel, write_moved(done))])


def _is_needed(head: RowHead | None, folded: FoldedLog, extent: Extent, work: _Rebuild) -> bool:
    """Whether there is anything to write.

    An undo that leaves no event raises the generation of a row without a position, too, or makes one: a
    replica may be about to write the row, from the log as it was before.
    """
    if folded.last_event_id is not None or (head and head.stamp.last_event_id is not None):
        return True
    return work.deliberate and extent.last_id != extent.newest_id


def _position(head: RowHead | None) -> str | None:
    """The entry that a row's log should hold; None also where its position is somebody's own idea."""
    position = head.stamp.last_event_id if head else None
    return position if position and is_event_id(position) else None


def _to_go_on(begun: tuple[RowHead | None, FoldedLog] | None, head: RowHead | None) -> FoldedLog | None:
    """A fold to go on with, unless the row was folded anew, skipped or deleted since, or the fold stopped."""
    if begun is None or begun[1].failure:
        return None
    before = begun[0]
    if before is None or head is None:
        return None
    return begun[1] if head.stamp.at_most_moved_on_from(before.stamp) else None


def make_rebuilder(projection: Projection, logs: Log, engine: AsyncEngine) -> Rebuilder:
    """What rebuilds streams of these logs, over the connections that they are read with."""
    return Rebuilder(
        projection,
        logs,
        Store(engine, projection),
        BlockedStreams(engine, projection),
        DivergedStreams(logs.redis, logs.keys, projection.name),
    )


async def rebuild_streams(
    redis: AnyRedis,
    engine: AsyncEngine,
    projection: Projection,
    stream_ids: Sequence[str],
    *,
    accept_loss: bool = False,
    keys: Keys = _KEYS,
    max_payload_megabytes: float = MAX_PAYLOAD_MEGABYTES,
) -> list[Rebuilt]:
    """Rebuild some streams, for an application, as after an undo, which deletes the last entries of a log.

    The order is that of ``stream_ids``, of which there may be any number. ``redis`` is any asyncio client of
    redis-py, ``engine`` any of asyncpg. ``max_payload_megabytes`` must be what the workers are set to. When
    this returns, the rows are committed; look at each `refusal`. Raises errors of the servers; to call again
    then is safe.

    Delete the entries first, in one XDEL, then call this. If the process dies in between, the row stands
    where it stood, workers leave it alone and report it as diverged, and a later call mends it.
    """
    check_stream_ids(stream_ids)
    logs = log_of_application(redis, keys, projection, max_payload_megabytes)
    rebuilder = make_rebuilder(projection, logs, read_committed(engine))
    rebuilt: list[Rebuilt] = []
    for at in range(0, len(stream_ids), _STREAMS_AT_ONCE):
        some = stream_ids[at : at + _STREAMS_AT_ONCE]
        rebuilt += await rebuilder.rebuild(some, accept_loss=accept_loss, deliberate=True)
    return rebuilt
