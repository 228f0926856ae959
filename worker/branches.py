"""Branches of the schema: our own revisions, and those of projections modules that keep a folder of them.

All stand in one version table. A revision there that none of our branches knows is of a newer version of one
of them, or of a module that this process does not run: which of the two, the tables that are there tell.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path

from alembic.config import Config
from alembic.script import ScriptDirectory

from worker.errors import DeclarationError
from worker.letters import DeadLetter
from worker.loading import ProjectionsModule

OWN = "projection-worker"
"""The name of our own branch."""


class State(Enum):
    """How a database stands to a branch."""

    CURRENT = auto()
    OLDER = auto()
    MISSING = auto()
    NEWER = auto()
    """A newer version made it, as replicas see it that still run during a deploy; migrations only add."""


@dataclass(frozen=True, slots=True)
class Branch:
    """Revisions of one folder, the tables that they are about, and the newest of them: as a rule one."""

    name: str
    folder: Path
    tables: frozenset[str]
    revisions: frozenset[str]
    heads: frozenset[str]

    def state(self, held: Collection[str], *, strangers: bool, tables: Collection[str]) -> State:
        """How a database stands whose version table has the revisions ``held``, and which has these tables.

        ``strangers`` says that some of the revisions are of none of our branches.
        """
        own = self.revisions.intersection(held)
        if self.heads <= own:
            return State.CURRENT
        if own:
            return State.OLDER
        return State.NEWER if strangers and self.tables.intersection(tables) else State.MISSING


def branches(modules: Iterable[ProjectionsModule]) -> list[Branch]:
    """Our own branch first, then those of the modules that have one.

    Raises DeclarationError where a module's folder is missing, or two branches have a revision in common.
    """
    found = [_branch(OWN, own_folder() / "versions", frozenset({DeadLetter.__tablename__}))]
    for module in modules:
        if module.migrations is None:
            continue
        if not module.migrations.is_dir():
            raise DeclarationError(
                f"Module {module.name}: its folder of migrations {str(module.migrations)!r} does not exist; "
                f'`projection-worker revision {module.name} "first tables"` makes it.'
            )
        found.append(_branch(module.name, module.migrations, tables_of(module)))
    for at, branch in enumerate(found):
        for other in found[:at]:
            if shared := sorted(branch.revisions & other.revisions):
                raise DeclarationError(
                    f"Module {branch.name}: its revision {shared[0]!r} is one of {other.name}, too; give it "
                    "another id."
                )
    return found


def states(
    of: Sequence[Branch], held: Collection[str], tables: Collection[str]
) -> list[tuple[Branch, State]]:
    """How a database stands to each of all branches that this process knows."""
    strangers = bool(set(held).difference(*(branch.revisions for branch in of)))
    return [(branch, branch.state(held, strangers=strangers, tables=tables)) for branch in of]


def tables_of(module: ProjectionsModule) -> frozenset[str]:
    """The names of all tables in the metadata of a module's models."""
    return frozenset(
        table.name for projection in module.projections for table in projection.table.metadata.tables.values()
    )


def configuration(*folders: Path) -> Config:
    """Alembic's configuration: our scripts, and the revisions of these folders."""
    config = Config()
    config.set_main_option("script_location", str(own_folder()).replace("%", "%%"))
    config.set_main_option("path_separator", "newline")
    config.set_main_option("version_locations", "\n".join(map(str, folders)).replace("%", "%%"))
    return config


def own_folder() -> Path:
    """Where our own scripts are. They are files: nothing runs this package out of an archive."""
    with as_file(files("migrations")) as scripts:
        return scripts


@cache
def _branch(name: str, folder: Path, tables: frozenset[str]) -> Branch:
    """Read once: workers ask every few seconds."""
    script = ScriptDirectory.from_config(configuration(folder))
    revisions = frozenset(revision.revision for revision in script.walk_revisions())
    return Branch(name, folder, tables, revisions, frozenset(script.get_heads()))
