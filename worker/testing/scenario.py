"""Given some events, then a row: tests of handlers, in memory and at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

from worker.events import AnyEvent, EventId
from worker.fold import Folded
from worker.projection import Projection
from worker.testing.drafts import Draft, events, types_of
from worker.testing.kept import told, told_differences
from worker.testing.memory import MemoryReplica, MemoryTable
from worker.testing.purity import Checked, fold_purely

At = int | str
"""Which event: the number of one in the order given, the first is 1; or its type."""


def given(projection: Projection, *drafts: Draft | AnyEvent) -> Given:
    """The events of one stream, in the order of its log; see `Given` and `worker.testing.events`.

    Types without a handler are passed over, as the worker does, and told of where something fails.
    """
    return Given(projection, events(*drafts))


@dataclass(frozen=True, slots=True)
class Given:
    """Some events of a stream. Its methods say what must come of them, and give it back to say more.

    All of them raise AssertionError, which tells what was expected, what was found, and which events were not
    applied. They fold the events many times: handlers that are not pure are found out by the way, see
    `worker.testing.purity`.
    """

    projection: Projection
    events: Sequence[AnyEvent]
    _times: int = 1
    _may_stop: bool = False
    _checked: list[Checked] = field(default_factory=list, repr=False, compare=False)

    def when(self, *, times: int) -> Given:
        """The same events, each delivered so often, to two replicas in turns, one of which is late."""
        if times < 1:
            raise ValueError(f"Events are delivered once at least, not {times} times.")
        return replace(self, _times=times)

    def then(self, **columns: Any) -> Given:
        """The row has these values. Columns that are not named may have any.

        Under the name of child rows stands a mapping of all of them by key, each to the columns that matter:
        ``then(status="paid", lines={"apple": {"quantity": 2}})``. JSON is compared as it is read.

        Fails where a handler raised, unless `then_stops` came before. Raises TypeError for names that the
        projection does not have.
        """
        __tracebackhide__ = True
        self._check_names(columns)
        checked = self._fold()
        if checked.folded.failure and not self._may_stop:
            self._fail(["a handler raised, and the stream stops there"], checked.folded)
        row = checked.kept.columns(self.projection)
        wrong: list[str] = []
        for name, expected in columns.items():
            if name in self.projection.children:
                wrong += _unlike_rows(name, expected, checked.kept.rows(self.projection, name))
            elif row[name] != expected:
                wrong.append(told(name, expected, row[name]))
        if wrong:
            self._fail(wrong, checked.folded)
        return self

    def then_rejected(self, reason: str = "", *, at: At | None = None) -> Given:
        """An event, any or the one that ``at`` tells, was rejected for a reason in which this stands."""
        __tracebackhide__ = True
        folded = self._fold().folded
        if not any(
            reason in one.reason and self._is_at(at, one.event_id, one.type) for one in folded.rejections
        ):
            self._fail([f"expected {_place(at)} to be rejected because of {reason!r}"], folded)
        return self

    def then_stops(self, *, at: At | None = None, error: type[Exception] = Exception) -> Given:
        """A handler raised such an error, at the event that ``at`` tells: the stream stops before it."""
        __tracebackhide__ = True
        folded = self._fold().folded
        failure = folded.failure
        if (
            failure is None
            or not isinstance(failure.error, error)
            or not self._is_at(at, failure.event_id, failure.type)
        ):
            self._fail([f"expected the stream to stop at {_place(at)} with {error.__name__}"], folded)
        return replace(self, _may_stop=True)

    def _fold(self) -> Checked:
        __tracebackhide__ = True
        if not self._checked:
            self._checked.append(fold_purely(self.projection, self._projected))
        checked = self._checked[0]
        if self._times > 1:
            self._deliver_again(checked)
        return checked

    @property
    def _projected(self) -> list[AnyEvent]:
        return [event for event in self.events if event.type in self.projection.types]

    def _deliver_again(self, checked: Checked) -> None:
        __tracebackhide__ = True
        table = MemoryTable(self.projection)
        replicas = [MemoryReplica("first", table), MemoryReplica("late", table)]
        log = self._projected
        for end in range(1, len(log) + 1):
            for delivery in range(self._times):
                replica = replicas[(end + delivery) % 2]
                if not replica.project("stream", log[:end], 1):
                    replica.project("stream", log[:end], len(log))
        if wrong := [*told_differences(self.projection, checked.kept, table.kept("stream"))]:
            heading = f"every event delivered {self._times} times gives another row"
            self._fail([heading, *wrong, *table.history.get("stream", [])], checked.folded)

    def _check_names(self, columns: Mapping[str, Any]) -> None:
        computed = self.projection.rule.columns if self.projection.rule else frozenset()
        names = {*self.projection.columns, *computed, *self.projection.children}
        if unknown := sorted(columns.keys() - names):
            raise TypeError(
                f"Projection {self.projection.name} has no {', '.join(unknown)}; "
                f"it has {', '.join(sorted(names))}."
            )

    def _is_at(self, at: At | None, event_id: EventId, event_type: str) -> bool:
        if isinstance(at, int):
            return 0 < at <= len(self.events) and self.events[at - 1].id == event_id
        return at is None or at == event_type

    def _fail(self, wrong: Sequence[str], folded: Folded) -> NoReturn:
        __tracebackhide__ = True
        lines = [f"Projection {self.projection.name}, after {len(self.events)} events:"]
        lines += [f"  {line}" for line in wrong]
        lines += [f"  {line}" for line in _not_applied(folded)]
        if others := sorted(types_of(self.events) - self.projection.types):
            lines.append(f"  no handler, so passed over: {', '.join(others)}")
        raise AssertionError("\n".join(lines)) from (folded.failure.error if folded.failure else None)


def _place(at: At | None) -> str:
    return "some event" if at is None else f"event {at}" if isinstance(at, int) else f"an event {at!r}"


def _not_applied(folded: Folded) -> Iterator[str]:
    for one in folded.rejections:
        yield f"event {one.event_id}, {one.type!r}, was rejected: {one.reason}"
    if failure := folded.failure:
        error = failure.error
        yield f"event {failure.event_id}, {failure.type!r}, raised {type(error).__name__}: {error}"


def _unlike_rows(
    name: str, expected: Mapping[Any, Mapping[str, Any]], found: Mapping[Any, Mapping[str, Any]]
) -> Iterator[str]:
    """How child rows differ, in the columns that are named."""
    for key, columns in expected.items():
        if key not in found:
            yield f"{name}[{key!r}]: expected {dict(columns)!r}, found no such row"
            continue
        for column, value in columns.items():
            place = f"{name}[{key!r}].{column}"
            if column not in found[key]:
                yield f"{place}: there is no such column, only {', '.join(found[key]) or 'the key'}"
            elif found[key][column] != value:
                yield told(place, value, found[key][column])
    for key in found.keys() - expected.keys():
        yield f"{name}[{key!r}]: expected no such row, found {dict(found[key])!r}"
