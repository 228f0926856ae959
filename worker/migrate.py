"""The database schema: bringing it up to date, and seeing whether it is."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect
from sqlalchemy.ext.asyncio import AsyncEngine

from worker.branches import OWN, Branch, State, branches, configuration, states
from worker.database import parse_database_url
from worker.errors import SchemaError
from worker.loading import ProjectionsModule, load_modules
from worker.projection import Projection

VERSION_TABLE = "projection_worker_schema"
"""Not Alembic's usual name, since the database may hold an application's own migrations too."""


def migrate(database_url: str, modules: Sequence[ProjectionsModule] = ()) -> str:
    """Bring our schema and that of these modules up to date, and tell the revision of each.

    Safe to run twice, and several times at once: all of it is one transaction, under a lock. What a newer
    version has made is left as it is.
    """
    known = branches(modules)
    config = configuration(*(branch.folder for branch in known))
    config.attributes["database_url"] = parse_database_url(database_url)
    script = ScriptDirectory.from_config(config)

    def upgrade(held: Any, context: MigrationContext) -> Any:
        assert context.connection is not None
        return script._upgrade_revs("heads", _applied(known, held, context.connection))

    with EnvironmentContext(config, script, fn=upgrade, destination_rev="heads"):
        script.run_env()
    own, *others = known
    at = [f"revision {', '.join(sorted(own.heads))}"]
    at += [f"{branch.name} at {', '.join(sorted(branch.heads)) or 'none yet'}" for branch in others]
    return ", ".join(at)


def _applied(known: Sequence[Branch], held: Collection[str], connection: Connection) -> Any:
    """What Alembic is to take for applied: it must not hear of revisions that it cannot find, nor begin anew
    with a branch of which a newer version has been here."""
    found = states(known, held, inspect(connection).get_table_names())
    applied = {revision for branch in known for revision in branch.revisions.intersection(held)}
    return tuple(applied.union(*(branch.heads for branch, state in found if state is State.NEWER)))


async def check_schema(
    engine: AsyncEngine, names: str | None = None, projections: Iterable[Projection] | None = None
) -> None:
    """Raise SchemaError unless our schema is the one this version was made for, or a newer one.

    The same goes for the schema of each module that WORKER_PROJECTIONS ``names`` and that keeps migrations;
    with ``projections`` only of those modules that hold one of these.
    """
    modules = load_modules(names) if names is not None else []
    known = branches(modules)
    wanted = {OWN, *(module.name for module in modules if _concerns(module, projections))}
    async with engine.connect() as connection:
        held, tables = await connection.run_sync(_look)
    for branch, state in states(known, held, tables):
        if branch.name in wanted:
            _check(branch, state, held)


def _concerns(module: ProjectionsModule, projections: Iterable[Projection] | None) -> bool:
    return projections is None or any(projection in module.projections for projection in projections)


def _check(branch: Branch, state: State, held: Collection[str]) -> None:
    whose = "" if branch.name == OWN else f" of module {branch.name}"
    if state is State.MISSING:
        if not whose:
            raise SchemaError(
                "The database has no schema for projection-worker yet: run `projection-worker migrate`."
            )
        raise SchemaError(f"The database has no schema{whose} yet: run `projection-worker migrate`.")
    if state is State.OLDER:
        current = ", ".join(sorted(branch.revisions.intersection(held)))
        raise SchemaError(
            f"The database schema{whose} is at revision {current}, older than "
            f"{', '.join(sorted(branch.heads))}, which this version needs: run `projection-worker migrate`."
        )


def _look(connection: Connection) -> tuple[tuple[str, ...], list[str]]:
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    return context.get_current_heads(), inspect(connection).get_table_names()
