"""Runs migrations for `projection-worker migrate`, and for `alembic` in a checkout."""

from __future__ import annotations

import asyncio

from alembic import context
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from projections.models import Base
from worker.campaign_tables import RebuildRecord
from worker.database import parse_database_url
from worker.migrate import VERSION_TABLE
from worker.settings import load_settings

# Any number does, as long as nobody else takes this lock.
_MIGRATION_LOCK = 7_165_218_431

# A new revision of a projections module is made from its own metadata.
_METADATA = context.config.attributes.get("metadata", [Base.metadata, RebuildRecord.metadata])


def _migrate(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=_METADATA,
        include_name=context.config.attributes.get("include_name"),
        version_table=VERSION_TABLE,
    )
    with context.begin_transaction():
        # Several replicas may migrate at once when they start: the later ones find nothing to do.
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
        context.run_migrations()


async def _run() -> None:
    url = context.config.attributes.get("database_url")
    if url is None:
        url = parse_database_url(load_settings("database_url").database_url.get_secret_value())
    engine = create_async_engine(url, poolclass=NullPool)
    try:
        async with engine.connect() as connection:
            await connection.run_sync(_migrate)
            await connection.commit()
    finally:
        await engine.dispose()


if context.is_offline_mode():
    context.configure(
        dialect_name="postgresql",
        target_metadata=_METADATA,
        literal_binds=True,
        version_table=VERSION_TABLE,
    )
    with context.begin_transaction():
        context.run_migrations()
else:
    asyncio.run(_run())
