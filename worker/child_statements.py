"""Statements on a projection's child rows, within transactions that others open.

Whoever writes them has written the row that they belong to in the same transaction, and so holds its lock:
no two ever write the child rows of one stream at a time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Dialect
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.children import DELETED, ChildTable, Key, bytes_of
from worker.difference import Columns
from worker.projection import Projection
from worker.row_arrays import RowArrays, as_parameters, fetch
from worker.table import RowWrite

_ROWS_A_STATEMENT = 5_000
_BYTES_A_STATEMENT = 4 * 1024 * 1024
"""So much PostgreSQL takes in one message, and makes generated columns of before a statement times out."""

_KeyedValues = tuple[str, Key, Mapping[str, Any]]
"""A stream, the key of one of its child rows, and values."""

StoredChildRows = Mapping[str, Mapping[Key, Columns]]
"""One stream's child rows, by the name that the projection gives their table."""


class ChildStatements:
    """The tables of child rows of one projection."""

    def __init__(self, projection: Projection, dialect: Dialect) -> None:
        self._tables = [_Statements(table, dialect) for table in projection.children.values()]

    async def write(self, connection: AsyncConnection, writes: Sequence[RowWrite]) -> None:
        """Write the child rows of streams whose rows were written."""
        for table in self._tables:
            await table.write(connection, writes)

    async def stored(
        self, connection: AsyncConnection, stream_ids: Collection[str]
    ) -> dict[str, StoredChildRows]:
        """All child rows of these streams; those that have none are left out."""
        found: dict[str, dict[str, dict[Key, Columns]]] = defaultdict(lambda: defaultdict(dict))
        for table in self._tables:
            for stream_id, key, values in await table.stored(connection, stream_ids):
                found[stream_id][table.name][key] = values
        return dict(found)

    async def count(self, connection: AsyncConnection, stream_id: str) -> dict[str, int]:
        """How many rows a stream has, by the name that the projection gives their table."""
        return {table.name: await table.count(connection, stream_id) for table in self._tables}

    async def bytes(self, connection: AsyncConnection, stream_ids: Collection[str]) -> dict[str, int]:
        """About how many bytes `stored` would give of each stream, compressed as they lie there."""
        sizes: dict[str, int] = defaultdict(int)
        for table in self._tables:
            for stream_id, size in await table.bytes(connection, stream_ids):
                sizes[stream_id] += size
        return sizes

    def arrays(self, name: str) -> RowArrays:
        """How the columns of these child rows are spelled."""
        return next(table.arrays for table in self._tables if table.name == name)


