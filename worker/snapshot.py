"""What PostgreSQL holds of some streams at one moment: rows, facts and dead letters that belong together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from worker import letters
from worker.child_statements import ChildStatements, StoredChildRows
from worker.difference import Columns, Difference, few_child_rows
from worker.events import EventId
from worker.letters import Heeded
from worker.projection import Projection
from worker.rule import StoredFacts
from worker.table import Table

_PART_BYTES = 4 * 1024 * 1024  # Compressed as they lie on the disk, and so several times as much in memory.


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Rows with all columns that are ours, their child rows, what the cross-stream rule has stored, and the
    letters to heed.

    Each by stream; streams without any are left out.
    """

    rows: Mapping[str, Columns]
    facts: Mapping[str, StoredFacts]
    heeded: Mapping[str, Heeded]
    children: Mapping[str, StoredChildRows]

    @property
    def projected(self) -> dict[str, Columns]:
        """The rows that have a position."""
        return {s: row for s, row in self.rows.items() if row["last_event_id"] is not None}

    def skipped(self, stream_id: str) -> frozenset[EventId]:
        """The events of a stream that operators skipped."""
        return self.heeded[stream_id].skipped if stream_id in self.heeded else frozenset()


class Snapshots:
    """Takes snapshots of one projection's streams. Writes nothing, and no writer waits for it."""

    def __init__(self, engine: AsyncEngine, projection: Projection) -> None:
        self._engine = engine
        self._projection = projection
        self._table = Table(projection, engine.dialect)
        self._children = ChildStatements(projection, engine.dialect)

    async def parts(self, stream_ids: Sequence[str]) -> list[list[str]]:
        """The same streams in parts of which the rows can be in memory together; a large row is alone."""
        async with self._engine.connect() as connection:
            sizes = await self._table.kept_bytes(connection, stream_ids)
            of_children = await self._children.bytes(connection, stream_ids)
        parts: list[list[str]] = []
        room = 0
        for stream_id in stream_ids:
            size = sizes.get(stream_id, 0) + of_children.get(stream_id, 0)
            if not parts or size > room:
                parts.append([])
                room = _PART_BYTES
            parts[-1].append(stream_id)
            room -= size
        return parts

    async def take(self, stream_ids: Sequence[str]) -> Snapshot:
        """One transaction, REPEATABLE READ and read-only."""
        async with self._engine.connect() as connection:
            await connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            rows = await self._table.kept(connection, stream_ids)
            heeded = await letters.heeded(connection, self._projection.name, stream_ids)
            children = await self._children.stored(connection, stream_ids)
            return Snapshot(rows, await self._facts(connection, list(rows)), heeded, children)

    async def as_stored(self, differences: Sequence[Difference]) -> tuple[Difference, ...]:
        """Those differences that remain once PostgreSQL has stored what is expected, in the column's type.

        Where many child rows of a table differ, the first few are told.
        """
        doubtful: dict[tuple[str | None, str], list[int]] = defaultdict(list)
        for at, difference in enumerate(differences):
            if place := self._may_be_rounded(difference):
                doubtful[place].append(at)
        same: set[int] = set()
        if doubtful:
            async with self._engine.connect() as connection:
                for (rows, column), places in doubtful.items():
                    pairs = [(differences[at].expected, differences[at].stored) for at in places]
                    arrays = self._table.arrays if rows is None else self._children.arrays(rows)
                    told = await arrays.same_when_stored(connection, column, pairs)
                    same.update(at for at, is_same in zip(places, told, strict=True) if is_same)
        return tuple(few_child_rows(d for at, d in enumerate(differences) if at not in same))

    def _may_be_rounded(self, difference: Difference) -> tuple[str | None, str] | None:
        """The column, and before it the child rows that it is of, if its values may be rounded."""
        rows, _, column = difference.child or (None, None, difference.column)
        table = self._projection.children[rows] if rows is not None else self._projection
        if column is None or column not in table.columns or column in table.json_columns:
            return None
        return rows, column

    async def _facts(
        self, connection: AsyncConnection, stream_ids: Sequence[str]
    ) -> Mapping[str, StoredFacts]:
        rule = self._projection.rule
        return await rule.stored(connection, stream_ids) if rule else {}
