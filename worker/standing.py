"""How one stream stands: its row beside its log, and what keeps the one from following the other.

Nothing here writes, and what is told may have changed in between.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, Text, cast, func, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from worker.child_statements import ChildStatements
from worker.dead_letters import StoredLetter, find_letters
from worker.events import EventId, is_event_id
from worker.extent import Extent
from worker.lag import Waiting, count_waiting
from worker.letters import State, stops
from worker.log import Log
from worker.moments import END
from worker.past import Loss, Past, PastRow
from worker.payload import decode_stored
from worker.projection import Projection
from worker.retelling import HistoryEntry, rule_history

_MOST_LOSSES = 10


class Standing(StrEnum):
    """How a stream stands; what comes first in this list is told first."""

    UNKNOWN = "unknown"
    """There is neither a row nor a log."""
    LEFT_OUT = "left out"
    """The projection's ``streams`` do not match it: it is never projected."""
    UNREADABLE = "unreadable"
    """The key of its log holds something else."""
    LOG_GONE = "log gone"
    """There is a row, but no log: it was lost, or somebody has deleted the conversation in part."""
    DIVERGED = "diverged"
    """The log no longer holds the row's position."""
    BLOCKED = "blocked"
    """It stands before an event that could not be applied."""
    BEHIND = "behind"
    """Events wait to be projected; a moment later they may be."""
    CAUGHT_UP = "caught up"
    """The row is the fold of the whole log; or there is nothing to project, and so no row."""


@dataclass(frozen=True, slots=True)
class StreamView:
    """All about one stream. ``version`` is that of the projection as it is declared here.

    ``row`` holds every column of the table, also those of other applications, JSON decoded; None where there
    is no row. ``position`` is None where nothing is projected yet, and ``waiting`` where it cannot be told.
    ``loss`` says what of the row's past the log no longer holds; ``trimmed`` that it begins after the row's
    position. ``letter`` is the open dead letter that blocks the stream. ``taken`` are the last changes that
    events of other streams made to the row, through a cross-stream rule. ``child_rows`` says how many child
    rows there are, by the names that the projection gives them. ``would_be`` is the row that the log amounts
    to, where there is a log and no row.
    """

    stream_id: str
    projection: str
    version: int
    standing: Standing
    looked_at: float
    row: Mapping[str, Any] | None = None
    position: EventId | None = None
    log_starts_at: str | None = None
    waiting: Waiting | None = None
    trimmed: bool = False
    loss: Loss | None = None
    letter: StoredLetter | None = None
    taken: tuple[HistoryEntry, ...] = ()
    child_rows: Mapping[str, int] = field(default_factory=dict)
    would_be: PastRow | None = None

    @property
    def row_version(self) -> int | None:
        """The version of the projection that wrote the row; None where none did."""
        return self.row["version"] if self.row and self.position else None

    @property
    def oldest_waiting_seconds(self) -> float | None:
        """The age of the first event that waits."""
        if self.waiting is None or self.waiting.oldest is None:
            return None
        return max(0.0, self.looked_at - self.waiting.oldest.ms / 1000)


