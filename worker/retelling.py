"""A stream's history told again: each event that changed its row, and how. Pure.

A fold goes from page to page. This goes from event to event, and puts the facts of other streams that take
something from this one in their places between its own events.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from worker.changes import Change, changes
from worker.events import AnyEvent, EventId
from worker.fold import HandlerFailure
from worker.moments import END
from worker.payload import decode_stored
from worker.projection import Projection
from worker.row import RawJson, RowState
from worker.rule import CrossStreamRule


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """An event that changed the row, and what it changed.

    ``stream_id`` is that of another stream if its event did so, through a cross-stream rule; ``type`` is None
    then. ``failure`` is set, in place of changes, for the event before which the stream stops, since its
    handler raises: no later one of its own follows.
    """

    event_id: EventId
    stream_id: str
    type: str | None
    changes: tuple[Change, ...]
    failure: HandlerFailure | None = None


class Retelling:
    """One history under way. Give it the events of a log in order, all of them, in parts of any size.

    With a rule, `expect` must have been told the rival facts for a part's own facts before that part.
    """

    def __init__(self, projection: Projection, stream_id: str, up_to: EventId) -> None:
        self._projection = projection
        self._stream_id = stream_id
        self._up_to = up_to
        self._state = projection.new_state
        self._rule = _RuleTold(projection.rule, stream_id) if projection.rule else None
        self.stopped = False

    def facts_ahead(self, events: Sequence[AnyEvent]) -> tuple[Any, ...]:
        """The facts that the next part will bring."""
        return self._projection.fold(self._state, events).facts

    def expect(self, rivals: Mapping[str, Sequence[Any]]) -> None:
        """Facts of other streams that may take something from this one, none of them before the next part."""
        if self._rule:
            self._rule.expect(rivals, self._up_to)

    def tell(self, events: Sequence[AnyEvent]) -> Iterator[HistoryEntry]:
        """What the next part changed, with what others changed before its last event."""
        for event in events:
            if self._rule:
                yield from self._rule.before(event.id)
            if (entry := self._tell_one(event)) is not None:
                yield entry
            if self.stopped:
                return

    def _tell_one(self, event: AnyEvent) -> HistoryEntry | None:
        folded = self._projection.fold(self._state, [event])
        if folded.failure:
            self.stopped = True
            return HistoryEntry(event.id, self._stream_id, event.type, (), folded.failure)
        told = _changes_of_state(self._projection, self._state, folded.state, folded.changed)
        self._state = folded.state
        if self._rule:
            told += self._rule.apply(self._stream_id, folded.facts)
        return HistoryEntry(event.id, self._stream_id, event.type, tuple(told)) if told else None

    def rest(self) -> Iterator[HistoryEntry]:
        """What others changed after the last event."""
        if self._rule:
            yield from self._rule.before(None)


class _RuleTold:
    """What a rule's columns show, and the facts of others that are still to come."""

    def __init__(self, rule: CrossStreamRule, stream_id: str) -> None:
        self._reader = rule.reader()
        self._stream_id = stream_id
        self._coming: list[tuple[EventId, bytes, int, str, Any]] = []
        self._numbers = count()

    def expect(self, rivals: Mapping[str, Sequence[Any]], up_to: EventId) -> None:
        for rival, facts in rivals.items():
            for fact in facts:
                if fact.event_id <= up_to:
                    order = (fact.event_id, rival.encode(), next(self._numbers))
                    heapq.heappush(self._coming, (*order, rival, fact))

    def before(self, event_id: EventId | None) -> Iterator[HistoryEntry]:
        """What others change before an event of this stream; None: all that is to come."""
        while self._coming:
            if event_id is not None and self._coming[0][:2] >= (event_id, self._stream_id.encode()):
                return
            at, _, _, rival, fact = heapq.heappop(self._coming)
            if told := self.apply(rival, [fact]):
                yield HistoryEntry(at, rival, None, tuple(told))

    def apply(self, stream_id: str, facts: Sequence[Any]) -> list[Change]:
        before = self._reader.columns(self._stream_id)
        for fact in facts:
            self._reader.apply(stream_id, fact)
        return list(changes(before, self._reader.columns(self._stream_id)))


def rule_history(
    rule: CrossStreamRule, stream_id: str, facts: Sequence[Any], rivals: Mapping[str, Sequence[Any]]
) -> Iterator[HistoryEntry]:
    """What a rule's columns went through, from a stream's own facts and those that decide over it."""
    told = _RuleTold(rule, stream_id)
    told.expect({**rivals, stream_id: facts}, END)
    yield from told.before(None)


def _changes_of_state(
    projection: Projection, before: RowState, after: RowState, changed: frozenset[str]
) -> list[Change]:
    """Only what changed is decoded: plans are large."""
    at = [number for number, column in enumerate(projection.columns) if column in changed]
    return list(
        changes(*({projection.columns[n]: decoded(state[n]) for n in at} for state in (before, after)))
    )


def decoded(value: Any) -> Any:
    """A value of a row's state as people see it: JSON decoded."""
    return decode_stored(value.text) if isinstance(value, RawJson) else value
