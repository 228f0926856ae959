"""Finding what a deployment's projections modules offer."""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise, permutations
from pathlib import Path
from types import ModuleType
from typing import Any

from worker.errors import DeclarationError, ProjectionWorkerError
from worker.projection import Projection

OWN_TABLES = frozenset(
    {"dead_letters", "blocked_streams", "rebuilds", "rebuild_chunks", "projection_worker_schema"}
)
"""The worker's own tables and views."""


@dataclass(frozen=True, slots=True)
class ProjectionsModule:
    """A module that WORKER_PROJECTIONS names, with its projections in order of their names.

    ``migrations`` is its folder of Alembic revisions; None where it migrates its tables itself, or has none.
    """

    name: str
    projections: tuple[Projection, ...]
    migrations: Path | None = None


def load_modules(names: str) -> list[ProjectionsModule]:
    """The modules of these dotted names, separated by commas, each once, their projections checked.

    A projection that several modules hold belongs to the first of them. Raises DeclarationError when a module
    cannot be imported or has no projection, one is declared wrongly, or two get in each other's way.
    """
    modules: list[ProjectionsModule] = []
    known: set[int] = set()
    for name in _parts(names):
        module = _import(name, names)
        found = {id(value): value for value in vars(module).values() if isinstance(value, Projection)}
        if not found:
            raise DeclarationError(
                f"Module {name} holds no projection: declare one in it or set WORKER_PROJECTIONS."
            )
        own = sorted(
            (p for at, p in found.items() if at not in known), key=lambda projection: projection.name
        )
        known |= found.keys()
        modules.append(ProjectionsModule(name, tuple(own), _migrations(name, module)))
    _check(names, [projection for module in modules for projection in module.projections])
    return modules


def load_projections(names: str) -> list[Projection]:
    """All projections that these modules declare or import, checked, in order of their names."""
    found = [projection for module in load_modules(names) for projection in module.projections]
    return sorted(found, key=_name)


def load_attribute(names: str, attribute: str, *, offered_by: str = "projections") -> Any:
    """Something else that a projections module may offer, such as ``read_stream_messages``.

    Raises DeclarationError where none does, and says which of those that ship does.
    """
    for name in _parts(names):
        if hasattr(module := _import(name, names), attribute):
            return getattr(module, attribute)
    raise DeclarationError(
        f"WORKER_PROJECTIONS is {names!r}, which has no {attribute} for this command; {offered_by} has."
    )


def module_with(names: str, attribute: str) -> ProjectionsModule:
    """The first module that offers this."""
    load_attribute(names, attribute)
    return next(m for m in load_modules(names) if hasattr(_import(m.name, names), attribute))


def _parts(names: str) -> list[str]:
    """Each module once; a comma at the end is no mistake."""
    return list(dict.fromkeys(part for each in names.split(",") if (part := each.strip()))) or [""]


def _check(names: str, projections: Sequence[Projection]) -> None:
    if doubled := _doubled(projection.name for projection in projections):
        raise DeclarationError(f"Module {names} holds two projections named {doubled}.")
    for projection in projections:
        projection.check()
    for one, other in permutations(projections, 2):
        if one.logs != other.logs and other.logs.startswith(one.logs):
            raise DeclarationError(
                f"Projection {one.name}: its logs {one.logs!r} would take in {other.logs!r}, those of "
                f"projection {other.name}; give them prefixes of which none begins with another."
            )
    _check_tables(projections)


def _check_tables(projections: Sequence[Projection]) -> None:
    """Each table is one projection's: two would take each other's rows for their own."""
    owners = dict.fromkeys(OWN_TABLES, "the worker itself")
    for projection in projections:
        for table in (projection.table, *(child.table for child in projection.children.values())):
            if owner := owners.get(table.fullname):
                raise DeclarationError(
                    f"Projection {projection.name}: its table {table.fullname} is one of {owner}, too; give "
                    "it a name of its own."
                )
            owners[table.fullname] = f"projection {projection.name}"


def _name(projection: Projection) -> str:
    return projection.name


def _doubled(names: Iterable[str]) -> list[str]:
    found = sorted(names)
    return sorted({one for one, other in pairwise(found) if one == other})


def _migrations(name: str, module: ModuleType) -> Path | None:
    """The folder that a module names. A package of that name in it, were it imported, names none."""
    folder = getattr(module, "migrations", None)
    if folder is None or isinstance(folder, ModuleType):
        return None
    if not isinstance(folder, Path | str):
        raise DeclarationError(
            f"Module {name}: migrations must be the path of a folder, not {folder!r}; write "
            'migrations = Path(__file__).parent / "migrations".'
        )
    return Path(folder).absolute()


def _import(module_name: str, names: str) -> ModuleType:
    if not all(part.isidentifier() for part in module_name.split(".")):
        raise DeclarationError(f"Module {module_name!r} cannot be imported; WORKER_PROJECTIONS is {names!r}.")
    try:
        return importlib.import_module(module_name)
    except ProjectionWorkerError:
        raise  # It is a sentence already.
    except (Exception, SystemExit) as error:  # Whatever users' code may raise; a worker must not just exit.
        if isinstance(error, ModuleNotFoundError) and _is_of(module_name, error.name):
            raise DeclarationError(
                f"Module {error.name} cannot be imported; WORKER_PROJECTIONS is {names!r}."
            ) from None
        raise DeclarationError(
            f"Module {module_name} cannot be imported{_place(error)}: {_told(error)}; mend that line, or "
            "install what it needs."
        ) from error


def _is_of(module_name: str, missing: str | None) -> bool:
    """Whether the module that is missing is this one, or a package that it should be in."""
    return missing is not None and f"{module_name}.".startswith(f"{missing}.")


def _place(error: BaseException) -> str:
    """The last line of any module that was being run, however deep below it the error came from."""
    if isinstance(error, SyntaxError) and error.filename:
        return f", because of {error.filename}, line {error.lineno}"
    lines = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.name == "<module>"]
    return f", because of {lines[-1].filename}, line {lines[-1].lineno}" if lines else ""


def _told(error: BaseException) -> str:
    """The error without its place, on one line."""
    said = error.msg if isinstance(error, SyntaxError) else str(error)
    first = " ".join(said.split())
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
