"""Rows as parameters of statements: an array for each column, which PostgreSQL takes apart by ``unnest``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import JSON, Column, Dialect, Enum, String, Table
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.row import RawJson
from worker.trouble import Trouble, classify


class RowArrays:
    """How the columns of one table are spelled where rows travel as arrays."""

    def __init__(self, table: Table, dialect: Dialect) -> None:
        self.name = dialect.identifier_preparer.format_table(table)
        self.quote = dialect.identifier_preparer.quote
        self._types = {column.key: sql_type(column, dialect) for column in table.columns}
        self._exact_types = {column.key: column.type.compile(dialect=dialect) for column in table.columns}
        self._json_columns = frozenset(c.key for c in table.columns if isinstance(c.type, JSON))

    def unnest(self, columns: Sequence[str]) -> str:
        """A FROM item ``i`` of these columns, one array parameter each; JSON travels as text."""
        arrays = ", ".join(f"${at}::{self._types[c]}[]" for at, c in enumerate(columns, 1))
        return f"unnest({arrays}) AS i({', '.join(map(self.quote, columns))})"

    def taken(self, column: str) -> str:
        """A column of ``i`` as the table takes it."""
        return f"i.{self.quote(column)}" + ("::jsonb" if column in self._json_columns else "")

    def read(self, column: str) -> str:
        """A column as it is selected: JSON as text, so that it need not be decoded."""
        return self.quote(column) + ("::text" if column in self._json_columns else "")

    def value(self, column: str, read: Any) -> Any:
        """What was read of a column so, as rows hold it."""
        return RawJson(read) if column in self._json_columns and read is not None else read

    async def same_when_stored(
        self, connection: AsyncConnection, column: str, pairs: Sequence[tuple[Any, Any]]
    ) -> list[bool]:
        """Of each pair, whether the first, were it written to this column, would be read as the second.

        A numeric of two digits rounds, and a real has fewer digits than a float. Not for JSON.
        """
        exact_type = self._exact_types[column]
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
        first = await self.same_when_stored(connection, column, pairs[:middle])
        return first + await self.same_when_stored(connection, column, pairs[middle:])


def sql_type(column: Column[Any], dialect: Dialect) -> str:
    """The type of a column as an array parameter spells it.

    JSON travels as text, and so does text of limited length: a cast to its type would cut it without a word.
    """
    is_text = isinstance(column.type, String) and not (
        isinstance(column.type, Enum) and column.type.native_enum
    )
    return "text" if is_text or isinstance(column.type, JSON) else column.type.compile(dialect=dialect)


def as_parameters(values: Iterable[Any]) -> list[Any]:
    """Values of rows as the driver takes them."""
    return [value.text if isinstance(value, RawJson) else value for value in values]


async def fetch(connection: AsyncConnection, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
    """All rows of a statement with parameters $1, $2, ..."""
    return [tuple(row) for row in await connection.exec_driver_sql(sql, parameters)]
