"""The migrations make the tables that the code declares."""

from __future__ import annotations

from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, text
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


async def test_rows_are_stored_with_room_and_compressed_as_fast_as_the_server_can(
    engine: AsyncEngine,
) -> None:
    async with engine.connect() as connection:
        options = await connection.scalar(
            text("SELECT reloptions FROM pg_class WHERE oid = 'stream_projections'::regclass")
        )
        methods = await connection.scalars(
            text(
                "SELECT attcompression FROM pg_attribute WHERE attname IN ('plan', 'steps') "
                "AND attrelid = 'stream_projections'::regclass"
            )
        )
        known = await connection.scalar(
            text("SELECT enumvals FROM pg_settings WHERE name = 'default_toast_compression'")
        )
    assert options == ["fillfactor=50"]
    assert set(methods) == {b"l" if "lz4" in known else b"\0"}
