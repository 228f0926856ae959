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

from sqlalchemy import JSON, Column, Dialect, Enum, String
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.children import AllChildRows
from worker.letters import Letter
from worker.projection import KEPT_COLUMNS, Projection
from worker.row import RawJson, RowState
from worker.trouble import Trouble, classify

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
        self._quote = dialect.identifier_preparer.quote
        self.name = dialect.identifier_preparer.format_table(projection.table)
        kept = {*KEPT_COLUMNS, *projection.columns, *(projection.rule.columns if projection.rule else ())}
        self._exact_types = {c.key: c.type.compile(dialect=dialect) for c in projection.table.columns}
        self._types = {c.key: sql_type(c, dialect) for c in projection.table.columns}
        self._select = f"""
            SELECT stream_id, last_event_id, generation, version, first_event_id{
            "".join(f", {self._loaded(c)}" for c in projection.columns)
        }
            FROM {self.name} WHERE stream_id = ANY($1::text[])"""
        self._kept = [c.key for c in projection.table.columns if c.key in kept]
        self._json_kept = {c.key for c in projection.table.columns if isinstance(c.type, JSON)} & kept
        texts = {c: f"{self._quote(c)}::text" for c in self._json_kept}
        self._select_kept = f"""
            SELECT {", ".join(texts.get(c, self._quote(c)) for c in self._kept)}
            FROM {self.name} WHERE stream_id = ANY($1::text[])"""
        self._stamps = f"""
            SELECT stream_id, last_event_id, generation, version
            FROM {self.name} WHERE stream_id = ANY($1::text[])"""

    def _loaded(self, column: str) -> str:
        name = self._quote(column)
        return f"{name}::text" if column in self._projection.json_columns else name

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
        named = [dict(zip(self._kept, row, strict=True)) for row in rows]
        for row in named:
            row.update({c: RawJson(row[c]) for c in self._json_kept if row[c] is not None})
        return {row["stream_id"]: row for row in named}

    async def kept_bytes(self, connection: AsyncConnection, stream_ids: Collection[str]) -> dict[str, int]:
        """About how many bytes `kept` would give of each of these rows, compressed as they lie there."""
        sizes = " + ".join(f"coalesce(pg_column_size({self._quote(c)}), 0)" for c in self._kept)
        sql = f"SELECT stream_id, {sizes} FROM {self.name} WHERE stream_id = ANY($1::text[])"
        return {row[0]: row[1] for row in await fetch(connection, sql, list(stream_ids))}

    async def same_when_stored(
        self, connection: AsyncConnection, column: str, pairs: Sequence[tuple[Any, Any]]
    ) -> list[bool]:
        """Whether values, were they written to this column, would be read again as what is stored there.

        A pair is a value and what is stored. A numeric of two digits rounds, and a real has fewer digits than
        a float. Not for JSON.
        """
        return await same_when_stored(connection, self._exact_types[column], pairs)

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
        names = ", ".join(map(self._quote, columns))
        sql = f"""
            INSERT INTO {self.name} ({names})
            SELECT {self._cast(columns)} FROM {self._unnest(columns)}
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
            assignments = ", ".join(f"{self._quote(c)} = {self._cast([c])}" for c in columns)
            updated_at = "i.updated_at" if group[0].replace else "coalesce(i.updated_at, t.updated_at)"
            ids, generations, versions = range(len(keyed) + 1, len(keyed) + 4)
            sql = f"""
                WITH worker_locked AS MATERIALIZED (
                    SELECT stream_id FROM {self.name} WHERE stream_id = ANY($1::text[])
                    ORDER BY stream_id COLLATE "C" FOR NO KEY UPDATE SKIP LOCKED)
                UPDATE {self.name} AS t
                SET {assignments}, updated_at = {updated_at}
                FROM {self._unnest(keyed)}
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
        values = [stream_id, 1, *map(_as_parameter, self._projection.new_state)]
        insert = f"""
            INSERT INTO {self.name} ({", ".join(map(self._quote, columns))})
            SELECT {self._cast(columns)} FROM {self._unnest(columns)}
            ON CONFLICT (stream_id) DO NOTHING RETURNING stream_id"""
        if not await fetch(connection, insert, *([value] for value in values)):
            await fetch(connection, raise_generation, stream_id)  # Somebody else has just made the row.

    async def touch(self, connection: AsyncConnection, stream_id: str) -> None:
        """Write a row as it is."""
        sql = f"UPDATE {self.name} SET generation = generation WHERE stream_id = $1"
        await connection.exec_driver_sql(sql, (stream_id,))

    def _unnest(self, columns: Sequence[str]) -> str:
        """A FROM item ``i`` of these columns, one array parameter each; JSON travels as text."""
        arrays = ", ".join(f"${at}::{self._types[c]}[]" for at, c in enumerate(columns, 1))
        return f"unnest({arrays}) AS i({', '.join(map(self._quote, columns))})"

    def _cast(self, columns: Sequence[str]) -> str:
        json_columns = self._projection.json_columns
        return ", ".join(f"i.{self._quote(c)}" + ("::jsonb" if c in json_columns else "") for c in columns)

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
        for column, value in zip(self._projection.columns, write.row.state, strict=True):
            values[column] = _as_parameter(value)
        return values


async def same_when_stored(
    connection: AsyncConnection, exact_type: str, pairs: Sequence[tuple[Any, Any]]
) -> list[bool]:
    """Of each pair, whether the first, written to a column of this SQL type, would be read as the second."""
    sql = f"""
        SELECT value IS NOT DISTINCT FROM stored
        FROM unnest($1::{exact_type}[], $2::{exact_type}[]) WITH ORDINALITY AS i(value, stored, at)
        ORDER BY at"""
    try:
        async with connection.begin_nested():
            values, stored = zip(*pairs, strict=True)
            return [bool(row[0]) for row in await fetch(connection, sql, list(values), list(stored))]
    except DBAPIError as error:
        if classify(error) is not Trouble.POISON:
            raise
    if len(pairs) == 1:
        return [False]  # It cannot even be stored.
    middle = len(pairs) // 2
    first = await same_when_stored(connection, exact_type, pairs[:middle])
    return first + await same_when_stored(connection, exact_type, pairs[middle:])


def sql_type(column: Column[Any], dialect: Dialect) -> str:
    """The type of a column as an array parameter spells it.

    JSON travels as text, and so does text of limited length: a cast to its type would cut it without a word.
    """
    is_text = isinstance(column.type, String) and not (
        isinstance(column.type, Enum) and column.type.native_enum
    )
    return "text" if is_text or isinstance(column.type, JSON) else column.type.compile(dialect=dialect)


def _as_parameter(value: Any) -> Any:
    return value.text if isinstance(value, RawJson) else value


async def fetch(connection: AsyncConnection, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
    """All rows of a statement with parameters $1, $2, ..."""
    return [tuple(row) for row in await connection.exec_driver_sql(sql, parameters)]
