"""Rows in PostgreSQL: loaded in batches, and written only if they still are the ones that were loaded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import JSON, Column, Dialect, Enum, String
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from worker.projection import Projection
from worker.row import RawJson, RowState
from worker.rule import RuleTransaction, RuleWrite

# A worker that is frozen inside a transaction must not hold up the others for longer than this.
_LOCK_TIMEOUT = "5s"
_STATEMENT_TIMEOUT = "30s"
_IDLE_IN_TRANSACTION_TIMEOUT = "10s"

_BEGIN = f"""
SELECT set_config('synchronous_commit', 'on', true),
       set_config('lock_timeout', '{_LOCK_TIMEOUT}', true),
       set_config('statement_timeout', '{_STATEMENT_TIMEOUT}', true),
       set_config('idle_in_transaction_session_timeout', '{_IDLE_IN_TRANSACTION_TIMEOUT}', true)
"""


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a row is recognised by: a write succeeds only while the row bears the stamp it was loaded with.

    The position alone would not do: after an undo a row may return to an old position.
    """

    last_event_id: str | None
    generation: int
    version: int


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
    ``changed`` ones are. ``updated_at`` None leaves the column as it is.
    """

    stream_id: str
    loaded: Stamp | None
    row: StoredRow
    changed: frozenset[str]
    updated_at: datetime | None
    facts: tuple[Any, ...]
    replace: bool


class Store:
    """The table of one projection.

    All statements address a batch with arrays and ``unnest``. Rows are always locked in the order of their
    keys, so that two replicas that write the same rows cannot wait for each other.
    """

    def __init__(self, engine: AsyncEngine, projection: Projection) -> None:
        self._engine = engine
        self._projection = projection
        self._quote = engine.dialect.identifier_preparer.quote
        self._table = engine.dialect.identifier_preparer.format_table(projection.table)
        self._types = {c.key: _sql_type(c, engine.dialect) for c in projection.table.columns}
        self._select = f"""
            SELECT stream_id, last_event_id, generation, version, first_event_id{
            "".join(f", {self._loaded(c)}" for c in projection.columns)
        }
            FROM {self._table} WHERE stream_id = ANY($1::text[])"""
        self._lock = f"""
            SELECT stream_id, last_event_id, generation, version
            FROM {self._table} WHERE stream_id = ANY($1::text[])
            ORDER BY stream_id COLLATE "C" FOR NO KEY UPDATE"""

    def _loaded(self, column: str) -> str:
        name = self._quote(column)
        return f"{name}::text" if column in self._projection.json_columns else name

    async def load(self, stream_ids: Collection[str]) -> dict[str, StoredRow]:
        """The rows of these streams; those that have none are left out."""
        if not stream_ids:
            return {}
        async with self._engine.connect() as connection:
            rows = await _fetch(connection, self._select, list(stream_ids))
        return {row[0]: self._stored(row) for row in rows}

    def _stored(self, row: tuple[Any, ...]) -> StoredRow:
        json_columns = self._projection.json_columns
        state = tuple(
            RawJson(value) if value is not None and column in json_columns else value
            for column, value in zip(self._projection.columns, row[5:], strict=True)
        )
        return StoredRow(Stamp(*row[1:4]), row[4], state)

    async def positions(self, stream_ids: Collection[str]) -> dict[str, str | None]:
        """The position of every stream that has a row."""
        sql = f"SELECT stream_id, last_event_id FROM {self._table} WHERE stream_id = ANY($1::text[])"
        async with self._engine.connect() as connection:
            return {row[0]: row[1] for row in await _fetch(connection, sql, list(stream_ids))}

    async def streams_after(self, stream_id: str, limit: int) -> list[str]:
        """Streams that have a projected row, from the one after ``stream_id``, in the primary key's order.

        Which order that is depends on the database; any would do to walk through the table.
        """
        sql = f"""
            SELECT stream_id FROM {self._table}
            WHERE stream_id > $1 AND last_event_id IS NOT NULL
            ORDER BY stream_id LIMIT $2"""
        async with self._engine.connect() as connection:
            return [row[0] for row in await _fetch(connection, sql, stream_id, limit)]

    async def write(self, writes: Sequence[RowWrite]) -> set[str]:
        """Write a batch in one transaction; the streams whose row still was the one loaded, and so won.

        The others are unchanged: another writer was there first, and the caller must load them again. When
        this raises, nothing of the batch is known to be written; after a lost connection it may be.
        """
        if not writes:
            return set()
        ordered = sorted(writes, key=lambda write: write.stream_id.encode())
        async with self._engine.begin() as connection:
            await connection.exec_driver_sql(_BEGIN)
            rule = await self._prepare_rule(connection, ordered)
            to_lock = {w.stream_id for w in ordered if w.loaded} | set(rule.affected if rule else ())
            current = await self._lock_rows(connection, to_lock)
            updates = [w for w in ordered if w.loaded and current.get(w.stream_id) == w.loaded]
            won = await self._insert(connection, [w for w in ordered if not w.loaded])
            await self._update(connection, updates)
            won |= {write.stream_id for write in updates}
            if rule:
                await rule.apply(won)
        return won

    async def _prepare_rule(
        self, connection: AsyncConnection, writes: Sequence[RowWrite]
    ) -> RuleTransaction | None:
        """The rule's part, unless no write of the batch concerns it."""
        concerned = [RuleWrite(w.stream_id, w.facts, w.replace) for w in writes if w.facts or w.replace]
        if not self._projection.rule or not concerned:
            return None
        return await self._projection.rule.prepare(connection, concerned)

    async def _lock_rows(self, connection: AsyncConnection, stream_ids: Collection[str]) -> dict[str, Stamp]:
        if not stream_ids:
            return {}
        rows = await _fetch(connection, self._lock, sorted(stream_ids, key=str.encode))
        return {row[0]: Stamp(*row[1:]) for row in rows}

    async def _insert(self, connection: AsyncConnection, writes: Sequence[RowWrite]) -> set[str]:
        """Insert rows that were missing. An upsert would bring back half of a row deleted meanwhile."""
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
            INSERT INTO {self._table} ({names})
            SELECT {self._cast(columns)} FROM {self._unnest(columns)}
            ON CONFLICT (stream_id) DO NOTHING RETURNING stream_id"""
        return {row[0] for row in await _fetch(connection, sql, *self._arrays(columns, writes))}

    async def _update(self, connection: AsyncConnection, writes: Sequence[RowWrite]) -> None:
        """Update locked rows: one statement for each set of changed columns."""
        groups: dict[tuple[str, ...], list[RowWrite]] = defaultdict(list)
        for write in writes:
            kept = ("generation", "version", "first_event_id") if write.replace else ()
            folded = [c for c in self._projection.columns if write.replace or c in write.changed]
            groups[("last_event_id", *kept, *folded)].append(write)
        for columns, group in groups.items():
            keyed = ("stream_id", "updated_at", *columns)
            assignments = ", ".join(f"{self._quote(c)} = {self._cast([c])}" for c in columns)
            sql = f"""
                UPDATE {self._table} AS t
                SET {assignments}, updated_at = coalesce(i.updated_at, t.updated_at)
                FROM {self._unnest(keyed)} WHERE t.stream_id = i.stream_id"""
            await connection.exec_driver_sql(sql, self._arrays(keyed, group))

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

    async def abandoned(self, limit: int) -> Sequence[str]:
        """Streams whose row is gone but whose facts still stand; none without a cross-stream rule."""
        if not self._projection.rule:
            return ()
        async with self._engine.connect() as connection:
            return await self._projection.rule.abandoned(connection, limit)

    async def withdraw(self, stream_ids: Sequence[str]) -> None:
        """Withdraw the facts of streams that have no row any more; one that has a row again is left alone."""
        rule = self._projection.rule
        if not rule or not stream_ids:
            return
        async with self._engine.begin() as connection:
            await connection.exec_driver_sql(_BEGIN)
            transaction = await rule.prepare(connection, [RuleWrite(s, (), replace=True) for s in stream_ids])
            alive = await self._lock_rows(connection, {*stream_ids, *transaction.affected})
            await transaction.apply(set(stream_ids) - alive.keys())

    async def fence(self, connection: AsyncConnection, stream_id: str) -> None:
        """See to it that whoever has loaded this stream's row already loses its comparison.

        Raises the row's generation; where there is no row, makes one without a position, which folds from the
        start of the log as if it were not there.
        """
        raise_generation = f"""
            UPDATE {self._table} SET generation = generation + 1 WHERE stream_id = $1 RETURNING stream_id"""
        if await _fetch(connection, raise_generation, stream_id):
            return
        columns = ("stream_id", "generation", *self._projection.columns)
        values = [stream_id, 1, *map(_as_parameter, self._projection.new_state)]
        insert = f"""
            INSERT INTO {self._table} ({", ".join(map(self._quote, columns))})
            SELECT {self._cast(columns)} FROM {self._unnest(columns)}
            ON CONFLICT (stream_id) DO NOTHING RETURNING stream_id"""
        if not await _fetch(connection, insert, *([value] for value in values)):
            await _fetch(connection, raise_generation, stream_id)  # Somebody else has just made the row.

    async def lock(self, connection: AsyncConnection, stream_id: str) -> Stamp | None:
        """Lock a stream's row and tell its stamp; None where there is no row."""
        return (await self._lock_rows(connection, [stream_id])).get(stream_id)

    async def count_rows(self) -> dict[int, int]:
        """How many rows there are of each version of the projection."""
        async with self._engine.connect() as connection:
            rows = await _fetch(connection, f"SELECT version, count(*) FROM {self._table} GROUP BY version")
        return {row[0]: row[1] for row in rows}


@asynccontextmanager
async def transaction(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A transaction with the timeouts that every write of ours has."""
    async with engine.begin() as connection:
        await connection.exec_driver_sql(_BEGIN)
        yield connection


def _sql_type(column: Column[Any], dialect: Dialect) -> str:
    """The type of a column as an array parameter spells it.

    JSON travels as text, and so does text of limited length: a cast to its type would cut it without a word.
    """
    is_text = isinstance(column.type, String) and not isinstance(column.type, Enum)
    return "text" if is_text or isinstance(column.type, JSON) else column.type.compile(dialect=dialect)


def _as_parameter(value: Any) -> Any:
    return value.text if isinstance(value, RawJson) else value


async def _fetch(connection: AsyncConnection, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in await connection.exec_driver_sql(sql, parameters)]
