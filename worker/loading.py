"""Finding what a deployment's projections module offers."""

from __future__ import annotations

import importlib
from typing import Any

from worker.errors import DeclarationError
from worker.projection import Projection


def load_projections(module_name: str) -> list[Projection]:
    """All projections that a module declares or imports, checked, in order of their names.

    Raises DeclarationError when the module cannot be imported, has none, or one is declared wrongly.
    """
    module = _import(module_name)
    found = {id(value): value for value in vars(module).values() if isinstance(value, Projection)}
    if not found:
        raise DeclarationError(
            f"Module {module_name} holds no projection: declare one in it or set WORKER_PROJECTIONS."
        )
    projections = sorted(found.values(), key=lambda projection: projection.name)
    names = [projection.name for projection in projections]
    if doubled := {name for name in names if names.count(name) > 1}:
        raise DeclarationError(f"Module {module_name} holds two projections named {sorted(doubled)}.")
    for projection in projections:
        projection.check()
    return projections


def load_attribute(module_name: str, attribute: str) -> Any:
    """Something else that a projections module may offer, such as ``read_stream_messages``."""
    try:
        return getattr(_import(module_name), attribute)
    except AttributeError:
        raise DeclarationError(
            f"Module {module_name} has no {attribute}, which this command needs; the shipped projections do."
        ) from None


def _import(module_name: str) -> Any:
    if not all(part.isidentifier() for part in module_name.split(".")):
        raise DeclarationError(
            f"Module {module_name!r} cannot be imported; WORKER_PROJECTIONS is {module_name!r}."
        )
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise DeclarationError(
            f"Module {error.name} cannot be imported; WORKER_PROJECTIONS is {module_name!r}."
        ) from None
