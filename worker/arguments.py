"""Arguments that several commands take, checked."""

from __future__ import annotations

from collections.abc import Sequence

import typer

from worker.loading import load_projections
from worker.projection import Projection
from worker.settings import Settings


def storable(text: str) -> str:
    """Text as PostgreSQL takes it; arguments may be anything that the shell can spell."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise typer.BadParameter(f"{text!r} is not UTF-8.") from None
    return text


def chosen_projection(settings: Settings, name: str | None) -> Projection:
    """The projection of that name; without one, the only one that there is."""
    chosen = chosen_projections(settings, name)
    if len(chosen) > 1:
        raise typer.BadParameter(
            f"Module {settings.projections} declares several projections: say with --projection which is "
            f"meant, {_names(chosen)}."
        )
    return chosen[0]


def chosen_projections(settings: Settings, name: str | None) -> list[Projection]:
    """The projection of that name; without one, all."""
    projections = load_projections(settings.projections)
    chosen = [projection for projection in projections if name in (None, projection.name)]
    if not chosen:
        raise typer.BadParameter(
            f"Module {settings.projections} declares no projection {name!r}, but {_names(projections)}: name "
            "another one, or set WORKER_PROJECTIONS to the module that does."
        )
    return chosen


def _names(projections: Sequence[Projection]) -> str:
    return " or ".join(projection.name for projection in projections)
