"""The migrations make the tables that the code declares."""

from __future__ import annotations

from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncEngine

from projections.models import Base
from worker.campaign_tables import RebuildRecord
from worker.migrate import VERSION_TABLE


def _difference(connection: Connection) -> object:
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    return compare_metadata(context, [Base.metadata, RebuildRecord.metadata])  # type: ignore[arg-type]


async def test_the_migrations_make_what_the_code_declares(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        assert await connection.run_sync(_difference) == []
