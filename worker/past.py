"""The past of one stream: its row as it was at any event, and every change on the way. Nothing here writes.

A row's past is a fold of its log by the projection as it is declared now. What other streams took from it, by
a cross-stream rule, is known as far as they are projected.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from worker import letters
from worker.changes import Change, changes
from worker.errors import PastLostError
from worker.events import AnyEvent, EventId, is_event_id, without_skipped
from worker.fold import HandlerFailure
from worker.log import Log, PageRequest
from worker.moments import END
from worker.projection import KEPT_COLUMNS, Projection
from worker.replay import FoldedLog, ReplayRequest, fold_logs
from worker.retelling import HistoryEntry, Retelling, decoded
from worker.row_arrays import fetch
from worker.table import Table


@dataclass(frozen=True, slots=True)
class Loss:
    """The log begins later than it did when the row was made: what came before is gone.

    ``log_starts_at`` is None where the whole log is gone.
    """

    stream_id: str
    row_starts_at: str
    log_starts_at: str | None

    def __str__(self) -> str:
        if self.log_starts_at is None:
            return f"The log of stream {self.stream_id!r} is gone, and the row's past with it."
        return (
            f"The log of stream {self.stream_id!r} was trimmed: it begins with {self.log_starts_at}, the row "
            f"began with {self.row_starts_at}, and what was in between is gone."
        )


@dataclass(frozen=True, slots=True)
class PastRow:
    """A row as it was after ``up_to``, the last event id that counts.

    ``columns`` are those that the projection folds or computes and what the worker keeps, but for the
    generation; JSON is decoded. They are those of a new row where ``exists`` is false. ``failure`` says that
    the stream stands before that event, whose handler raises. ``loss`` is set where the log no longer holds
    all that the row came of, so that the columns may be wrong.
    """

    stream_id: str
    up_to: EventId
    columns: Mapping[str, Any]
    failure: HandlerFailure | None = None
    loss: Loss | None = None

    @property
    def exists(self) -> bool:
        """Whether there was a row: some event had moved it."""
        return self.columns["last_event_id"] is not None


def row_changes(before: PastRow, after: PastRow) -> tuple[Change, ...]:
    """What of two rows differs in columns that events change, rather than every event by being there."""
    told = [{c: v for c, v in row.columns.items() if c not in KEPT_COLUMNS} for row in (before, after)]
    return tuple(changes(*told))


class Past:
    """The past of any stream of one projection."""

    def __init__(self, projection: Projection, logs: Log, engine: AsyncEngine) -> None:
        self._projection = projection
        self._logs = logs
        self._engine = engine
        self._table = Table(projection, engine.dialect)

    async def loss(self, stream_id: str) -> Loss | None:
        """What the log no longer holds of what the row came of, as far as the row knows."""
        async with self._engine.connect() as connection:
            sql = f"SELECT first_event_id FROM {self._table.name} WHERE stream_id = $1"
            rows = await fetch(connection, sql, stream_id)
        row_starts_at = rows[0][0] if rows else None
        if row_starts_at is None or not is_event_id(row_starts_at):
            return None
        extent = (await self._logs.extents({stream_id: None}))[stream_id]
        starts_at = extent.first_id
        if starts_at is not None and EventId.parse(starts_at) <= EventId.parse(row_starts_at):
            return None
        return Loss(stream_id, row_starts_at, starts_at)

    async def row_at(self, stream_id: str, up_to: EventId, *, accept_loss: bool = False) -> PastRow:
        """The row as it was. Raises PastLostError where that cannot be told, unless the loss is accepted."""
        loss = await self._check_loss(stream_id, accept_loss=accept_loss)
        request = ReplayRequest(stream_id, await self._skipped(stream_id), up_to)
        folded = (await fold_logs(self._logs, self._projection, [request]))[stream_id]
        if folded.refusal:
            raise PastLostError(f"The key of stream {stream_id!r} holds no log: {folded.refusal}.")
        if folded.torn:
            raise _torn(stream_id)
        columns = {
            **{c: decoded(v) for c, v in zip(self._projection.columns, folded.state, strict=True)},
            **await self._rule_columns(stream_id, folded, up_to),
            "first_event_id": folded.first_event_id if folded.last_event_id else None,
            "last_event_id": folded.last_event_id,
            "updated_at": folded.updated_at,
            "version": self._projection.version,
        }
        return PastRow(stream_id, up_to, columns, folded.failure, loss)

    async def _rule_columns(self, stream_id: str, folded: FoldedLog, up_to: EventId) -> Mapping[str, Any]:
        """What the rule's columns showed then: settled from the facts of all up to there."""
        rule = self._projection.rule
        if not rule:
            return {}
        rivals = {
            rival: [fact for fact in facts if fact.event_id <= up_to]
            for rival, facts in (await self._rivals(stream_id, folded.facts)).items()
        }
        return rule.settle({**rivals, stream_id: folded.facts})[stream_id]

    async def history(
        self, stream_id: str, *, up_to: EventId = END, accept_loss: bool = False
    ) -> AsyncIterator[HistoryEntry]:
        """Each event that changed the row, in order, read page by page. Raises like `row_at`.

        After a loss that was accepted, the first changes are those from a new row to where the log begins.
        """
        await self._check_loss(stream_id, accept_loss=accept_loss)
        retelling = Retelling(self._projection, stream_id, up_to)
        async for events in self._parts(stream_id, up_to, await self._skipped(stream_id)):
            if facts := retelling.facts_ahead(events):
                retelling.expect(await self._rivals(stream_id, facts))
            for entry in retelling.tell(events):
                yield entry
            if retelling.stopped:
                break
        for entry in retelling.rest():
            yield entry

    async def _parts(
        self, stream_id: str, up_to: EventId, skipped: Collection[EventId]
    ) -> AsyncIterator[Sequence[AnyEvent]]:
        """The events of the log up to there, page by page."""
        read_to: str | None = None
        while True:
            [page] = await self._logs.read([PageRequest(stream_id, read_to)])
            if page.refusal:
                raise PastLostError(f"The key of stream {stream_id!r} holds no log: {page.refusal}.")
            if read_to is not None and page.first_id != read_to:
                raise _torn(stream_id)
            yield without_skipped([event for event in page.events if event.id <= up_to], skipped)
            if page.ended or page.last_id is None or EventId.parse(page.last_id) >= up_to:
                return
            read_to = page.last_id

    async def _check_loss(self, stream_id: str, *, accept_loss: bool) -> Loss | None:
        loss = await self.loss(stream_id)
        if loss and not accept_loss:
            raise PastLostError(f"{loss} To fold what is left all the same, accept the loss (--accept-loss).")
        return loss

    async def _skipped(self, stream_id: str) -> Collection[EventId]:
        async with self._engine.connect() as connection:
            heeded = await letters.heeded(connection, self._projection.name, [stream_id])
        return heeded[stream_id].skipped if stream_id in heeded else ()

    async def _rivals(self, stream_id: str, facts: Sequence[Any]) -> Mapping[str, Sequence[Any]]:
        rule = self._projection.rule
        if not rule or not facts:
            return {}
        async with self._engine.connect() as connection:
            return await rule.rivals(connection, stream_id, facts)


def _torn(stream_id: str) -> PastLostError:
    return PastLostError(f"The log of stream {stream_id!r} was changed while it was read; ask again.")
