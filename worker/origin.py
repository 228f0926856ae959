"""Where a difference comes from: the first event after which row and log differ, where that can be told."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from worker.difference import Difference, equal
from worker.events import AnyEvent, EventId, without_skipped
from worker.log import Log, PageRequest
from worker.projection import Projection

_CANDIDATES = 20


async def explain(
    logs: Log,
    projection: Projection,
    differences: Sequence[Difference],
    position: EventId,
    skipped: Collection[EventId],
) -> tuple[Difference, ...]:
    """The differences of one row at a position, each with its first event, if there is one.

    A value that the column had after some event, and has no more at the position, stands as if it had missed
    the next event. Where all columns together are those of another event, nothing but the position is wrong.
    """
    past = _Past(projection, differences)
    async with aclosing(_events(logs, differences[0].stream_id)) as events:
        async for event in events:
            if event.id > position:
                past.close()
            past.apply(*without_skipped([event], skipped))
            if past.stands_at is not None:
                break
    past.close()
    if past.stands_at is not None:
        stream_id = differences[0].stream_id
        place = Difference(stream_id, "last_event_id", past.stands_at, str(position))
        others = [d for d in differences if d.column not in past.columns and d.column != "last_event_id"]
        return (place, *others)
    return tuple(replace(d, first_event=past.first_events.get(d.column)) for d in differences)


async def _events(logs: Log, stream_id: str) -> AsyncGenerator[AnyEvent, None]:
    """All events of a log, page by page; fewer if the log is cut meanwhile."""
    start: str | None = None
    while True:
        [page] = await logs.read([PageRequest(stream_id, start)])
        if start is not None and page.first_id != start:
            return
        for event in page.events:
            yield event
        if page.ended or page.last_id is None:
            return
        start = page.last_id


@dataclass(frozen=True, slots=True)
class _Moment:
    """What the columns are after an event."""

    event_id: str
    values: Mapping[str, Any]


class _Past:
    """The columns of a row after each event of its log, compared with those that are stored.

    ``first_events`` are those after which a wrong column differs for good, up to the position. ``stands_at``
    is the event whose row this is, if it is another's than the position's.
    """

    def __init__(self, projection: Projection, differences: Sequence[Difference]) -> None:
        self.first_events: dict[str, str] = {}
        self.stands_at: str | None = None
        self._projection = projection
        self._state = projection.new_state
        self._facts: tuple[Any, ...] = ()
        self._values: dict[str, Any] = {
            **dict(zip(projection.columns, self._state, strict=True)),
            **self._described(),
            "updated_at": None,
        }
        self.columns = frozenset(self._values)
        self._wrong = {d.column: d.stored for d in differences if d.column in self.columns}
        self._right_so_far = {c for c, stored in self._wrong.items() if equal(self._values[c], stored)}
        self._candidates: deque[_Moment] = deque(maxlen=_CANDIDATES)
        self._at_position: Mapping[str, Any] | None = None

    def _described(self) -> Mapping[str, Any]:
        return self._projection.rule.describe(self._facts) if self._projection.rule else {}

    def apply(self, event: AnyEvent) -> None:
        """Go on by one event. One at which a handler fails changes nothing."""
        folded = self._projection.fold(self._state, [event])
        if folded.last is None:
            return
        before = self._values
        self._values = {**before, **dict(zip(self._projection.columns, folded.state, strict=True))}
        self._state = folded.state
        if folded.facts:
            self._facts += folded.facts
            self._values |= self._described()
        if folded.updated_at is not None:
            self._values["updated_at"] = folded.updated_at
        for column, stored in self._wrong.items():
            if self._values[column] is not before[column]:
                self._note(column, stored, str(event.id))
        if self._wrong.keys() == self._right_so_far and self._wrong:
            self._consider(_Moment(str(event.id), self._values))

    def _note(self, column: str, stored: Any, event_id: str) -> None:
        if equal(self._values[column], stored):
            self._right_so_far.add(column)
        elif column in self._right_so_far:
            self._right_so_far.remove(column)
            if self._at_position is None:
                self.first_events[column] = event_id

    def _consider(self, moment: _Moment) -> None:
        if self._at_position is None:
            self._candidates.append(moment)
        elif self._is_of(moment):
            self.stands_at = moment.event_id

    def close(self) -> None:
        """The position is reached: what follows tells only whether the row is that of a later event."""
        if self._at_position is not None:
            return
        self._at_position = self._values
        standing = [moment for moment in self._candidates if self._is_of(moment)]
        self.stands_at = standing[-1].event_id if standing else None

    def _is_of(self, moment: _Moment) -> bool:
        """Whether also the columns that are right at the position are the same at this moment."""
        assert self._at_position is not None
        others = self.columns - self._wrong.keys()
        return all(equal(moment.values[column], self._at_position[column]) for column in others)