class _Statements:
    """One table of child rows."""

    def __init__(self, declared: ChildTable, dialect: Dialect) -> None:
        self.name = declared.name
        self._declared = declared
        self.arrays = RowArrays(declared.table, dialect)
        self._quote = self.arrays.quote
        self._table = self.arrays.name
        self._key = self._quote(declared.key)

    async def write(self, connection: AsyncConnection, writes: Sequence[RowWrite]) -> None:
        done = [(write, write.children.get(self.name)) for write in writes]
        cleared = [w.stream_id for w, rows in done if (w.replace and w.loaded) or (rows and rows.cleared)]
        if cleared:
            sql = f"DELETE FROM {self._table} WHERE stream_id = ANY($1::text[])"
            await connection.exec_driver_sql(sql, (cleared,))
        deleted: list[_KeyedValues] = []
        put: list[_KeyedValues] = []
        changed: dict[tuple[str, ...], list[_KeyedValues]] = defaultdict(list)
        for write, rows in done:
            for key, effect in rows.writes.items() if rows else ():
                if effect is DELETED:
                    deleted.append((write.stream_id, key, {}))
                elif effect.whole:
                    put.append((write.stream_id, key, effect.values))
                elif not write.replace:  # else there is no row of this key, since nothing has put one
                    changed[tuple(effect.values)].append((write.stream_id, key, effect.values))
        await self._delete(connection, deleted)
        await self._put(connection, put)
        for columns, values in changed.items():
            await self._change(connection, columns, values)

    async def _delete(self, connection: AsyncConnection, rows: Sequence[_KeyedValues]) -> None:
        for some in _parts(rows):
            sql = f"""
                DELETE FROM {self._table} AS t USING {self._unnest(())}
                WHERE t.stream_id = i.stream_id AND t.{self._key} = i.{self._key}"""
            await connection.exec_driver_sql(sql, self._arrays((), some))

    async def _put(self, connection: AsyncConnection, rows: Sequence[_KeyedValues]) -> None:
        columns = self._declared.columns
        names = ", ".join(["stream_id", self._key, *map(self._quote, columns)])
        casts = ", ".join(["i.stream_id", f"i.{self._key}", *map(self.arrays.taken, columns)])
        replaced = ", ".join(f"{self._quote(c)} = excluded.{self._quote(c)}" for c in columns)
        for some in _parts(rows):
            sql = f"""
                INSERT INTO {self._table} ({names}) SELECT {casts} FROM {self._unnest(columns)}
                ON CONFLICT (stream_id, {self._key})
                DO {f"UPDATE SET {replaced}" if replaced else "NOTHING"}"""
            await connection.exec_driver_sql(sql, self._arrays(columns, some))

    async def _change(
        self, connection: AsyncConnection, columns: Sequence[str], rows: Sequence[_KeyedValues]
    ) -> None:
        changes = ", ".join(f"{self._quote(c)} = {self.arrays.taken(c)}" for c in columns)
        for some in _parts(rows):
            sql = f"""
                UPDATE {self._table} AS t SET {changes} FROM {self._unnest(columns)}
                WHERE t.stream_id = i.stream_id AND t.{self._key} = i.{self._key}"""
            await connection.exec_driver_sql(sql, self._arrays(columns, some))

    async def stored(
        self, connection: AsyncConnection, stream_ids: Collection[str]
    ) -> list[tuple[str, Key, Columns]]:
        columns = self._declared.columns
        read = "".join(f", {self.arrays.read(c)}" for c in columns)
        sql = f"SELECT stream_id, {self._key}{read} FROM {self._table} WHERE stream_id = ANY($1::text[])"
        return [
            (row[0], row[1], dict(zip(columns, map(self.arrays.value, columns, row[2:]), strict=True)))
            for row in await fetch(connection, sql, list(stream_ids))
        ]

    async def count(self, connection: AsyncConnection, stream_id: str) -> int:
        sql = f"SELECT count(*) FROM {self._table} WHERE stream_id = $1"
        [[rows]] = await fetch(connection, sql, stream_id)
        return int(rows)

    async def bytes(self, connection: AsyncConnection, stream_ids: Collection[str]) -> list[tuple[str, int]]:
        sql = f"""
            SELECT stream_id, sum(pg_column_size(t.*))::bigint FROM {self._table} AS t
            WHERE stream_id = ANY($1::text[]) GROUP BY stream_id"""
        return [(row[0], row[1]) for row in await fetch(connection, sql, list(stream_ids))]

    def _unnest(self, columns: Sequence[str]) -> str:
        return self.arrays.unnest(("stream_id", self._declared.key, *columns))

    @staticmethod
    def _arrays(columns: Sequence[str], rows: Sequence[_KeyedValues]) -> tuple[list[Any], ...]:
        ids = [stream_id for stream_id, _, _ in rows]
        keys = [key for _, key, _ in rows]
        return (ids, keys, *(as_parameters(value[column] for _, _, value in rows) for column in columns))


def _parts(rows: Sequence[_KeyedValues]) -> Iterator[Sequence[_KeyedValues]]:
    part: list[_KeyedValues] = []
    size = 0
    for row in rows:
        row_bytes = bytes_of(row[2])
        if part and (len(part) == _ROWS_A_STATEMENT or size + row_bytes > _BYTES_A_STATEMENT):
            yield part
            part, size = [], 0
        part.append(row)
        size += row_bytes
    if part:
        yield part
