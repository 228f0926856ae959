"""Whether the database is such that a projection can be written to it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from sqlalchemy import Table
from sqlalchemy.ext.asyncio import AsyncEngine

from worker.letters import DeadLetter
from worker.migrate import check_schema
from worker.projection import Projection

_ANSWER_SECONDS = 10.0
_NOT_LONG = "SELECT set_config('lock_timeout', '5s', true)"


async def check_database(engine: AsyncEngine, names: str, projection: Projection) -> None:
    """Raise what a transaction of this projection would meet, without writing anything; see `classify`.

    That is an error of the connection, SchemaError, or PostgreSQL's own words on what is missing: a table, a
    column, a right, or the right to write at all. TimeoutError if the server does not answer soon. ``names``
    is what WORKER_PROJECTIONS says: modules have schemas of their own.
    """
    child_tables = [child.table for child in projection.children.values()]
    async with asyncio.timeout(_ANSWER_SECONDS):
        await check_schema(engine, names, [projection])
        for table in (DeadLetter.__table__, projection.table, *child_tables):
            assert isinstance(table, Table)
            async with engine.begin() as connection:
                await connection.exec_driver_sql(_NOT_LONG)
                for statement in _trials(table, engine, deletes=table in child_tables):
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
