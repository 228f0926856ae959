"""Later versions of the strategies projection, as a team deploys them one after the other."""

from __future__ import annotations

from typing import Any

from projections import strategies
from projections.models import StreamProjection
from worker import Event, Projection
from worker.fold import Handler

WEIGHT = 10


def of_version(version: int, **handlers: Handler) -> Projection:
    """The same projection in another version, with some of its handlers replaced.

    From version 2 on a user message counts WEIGHT times as much, so that rows show who has folded them.
    """
    later = Projection(
        strategies.name,
        table=StreamProjection,
        version=version,
        checkpoints=strategies.checkpoints,
        rule=strategies.rule,
    )
    changed: dict[str, Handler] = {"user_message": user_message} if version > 1 else {}
    for event_type, handler in {**strategies._handlers, **changed, **handlers}.items():
        later.on(event_type)(handler)
    return later


def user_message(row: Any, event: Event) -> None:
    """A user message as later versions count it."""
    row.message_count += WEIGHT


def failing(row: Any, event: Event) -> None:
    """A handler with a bug."""
    raise ValueError("no such luck")
