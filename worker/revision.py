"""Writing the next revision of a projections module's own tables."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from alembic.autogenerate import RevisionContext
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError

from worker.branches import Branch, branches, configuration, tables_of
from worker.database import parse_database_url
from worker.errors import DeclarationError, SchemaError
from worker.loading import ProjectionsModule


def write_revision(database_url: str, module: ProjectionsModule, message: str) -> Path | None:
    """Write a revision that brings the module's tables from what the database has to what its models say.

    The first one begins a branch that is labelled with the module's name; its folder is made. Tables that
    are in no model are left alone, and it does not matter how far other branches are. None, and no file,
    where there is nothing to change. Raises SchemaError unless the database is at the module's newest
    revision, DeclarationError where the module names no folder.
    """
    folder = module.migrations
    if folder is None:
        raise DeclarationError(
            f"Module {module.name} names no folder of migrations: write there "
            'migrations = Path(__file__).parent / "migrations".'
        )
    folder.mkdir(parents=True, exist_ok=True)
    try:
        [_, branch] = branches([module])
        config = _configuration(database_url, module, folder)
        return _write(config, branch, {"message": message, "version_path": folder, **_place(branch)})
    except CommandError:
        raise SchemaError(
            f"The database is not at the newest revision of module {module.name}, from which the next one "
            "begins: run `projection-worker migrate` first."
        ) from None
    finally:
        if not any(folder.iterdir()):  # An empty folder would pass for one without need of migrations.
            folder.rmdir()


def _configuration(database_url: str, module: ProjectionsModule, folder: Path) -> Config:
    tables = tables_of(module)
    config = configuration(folder)
    config.cmd_opts = Namespace(quiet=True)
    config.attributes["database_url"] = parse_database_url(database_url)
    config.attributes["metadata"] = list({p.table.metadata: None for p in module.projections})
    config.attributes["include_name"] = lambda name, kind, _parents: kind != "table" or name in tables
    return config


def _write(config: Config, branch: Branch, wanted: dict[str, Any]) -> Path | None:
    """What `alembic revision --autogenerate` does, with eyes for the one branch only."""
    script = ScriptDirectory.from_config(config)
    arguments = dict.fromkeys(("branch_label", "rev_id", "depends_on")) | {"splice": False, "sql": False}
    revision = RevisionContext(
        config, script, {**arguments, **wanted}, process_revision_directives=_leave_out_empty
    )

    def compare(held: Any, context: MigrationContext) -> Any:
        revision.run_autogenerate(tuple(branch.revisions.intersection(held)), context)
        return []

    templates = revision.template_args
    with EnvironmentContext(config, script, fn=compare, template_args=templates, revision_context=revision):
        script.run_env()
    written = next(iter(revision.generate_scripts()), None)
    return Path(written.path) if written else None


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
