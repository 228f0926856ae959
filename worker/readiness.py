"""Whether the database is such that a projection can be written to it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from sqlalchemy import Table
from sqlalchemy.ext.asyncio import AsyncEngine

from worker.errors import SchemaError
from worker.letters import DeadLetter
from worker.migrate import check_schema
from worker.projection import Projection

_ANSWER_SECONDS = 10.0
_CASCADES = """
    SELECT EXISTS (
        SELECT FROM pg_constraint WHERE conrelid = to_regclass($1) AND contype = 'f' AND confdeltype = 'c')"""
_NOT_LONG = "SELECT set_config('lock_timeout', '5s', true)"


async def check_database(engine: AsyncEngine, names: str, projection: Projection) -> None:
    """Raise what a transaction of this projection would meet, without writing anything; see `classify`.

    That is an error of the connection, SchemaError, or PostgreSQL's own words on what is missing: a table, a
    column, a right, or the right to write at all. TimeoutError if the server does not answer soon. ``names``
    is what WORKER_PROJECTIONS says: modules have schemas of their own.
    """
    async with asyncio.timeout(_ANSWER_SECONDS):
        await check_schema(engine, names, [projection])
        for table, deletes in needed_tables(projection):
            await try_writing(engine, table, deletes=deletes)
        for child in projection.children.values():
            await _check_goes_with_row(engine, child.table)


async def _check_goes_with_row(engine: AsyncEngine, table: Table) -> None:
    """Raise SchemaError unless the database, too, deletes child rows with the row that they belong to."""
    name = engine.dialect.identifier_preparer.format_table(table)
    async with engine.connect() as connection:
        found = await connection.exec_driver_sql(_CASCADES, (name,))
        if not found.scalar_one():
            raise SchemaError(
                f"Table {name} has no foreign key with ON DELETE CASCADE in the database, so that child rows "
                "would outlive their row: add the one that the model declares."
            )


def needed_tables(projection: Projection) -> list[tuple[Table, bool]]:
    """The tables that a projection's rows are written to, and whether rows are deleted from them, too."""
    letters = DeadLetter.__table__
    assert isinstance(letters, Table)
    children = [(child.table, True) for child in projection.children.values()]
    return [(letters, False), (projection.table, False), *children]


async def try_writing(engine: AsyncEngine, table: Table, *, deletes: bool) -> None:
    """Raise what writing to a table would meet, without writing anything."""
    async with engine.begin() as connection:
        await connection.exec_driver_sql(_NOT_LONG)
        for statement in _trials(table, engine, deletes=deletes):
            await connection.exec_driver_sql(statement)


def _trials(table: Table, engine: AsyncEngine, *, deletes: bool) -> Iterable[str]:
    """Statements that concern no row, but need everything that a write needs.

    An INSERT is only explained: one without rows would still set off other people's triggers.
    """
    preparer = engine.dialect.identifier_preparer
    name = preparer.format_table(table)
    columns = ", ".join(preparer.quote(column.name) for column in table.columns if column.computed is None)
    yield f"SELECT {columns} FROM {name} WHERE false FOR NO KEY UPDATE"
    yield f"EXPLAIN INSERT INTO {name} ({columns}) SELECT {columns} FROM {name} WHERE false"
    if deletes:
        yield f"EXPLAIN DELETE FROM {name} WHERE false"
