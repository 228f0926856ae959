"""Writing the next revision of a projections module's own tables."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alembic import command
from alembic.script import Script
from alembic.util import CommandError

from worker.branches import Branch, branches, configuration, tables_of
from worker.database import parse_database_url
from worker.errors import DeclarationError, SchemaError
from worker.loading import ProjectionsModule


def write_revision(
    database_url: str, modules: Sequence[ProjectionsModule], module: ProjectionsModule, message: str
) -> Path | None:
    """Write a revision that brings the module's tables from what the database has to what its models say.

    The first one begins a branch that is labelled with the module's name; its folder is made. Tables that
    are in no model are left alone. None, and no file, where there is nothing to change. Raises SchemaError
    unless the database is at the newest revision of all ``modules``, DeclarationError where the module names
    no folder.
    """
    if module.migrations is None:
        raise DeclarationError(
            f"Module {module.name} names no folder of migrations: write there "
            'migrations = Path(__file__).parent / "migrations".'
        )
    module.migrations.mkdir(parents=True, exist_ok=True)
    # Others may have named a folder, and not written their first revision yet.
    known = branches([other for other in modules if other.migrations and other.migrations.is_dir()])
    [own] = [branch for branch in known if branch.name == module.name]
    config = configuration(*(branch.folder for branch in known))
    config.cmd_opts = Namespace(quiet=True)
    config.attributes["database_url"] = parse_database_url(database_url)
    config.attributes["metadata"] = list({p.table.metadata: None for p in module.projections})
    tables = tables_of(module)
    config.attributes["include_name"] = lambda name, kind, _parents: kind != "table" or name in tables
    try:
        written = command.revision(
            config,
            message,
            autogenerate=True,
            version_path=own.folder,
            process_revision_directives=_leave_out_empty,
            **_place(own),
        )
    except CommandError as error:
        raise SchemaError(
            "The database is not at the newest revisions of what WORKER_PROJECTIONS names, and of no more "
            f"({str(error).rstrip('.')}): run `projection-worker migrate` first."
        ) from None
    return Path(written.path) if isinstance(written, Script) else None


def _place(branch: Branch) -> dict[str, Any]:
    if not branch.heads:
        return {"head": "base", "branch_label": branch.name}
    if len(branch.heads) > 1:
        raise DeclarationError(
            f"Module {branch.name}: its migrations end in {' and '.join(sorted(branch.heads))}; make one of "
            "them follow the other, or write a revision that merges them."
        )
    return {"head": next(iter(branch.heads))}


def _leave_out_empty(_context: Any, _revision: Any, directives: list[Any]) -> None:
    if directives[0].upgrade_ops.is_empty():
        directives.clear()