async def look_at_stream(
    projection: Projection, logs: Log, engine: AsyncEngine, stream_id: str
) -> StreamView:
    """Look at both servers."""
    return await _Look(projection, logs, engine, stream_id).view()


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row stands in its log."""

    standing: Standing | None
    trimmed: bool = False


class _Look:
    """One look at one stream."""

    def __init__(self, projection: Projection, logs: Log, engine: AsyncEngine, stream_id: str) -> None:
        self._projection = projection
        self._logs = logs
        self._engine = engine
        self._stream_id = stream_id
        self._children = ChildStatements(projection, engine.dialect)
        self._past = Past(projection, logs, engine)

    async def view(self) -> StreamView:
        async with self._engine.connect() as connection:
            row = await _row(connection, self._projection, self._stream_id)
            taken = await self._taken(connection)
            child_rows = await self._children.count(connection, self._stream_id)
        stored = row["last_event_id"] if row else None
        position = EventId.parse(stored) if stored is not None and is_event_id(stored) else None
        wanted = str(position) if position else None
        extent = (await self._logs.extents({self._stream_id: wanted}))[self._stream_id]
        left_out = bool(self._projection.left_out(self._stream_id))
        place = Place(Standing.LEFT_OUT) if left_out else place_of(stored, extent, has_row=row is not None)
        letter = await self._letter(stored, row["version"] if row else 0)
        waiting = None
        if place.standing is None:
            after = None if place.trimmed or position is None else str(position)
            waiting = await count_waiting(self._logs, self._stream_id, after)
        behind = waiting is not None and waiting.events > 0
        follows = Standing.BLOCKED if letter else Standing.BEHIND if behind else Standing.CAUGHT_UP
        return StreamView(
            stream_id=self._stream_id,
            projection=self._projection.name,
            version=self._projection.version,
            standing=place.standing or follows,
            looked_at=time.time(),
            row=row,
            position=position,
            log_starts_at=extent.first_id,
            waiting=waiting,
            trimmed=place.trimmed,
            loss=await self._past.loss(self._stream_id) if row else None,
            letter=letter,
            taken=taken,
            child_rows=child_rows,
            would_be=await self._would_be() if row is None and place.standing is None else None,
        )

    async def _letter(self, position: str | None, row_version: int) -> StoredLetter | None:
        """The dead letter that the stream stands before; others are stale."""
        letters = await find_letters(
            self._engine,
            projection=self._projection.name,
            stream_ids=[self._stream_id],
            states=[State.OPEN],
        )
        blocking = [
            letter
            for letter in letters
            if stops(
                letter.event_id,
                letter.version,
                running=self._projection.version,
                position=position,
                row_version=row_version,
            )
        ]
        return max(blocking, key=lambda letter: letter.event_id, default=None)

    async def _taken(self, connection: AsyncConnection) -> tuple[HistoryEntry, ...]:
        rule = self._projection.rule
        if rule is None:
            return ()
        facts = await rule.facts_of(connection, self._stream_id)
        rivals = await rule.rivals(connection, self._stream_id, facts)
        told = rule_history(rule, self._stream_id, facts, rivals)
        return tuple(entry for entry in told if entry.stream_id != self._stream_id)[-_MOST_LOSSES:]

    async def _would_be(self) -> PastRow:
        return await self._past.row_at(self._stream_id, END)


def place_of(position: str | None, extent: Extent, *, has_row: bool) -> Place:
    """Whether the log holds the row's position; without a standing, projection goes on from there."""
    if extent.is_no_stream:
        return Place(Standing.UNREADABLE)
    if extent.first_id is None:
        if not has_row:
            return Place(Standing.UNKNOWN)
        return Place(Standing.LOG_GONE if position is not None else None)
    if position is None:
        return Place(None)
    if not is_event_id(position):
        return Place(Standing.DIVERGED)
    if extent.holds:
        return Place(None)
    return Place(None, trimmed=True) if extent.trimmed_beyond(position) else Place(Standing.DIVERGED)


async def _row(connection: AsyncConnection, projection: Projection, stream_id: str) -> dict[str, Any] | None:
    """Every column of the row: ours as Python has them, JSON decoded; those of others as JSON has them."""
    table = projection.table
    ours = [cast(c, Text).label(c.key) if isinstance(c.type, JSON) else c for c in table.columns]
    everything = cast(func.to_jsonb(table.table_valued()), Text)
    query = select(everything, *ours).where(table.c.stream_id == stream_id)
    found = (await connection.execute(query)).one_or_none()
    if found is None:
        return None
    values = {c.key: value for c, value in zip(table.columns, found[1:], strict=True)}
    for column in table.columns:
        if isinstance(column.type, JSON) and values[column.key] is not None:
            values[column.key] = decode_stored(values[column.key])
    others = {name: value for name, value in decode_stored(found[0]).items() if name not in values}
    return {**values, **others}
