"""The fold: a row's state and events in, the state after them out. Nothing here does I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from worker.errors import RejectedEventError
from worker.events import Event, EventId, UndecodableEvent
from worker.row import Remark, Row, RowState

Handler = Callable[[Any, Event], None]
"""A plain function of row and event; see `worker.projection.Projection`."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """An event that can never be applied: it moves the position and nothing else."""

    event_id: EventId
    type: str
    reason: str


@dataclass(frozen=True, slots=True)
class HandlerFailure:
    """A handler raised: the stream stops before this event."""

    event_id: EventId
    type: str
    error: Exception


@dataclass(frozen=True, slots=True)
class Folded:
    """What became of a row: its new state, which columns differ, and what stood in the way.

    ``last`` is the last event that was applied or rejected, None when there was none; ``updated_at`` the
    time of the last such event that has one.
    """

    state: RowState
    changed: frozenset[str]
    facts: tuple[Any, ...]
    remarks: tuple[Remark, ...]
    last: EventId | None
    updated_at: datetime | None
    applied: int
    rejections: tuple[Rejection, ...]
    failure: HandlerFailure | None


class _HandlerRaisedError(Exception):
    """A handler raised at the event of this index. It may have changed the row halfway."""

    def __init__(self, at: int, cause: Exception) -> None:
        super().__init__(at)
        self.at = at
        self.cause = cause


def fold(
    row_class: type[Row],
    handlers: Mapping[str, Handler],
    state: RowState,
    events: Sequence[Event | UndecodableEvent],
) -> Folded:
    """Apply events; each time that one stands in the way, start over without it. See `Projection.fold`."""
    rejections = {
        at: Rejection(event.id, event.type, event.reason)
        for at, event in enumerate(events)
        if isinstance(event, UndecodableEvent)
    }
    failure: HandlerFailure | None = None
    check_each = False
    while True:
        row = row_class(state)
        try:
            after = _apply(row, handlers, events, rejections, check_each=check_each)
            break
        except _HandlerRaisedError as raised:
            event = events[raised.at]
            if isinstance(raised.cause, RejectedEventError):
                rejections[raised.at] = Rejection(event.id, event.type, str(raised.cause))
            else:
                failure = HandlerFailure(event.id, event.type, raised.cause)
                events = events[: raised.at]
                rejections = {at: rejection for at, rejection in rejections.items() if at < raised.at}
        except (TypeError, ValueError, RecursionError):
            check_each = True  # Some event left what is no JSON: find out which.
    return Folded(
        state=after,
        changed=frozenset(
            column for column, old, new in zip(row.stored_in, state, after, strict=True) if old != new
        ),
        facts=tuple(row.facts),
        remarks=tuple(row.remarks),
        last=events[-1].id if events else None,
        updated_at=next((time for event in reversed(events) if (time := event.id.time)), None),
        applied=len(events) - len(rejections),
        rejections=tuple(rejections[at] for at in sorted(rejections)),
        failure=failure,
    )


def _apply(
    row: Row,
    handlers: Mapping[str, Handler],
    events: Sequence[Event | UndecodableEvent],
    rejections: Mapping[int, Rejection],
    *,
    check_each: bool,
) -> RowState:
    """The state after all events but the rejected ones. Raises _HandlerRaisedError, or what `Row.state` does.

    With ``check_each`` the row must be fit to be stored after every event, not only at the end.
    """
    for at, event in enumerate(events):
        if at in rejections or isinstance(event, UndecodableEvent):
            continue
        try:
            handlers[event.type](row, event)
            if check_each:
                row.state()
        except Exception as error:  # whatever it is, it stops this stream alone
            raise _HandlerRaisedError(at, error) from error
    return row.state()
