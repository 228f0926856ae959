"""Replay: logs folded from their start, in memory. Nothing here writes.

What a rebuild writes, what `verify` compares with, and what `show` tells of the past are all made here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from worker.children import AllChildRows, followed
from worker.events import AnyEvent, EventId, without_skipped
from worker.fold import HandlerFailure, Rejection
from worker.log import Log, Page, PageRequest
from worker.projection import Projection
from worker.row import RowState

_MOST_BEGINNINGS = 20


@dataclass(frozen=True, slots=True)
class ReplayRequest:
    """A stream, the events of it that operators skipped, and the last event to apply, None for all."""

    stream_id: str
    skipped: Collection[EventId] = ()
    up_to: EventId | None = None


@dataclass(frozen=True, slots=True)
class FoldedLog:
    """A log as far as it was folded. ``last_event_id`` is None while it holds no event that moves the row.

    ``first_event_id`` and ``read_to`` are the first and last entry that were read, of whatever type.
    ``ended`` says that nothing is left to fold. ``failure`` is a handler's: the fold stands
    before that event and goes no further. ``refusal`` is set where the key is no stream. ``torn`` says that
    the log was cut, again and again, in the place that it had been read to. ``children`` are all child rows.
    """

    state: RowState
    facts: tuple[Any, ...] = ()
    first_event_id: str | None = None
    last_event_id: str | None = None
    updated_at: datetime | None = None
    read_to: str | None = None
    rejections: tuple[Rejection, ...] = ()
    events: int = 0
    ended: bool = False
    failure: HandlerFailure | None = None
    refusal: str | None = None
    torn: bool = False
    children: AllChildRows = field(default_factory=dict)

    @property
    def blocked(self) -> bool:
        """Whether a handler raised."""
        return self.failure is not None

    @property
    def goes_on(self) -> bool:
        """Whether there is more to read."""
        return not (self.ended or self.blocked or self.refusal or self.torn)


async def fold_logs(
    logs: Log,
    projection: Projection,
    requests: Sequence[ReplayRequest],
    begun: Mapping[str, FoldedLog] | None = None,
) -> dict[str, FoldedLog]:
    """Fold each log to its end, or to the event that is asked for, a page of each in turns.

    ``begun`` are folds to go on with; one that has ended before looks for what its log got since. A log that
    changes in the place that it was read to, as by an undo, is begun anew.
    """
    folded = {r.stream_id: FoldedLog(projection.new_state) for r in requests}
    folded |= {s: replace(log, ended=False, failure=None) for s, log in (begun or {}).items()}
    beginnings = dict.fromkeys(folded, 1)
    going_on = list(requests)
    while going_on:
        pages = await logs.read([PageRequest(r.stream_id, folded[r.stream_id].read_to) for r in going_on])
        for request, page in zip(going_on, pages, strict=True):
            stream_id, before = request.stream_id, folded[request.stream_id]
            if before.read_to is None or page.first_id == before.read_to:
                folded[stream_id] = fold_page(projection, before, page, request.skipped, request.up_to)
                continue
            beginnings[stream_id] += 1
            torn = beginnings[stream_id] > _MOST_BEGINNINGS
            folded[stream_id] = FoldedLog(projection.new_state, refusal=page.refusal, torn=torn)
        going_on = [request for request in going_on if folded[request.stream_id].goes_on]
    return folded


def fold_page(
    projection: Projection,
    before: FoldedLog,
    page: Page,
    skipped: Collection[EventId] = (),
    up_to: EventId | None = None,
) -> FoldedLog:
    """Fold one more page, which begins with the entry that the page before ended with.

    A fold that ended at ``up_to`` is not to be gone on with: it has read more than it has applied.
    """
    if page.refusal is not None:
        return replace(before, refusal=page.refusal)
    events: Sequence[AnyEvent] = page.events
    if events and str(events[0].id) == before.read_to:
        events = events[1:]
    ended = page.ended
    if up_to is not None and page.last_id is not None and EventId.parse(page.last_id) >= up_to:
        events = [event for event in events if event.id <= up_to]
        ended = True
    folded = projection.fold(before.state, without_skipped(events, skipped))
    return replace(
        before,
        state=folded.state,
        facts=before.facts + folded.facts,
        first_event_id=before.first_event_id or page.first_id,
        last_event_id=str(folded.last) if folded.last else before.last_event_id,
        updated_at=folded.updated_at or before.updated_at,
        read_to=page.last_id or before.read_to,
        rejections=before.rejections + folded.rejections,
        events=before.events + folded.applied,
        ended=ended,
        failure=folded.failure,
        children=followed(before.children, folded.children),
    )
