"""The fold: a row's state and events in, the state after them out. Nothing here does I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from worker.children import AllChildRows, followed
from worker.errors import RejectedEventError
from worker.events import AnyEvent, Event, EventId, SkippedEvent, UndecodableEvent
from worker.poison import Poison, error_text, place_of
from worker.row import Remark, Row, RowState

Handler = Callable[[Any, Event], None]
"""A plain function of row and event; see `worker.projection.Projection`."""


_MAX_RAISED_CHARACTERS = 2_000


@dataclass(frozen=True, slots=True)
class Rejection:
    """An event that is not applied: it moves the position and nothing else.

    ``decoded`` tells whether a handler has seen and rejected it. ``raised`` is the end of the traceback where
    the handler raised anything else, and the projection passes such events over; ``reason`` then tells what
    was raised and where, and quotes nothing.
    """

    event_id: EventId
    type: str
    reason: str
    decoded: bool
    raised: str | None = None


@dataclass(frozen=True, slots=True)
class HandlerFailure:
    """A handler raised: the stream stops before this event."""

    event_id: EventId
    type: str
    error: Exception


@dataclass(frozen=True, slots=True)
class Folded:
    """What became of a row and its child rows: the new state, which columns differ, what stood in the way.

    ``last`` is the last event that was applied, rejected or skipped, None when there was none; ``updated_at``
    the time of the last such event that has one.
    """

    state: RowState
    changed: frozenset[str]
    facts: tuple[Any, ...]
    remarks: tuple[Remark, ...]
    last: EventId | None
    updated_at: datetime | None
    applied: int
    skipped: int
    rejections: tuple[Rejection, ...]
    failure: HandlerFailure | None
    children: AllChildRows


def fold(
    row_class: type[Row],
    handlers: Mapping[str, Handler],
    state: RowState,
    events: Sequence[AnyEvent],
    poison: Poison = Poison.STOP,
) -> Folded:
    """Apply events to a row. See `worker.projection.Projection.fold`."""
    try:
        return _Fold(row_class, handlers, state, poison, keep_each=False).run(events)
    except Exception:  # a handler's doing
        # Some handler left what is no JSON, or cannot apply an event a second time. Again, step by step, to
        # find out which: it has failed.
        return _Fold(row_class, handlers, state, poison, keep_each=True).run(events)


class _Fold:
    """One fold under way.

    A handler that raises may have changed the row halfway. So the events since a state that is known to be
    good are then applied to it again, without the last one, and give the next good state: every event is
    applied twice at most. With ``keep_each`` the state after each event is known to be good, since it must be
    fit to be stored, and none is applied twice.
    """

    def __init__(
        self,
        row_class: type[Row],
        handlers: Mapping[str, Handler],
        state: RowState,
        poison: Poison,
        *,
        keep_each: bool,
    ) -> None:
        self._row_class = row_class
        self._handlers = handlers
        self._poison = poison
        self._keep_each = keep_each
        self._before = self._good = state
        self._row = row_class(state)
        self._good_for = 0
        self._facts: list[Any] = []
        self._children: AllChildRows = {}
        self._remarks: list[Remark] = []
        self._rejections: list[Rejection] = []
        self._skipped = 0

    def run(self, events: Sequence[AnyEvent]) -> Folded:
        """Apply all events, or those before one whose handler fails."""
        failure: HandlerFailure | None = None
        for at, event in enumerate(events):
            if not isinstance(event, Event):
                self._pass_over(event)
                continue
            try:
                self._handlers[event.type](self._row, event)
                if self._keep_each:
                    self._keep(at + 1)
            except Exception as error:  # whatever it is, it stops this stream alone
                self._undo(events, at)
                if rejection := _rejection(event, error) or self._passed(event, error):
                    self._rejections.append(rejection)
                    continue
                failure = HandlerFailure(event.id, event.type, error)
                events = events[:at]
                break
        return self._folded(events, failure)

    def _passed(self, event: Event, error: Exception) -> Rejection | None:
        """What becomes of an event whose handler failed, where the projection passes such events over.

        A lack of memory is no fault of the event: whatever the policy, it may be applied later.
        """
        if self._poison is Poison.STOP or isinstance(error, MemoryError):
            return None
        raised = error_text(error)[-_MAX_RAISED_CHARACTERS:]
        return Rejection(event.id, event.type, place_of(error), decoded=True, raised=raised)

    def _pass_over(self, event: UndecodableEvent | SkippedEvent) -> None:
        if isinstance(event, UndecodableEvent):
            self._rejections.append(Rejection(event.id, event.type, event.reason, decoded=False))
        else:
            self._skipped += 1

    def _undo(self, events: Sequence[AnyEvent], at: int) -> None:
        """Forget what a handler did that raised at this event."""
        self._row = self._row_class(self._good)
        for event in events[self._good_for : at]:
            if isinstance(event, Event):
                self._handlers[event.type](self._row, event)
        self._keep(at + 1)

    def _keep(self, events: int) -> None:
        """From now on the row as it stands, after so many events, is what is known to be good."""
        self._good = self._row.state()
        self._good_for = events
        self._facts += self._row.facts
        self._children = followed(self._children, self._row_children())
        self._remarks += self._row_remarks()
        self._row = self._row_class(self._good)

    def _row_children(self) -> AllChildRows:
        return {name: rows for name, rows in self._row.child_rows.items() if rows}

    def _row_remarks(self) -> list[Remark]:
        """Raises TypeError for what is none: the handler has failed, and nobody could tell of it later."""
        for remark in self._row.remarks:
            if not isinstance(remark, Remark):
                raise TypeError(f"row.remarks takes Remarks, not {type(remark).__name__}")
        return self._row.remarks

    def _folded(self, events: Sequence[AnyEvent], failure: HandlerFailure | None) -> Folded:
        after = self._row.state()
        columns = zip(self._row_class.stored_in, self._before, after, strict=True)
        return Folded(
            state=after,
            changed=frozenset(column for column, old, new in columns if old != new),
            facts=(*self._facts, *self._row.facts),
            remarks=(*self._remarks, *self._row_remarks()),
            last=events[-1].id if events else None,
            updated_at=next((time for event in reversed(events) if (time := event.id.time)), None),
            applied=len(events) - len(self._rejections) - self._skipped,
            skipped=self._skipped,
            rejections=tuple(self._rejections),
            failure=failure,
            children=followed(self._children, self._row_children()),
        )


def _rejection(event: Event, error: Exception) -> Rejection | None:
    """What a handler's error says of an event that can never be applied; None where it does not say so."""
    if not isinstance(error, RejectedEventError):
        return None
    try:
        return Rejection(event.id, event.type, str(error), decoded=True)
    except Exception:  # it cannot even say why
        return None
