"""Arguments that several commands take, checked."""

from __future__ import annotations

from collections.abc import Sequence

import typer

from worker.errors import InvalidEventError
from worker.keys import Keys
from worker.loading import load_projections, module_with
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


def chosen_projections(settings: Settings, *names: str | None) -> list[Projection]:
    """The projections of these names; without any, all."""
    projections = load_projections(settings.projections)
    wanted = dict.fromkeys(name for name in names if name is not None)
    by_name = {projection.name: projection for projection in projections}
    if unknown := [name for name in wanted if name not in by_name]:
        raise typer.BadParameter(
            f"Module {settings.projections} declares no projection {unknown[0]!r}, but "
            f"{_names(projections)}: name another one, or set WORKER_PROJECTIONS to the module that does."
        )
    return [by_name[name] for name in wanted] or projections


def keys_of_type(settings: Settings, name: str | None, event_type: str) -> Keys:
    """The keys to emit events of a type with: its log is that of the projections that handle it.

    ``name`` may say of which. A type that none handles goes where all of them have their logs. Raises
    InvalidEventError where that is said by neither.
    """
    projections = chosen_projections(settings, name)
    handling = [projection for projection in projections if event_type in projection.types]
    return _keys_of_one_log(settings, handling or projections, f"Events of type {event_type!r} may go to")


def keys_of_reader(settings: Settings, name: str | None, reader: str) -> Keys:
    """The keys to read logs with by what a module offers: those of its projections, or of the one named."""
    if name is not None:
        return chosen_projection(settings, name).keys(settings.keys)
    offering = module_with(settings.projections, reader).projections
    projections = offering or load_projections(settings.projections)
    return _keys_of_one_log(settings, projections, "The stream may be one of")


def _keys_of_one_log(settings: Settings, projections: Sequence[Projection], several: str) -> Keys:
    prefixes = sorted({projection.logs for projection in projections})
    if len(prefixes) > 1:
        raise InvalidEventError(
            f"{several} the logs {' or '.join(prefixes)}: say with --projection which is meant, "
            f"{_names(projections)}."
        )
    return projections[0].keys(settings.keys)


def _names(projections: Sequence[Projection]) -> str:
    return " or ".join(projection.name for projection in projections)
