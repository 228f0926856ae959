"""The database schema: bringing it up to date, and seeing whether it is."""

from __future__ import annotations

from functools import cache
from importlib.resources import as_file, files
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncEngine

from worker.database import parse_database_url
from worker.errors import SchemaError

VERSION_TABLE = "projection_worker_schema"
"""Not Alembic's usual name, since the database may hold an application's own migrations too."""


def migrate(database_url: str) -> str:
    """Bring the schema up to date and return its revision. Safe to run twice, and several times at once."""
    with as_file(files("migrations")) as scripts:
        config = _config(scripts)
        config.attributes["database_url"] = parse_database_url(database_url)
        command.upgrade(config, "head")
        return _newest(config)


async def check_schema(engine: AsyncEngine) -> None:
    """Raise SchemaError unless the schema is the one this version was made for, or a newer one.

    A newer one is what replicas see that still run while a deployment migrates; migrations only add.
    """
    async with engine.connect() as connection:
        current = await connection.run_sync(_revision)
    known, newest = _revisions()
    if current is None:
        raise SchemaError(
            "The database has no schema for projection-worker yet: run `projection-worker migrate`."
        )
    if current in known and current != newest:
        raise SchemaError(
            f"The database schema is at revision {current}, older than {newest}, which this version needs: "
            "run `projection-worker migrate`."
        )


@cache
def _revisions() -> tuple[frozenset[str], str]:
    """All revisions that this version knows, and the newest of them. Workers ask every few seconds."""
    with as_file(files("migrations")) as scripts:
        config = _config(scripts)
        known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
        return frozenset(known), _newest(config)


def _revision(connection: Connection) -> str | None:
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    return context.get_current_revision()


def _config(scripts: Path) -> Config:
    config = Config()
    config.set_main_option("script_location", str(scripts).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _newest(config: Config) -> str:
    newest = ScriptDirectory.from_config(config).get_current_head()
    assert newest is not None
    return newest
