"""The table of one projection: statements on its rows, within transactions that others open.

All statements address a batch with arrays and ``unnest``. Rows are locked in the order of their keys, or
passed over where another transaction has locked them, so that no two ever wait for each other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Dialect
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.children import AllChildRows
from worker.letters import Letter
from worker.projection import KEPT_COLUMNS, Projection
from worker.row import RawJson, RowState
from worker.row_arrays import RowArrays, as_parameters, fetch

_STAMP = ("last_event_id", "generation", "version")


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a row is recognised by: a write succeeds only while the row bears the stamp it was loaded with.

    The position alone would not do: after an undo a row may return to an old position.
    """

    last_event_id: str | None
    generation: int
    version: int

    def at_most_moved_on_from(self, earlier: Stamp) -> bool:
        """Whether the row was at most folded on since, so that what was folded of its past still holds."""
        return (self.generation, self.version) == (earlier.generation, earlier.version)


@dataclass(frozen=True, slots=True)
class RowHead:
    """What the worker itself keeps in a row; see `worker.projection.ProjectedRow`."""

    stamp: Stamp
    first_event_id: str | None


@dataclass(frozen=True, slots=True)
class StoredRow:
    """A row as it is committed, without the columns that a cross-stream rule computes."""

    stamp: Stamp
    first_event_id: str | None
    state: RowState


@dataclass(frozen=True, slots=True)
class RowWrite:
    """One stream's change. ``loaded`` is None where there was no row.

    With ``replace`` the row was folded from the start of its log, so every column is written; else only
    ``changed`` ones are, and ``updated_at`` None leaves that column as it is. ``passed`` are events that
    moved the position and nothing else. Open dead letters of the stream up to event ``settles`` are settled.
    ``children`` is what becomes of child rows: with ``replace`` they are all that there are.
    """

    stream_id: str
    loaded: Stamp | None
    row: StoredRow
    changed: frozenset[str]
    updated_at: datetime | None
    facts: tuple[Any, ...]
    replace: bool
    passed: tuple[Letter, ...] = ()
    settles: str | None = None
    children: AllChildRows = field(default_factory=dict)


class Table:
    """What is read of, and written to, a projection's table."""

    def __init__(self, projection: Projection, dialect: Dialect) -> None:
        self._projection = projection
        self.arrays = RowArrays(projection.table, dialect)
        self.name = self.arrays.name
        kept = {*KEPT_COLUMNS, *projection.columns, *(projection.rule.columns if projection.rule else ())}
        self._select = f"""
            SELECT stream_id, last_event_id, generation, version, first_event_id{
            "".join(f", {self.arrays.read(c)}" for c in projection.columns)
        }
            FROM {self.name} WHERE stream_id = ANY($1::text[])"""
        self._kept = [c.key for c in projection.table.columns if c.key in kept]
        self._select_kept = f"""
            SELECT {", ".join(map(self.arrays.read, self._kept))}
            FROM {self.name} WHERE stream_id = ANY($1::text[])"""
        self._stamps = f"""
            SELECT stream_id, last_event_id, generation, version
            FROM {self.name} WHERE stream_id = ANY($1::text[])"""

    async def rows(self, connection: AsyncConnection, stream_ids: Collection[str]) -> dict[str, StoredRow]:
        """The rows of these streams; those that have none are left out."""
        found = await fetch(connection, self._select, list(stream_ids))
        return {row[0]: self._stored(row) for row in found}

    def _stored(self, row: tuple[Any, ...]) -> StoredRow:
        json_columns = self._projection.json_columns
        state = tuple(
            RawJson(value) if value is not None and column in json_columns else value
            for column, value in zip(self._projection.columns, row[5:], strict=True)
        )
        return StoredRow(Stamp(*row[1:4]), row[4], state)

    async def kept(
        self, connection: AsyncConnection, stream_ids: Collection[str]
    ) -> dict[str, dict[str, Any]]:
        """All columns of these streams' rows that are not other applications', by name; JSON as RawJson."""
        rows = await fetch(connection, self._select_kept, list(stream_ids))
        named = [dict(zip(self._kept, map(self.arrays.value, self._kept, row), strict=True)) for row in rows]
        return {row["stream_id"]: row for row in named}

    async def kept_bytes(self, connection: AsyncConnection, stream_ids: Collection[str]) -> dict[str, int]:
        """About how many bytes `kept` would give of each of these rows, compressed as they lie there."""
        sizes = " + ".join(f"coalesce(pg_column_size({self.arrays.quote(c)}), 0)" for c in self._kept)
        sql = f"SELECT stream_id, {sizes} FROM {self.name} WHERE stream_id = ANY($1::text[])"
        return {row[0]: row[1] for row in await fetch(connection, sql, list(stream_ids))}

    async def stamps(self, connection: AsyncConnection, stream_ids: Collection[str]) -> dict[str, Stamp]:
        """The stamp of every stream that has a row, also where the rest of the row cannot be loaded."""
        return {row[0]: Stamp(*row[1:]) for row in await fetch(connection, self._stamps, list(stream_ids))}

    async def heads(self, connection: AsyncConnection, stream_ids: Collection[str]) -> dict[str, RowHead]:
        """What the worker keeps in the rows of these streams, also where the rest cannot be loaded."""
        sql = f"""
            SELECT stream_id, last_event_id, generation, version, first_event_id
            FROM {self.name} WHERE stream_id = ANY($1::text[])"""
        rows = await fetch(connection, sql, list(stream_ids))
        return {row[0]: RowHead(Stamp(*row[1:4]), row[4]) for row in rows}

    async def lock(self, connection: AsyncConnection, stream_ids: Collection[str]) -> dict[str, Stamp]:
        """Lock the rows of these streams, in the order of their keys, and tell their stamps."""
        if not stream_ids:
            return {}
        sql = f'{self._stamps} ORDER BY stream_id COLLATE "C" FOR NO KEY UPDATE'
        rows = await fetch(connection, sql, sorted(stream_ids, key=str.encode))
        return {row[0]: Stamp(*row[1:]) for row in rows}

    async def insert(self, connection: AsyncConnection, writes: Sequence[RowWrite]) -> set[str]:
        """Insert rows that were missing; the streams for which that succeeded.

        An upsert would bring back half of a row that was deleted meanwhile.
        """
        if not writes:
            return set()
        columns = (
            "stream_id",
            "last_event_id",
            "generation",
            "version",
            "first_event_id",
            "updated_at",
            *self._projection.columns,
        )
        names = ", ".join(map(self.arrays.quote, columns))
        sql = f"""
            INSERT INTO {self.name} ({names})
            SELECT {self._taken(columns)} FROM {self.arrays.unnest(columns)}
            ON CONFLICT (stream_id) DO NOTHING RETURNING stream_id"""
        return {row[0] for row in await fetch(connection, sql, *self._arrays(columns, writes))}

    async def update(self, connection: AsyncConnection, writes: Sequence[RowWrite]) -> set[str]:
        """Update rows that bear the stamp they were loaded with; the streams of which that is so.

        One statement for each set of changed columns. Each first locks its rows and passes over those that
        another transaction has locked, perhaps for hours, so that nobody waits; the comparison is made with
        the row as it is then. A trigger or a policy of another application may leave a row as it was: it has
        not won either.
        """
        updated: set[str] = set()
        groups: dict[tuple[str, ...], list[RowWrite]] = defaultdict(list)
        for write in writes:
            kept = ("generation", "version", "first_event_id") if write.replace else ()
            folded = [c for c in self._projection.columns if write.replace or c in write.changed]
            groups[("last_event_id", *kept, *folded)].append(write)
        for columns, group in groups.items():
            keyed = ("stream_id", "updated_at", *columns)
            stamps = [write.loaded for write in group if write.loaded]
            loaded = [[getattr(stamp, part) for stamp in stamps] for part in _STAMP]
            assignments = ", ".join(f"{self.arrays.quote(c)} = {self.arrays.taken(c)}" for c in columns)
            updated_at = "i.updated_at" if group[0].replace else "coalesce(i.updated_at, t.updated_at)"
            ids, generations, versions = range(len(keyed) + 1, len(keyed) + 4)
            sql = f"""
                WITH worker_locked AS MATERIALIZED (
                    SELECT stream_id FROM {self.name} WHERE stream_id = ANY($1::text[])
                    ORDER BY stream_id COLLATE "C" FOR NO KEY UPDATE SKIP LOCKED)
                UPDATE {self.name} AS t
                SET {assignments}, updated_at = {updated_at}
                FROM {self.arrays.unnest(keyed)}
                JOIN unnest($1::text[], ${ids}::text[], ${generations}::int[], ${versions}::int[])
                    AS worker_loaded(stream_id, last_event_id, generation, version) USING (stream_id)
                JOIN worker_locked USING (stream_id)
                WHERE t.stream_id = i.stream_id
                  AND t.last_event_id IS NOT DISTINCT FROM worker_loaded.last_event_id
                  AND t.generation = worker_loaded.generation AND t.version = worker_loaded.version
                RETURNING t.stream_id"""
            values = (*self._arrays(keyed, group), *loaded)
            updated |= {row[0] for row in await fetch(connection, sql, *values)}
        return updated

    async def delete(self, connection: AsyncConnection, stream_ids: Collection[str]) -> None:
        """Delete locked rows, with all their columns."""
        sql = f"DELETE FROM {self.name} WHERE stream_id = ANY($1::text[])"
        await connection.exec_driver_sql(sql, (list(stream_ids),))

    async def fence(self, connection: AsyncConnection, stream_id: str) -> None:
        """See to it that whoever has loaded this stream's row already loses its comparison.

        Raises the row's generation; where there is no row, makes one without a position, which folds from the
        start of the log as if it were not there.
        """
        raise_generation = f"""
            UPDATE {self.name} SET generation = generation + 1 WHERE stream_id = $1 RETURNING stream_id"""
        if await fetch(connection, raise_generation, stream_id):
            return
        columns = ("stream_id", "generation", *self._projection.columns)
        values = [stream_id, 1, *as_parameters(self._projection.new_state)]
        insert = f"""
            INSERT INTO {self.name} ({", ".join(map(self.arrays.quote, columns))})
            SELECT {self._taken(columns)} FROM {self.arrays.unnest(columns)}
            ON CONFLICT (stream_id) DO NOTHING RETURNING stream_id"""
        if not await fetch(connection, insert, *([value] for value in values)):
            await fetch(connection, raise_generation, stream_id)  # Somebody else has just made the row.

    async def touch(self, connection: AsyncConnection, stream_id: str) -> None:
        """Write a row as it is."""
        sql = f"UPDATE {self.name} SET generation = generation WHERE stream_id = $1"
        await connection.exec_driver_sql(sql, (stream_id,))

    def _taken(self, columns: Sequence[str]) -> str:
        return ", ".join(map(self.arrays.taken, columns))

    def _arrays(self, columns: Sequence[str], writes: Sequence[RowWrite]) -> tuple[list[Any], ...]:
        values = [self._values(write) for write in writes]
        return tuple([value[column] for value in values] for column in columns)

    def _values(self, write: RowWrite) -> Mapping[str, Any]:
        stamp = write.row.stamp
        values: dict[str, Any] = {
            "stream_id": write.stream_id,
            "last_event_id": stamp.last_event_id,
            "generation": stamp.generation,
            "version": stamp.version,
            "first_event_id": write.row.first_event_id,
            "updated_at": write.updated_at,
        }
        values.update(zip(self._projection.columns, as_parameters(write.row.state), strict=True))
        return values
