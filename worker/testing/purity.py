"""What makes handlers pure, as laws that a sequence of events can break.

The same events give the same row, however often they are folded, however they are cut into batches, and
whether or not the row went to the database in between; and handlers change nothing but the row.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NoReturn

from worker.events import AnyEvent, Event
from worker.fold import Folded
from worker.payload import encode
from worker.projection import Projection
from worker.testing.kept import Kept, nothing_kept, told, told_differences

MOST_BATCHES = 2_000
"""How many batches are tried: all that there are of up to 62 events, and a sample of those of more."""

_SECOND_TIME = (
    "The same events, folded a second time, give another row: a handler reads a clock, draws random "
    "numbers, or keeps something outside the row."
)


@dataclass(frozen=True, slots=True)
class Checked:
    """A fold that has kept the laws."""

    kept: Kept
    folded: Folded


def fold_purely(projection: Projection, events: Sequence[AnyEvent]) -> Checked:
    """Fold events from the start. Raises AssertionError, which names the law that a handler breaks.

    For all 2^(n-1) ways to cut n events it is enough to fold each of their n(n+1)/2 runs from the row as it
    is before that run: if each gives the row as it is after it, so does every sequence of runs.
    """
    __tracebackhide__ = True
    payloads = [encode(event.data) if isinstance(event, Event) else "" for event in events]
    start = nothing_kept(projection)
    first = _standings(projection, events, stored=True)  # What is kept outside the row is filled only once.
    whole = projection.fold(start.state, events)
    _check_payloads(events, payloads)
    again = projection.fold(start.state, events)
    kept = start.followed_by(whole)
    if broken := [*_unlike(projection, whole, kept, again, start.followed_by(again))]:
        _fail(_SECOND_TIME, broken)
    applied = _until_failure(events, whole)
    standings = _standings(projection, applied, stored=True)
    for once, second in zip(first, standings, strict=False):
        if broken := [*told_differences(projection, once, second)]:
            _fail(_SECOND_TIME, broken)
    _check_batches(projection, applied, whole, standings)
    return Checked(kept, whole)


def _until_failure(events: Sequence[AnyEvent], folded: Folded) -> Sequence[AnyEvent]:
    failure = folded.failure
    return events if failure is None else [event for event in events if event.id <= failure.event_id]


def _check_payloads(events: Sequence[AnyEvent], payloads: Sequence[str]) -> None:
    __tracebackhide__ = True
    for event, payload in zip(events, payloads, strict=True):
        if isinstance(event, Event) and encode(event.data) != payload:
            _fail(
                f"The handler of {event.type!r} changes the payload of its event, which others may read: let "
                "it change a copy.",
                [told(f"event {event.id}", payload, encode(event.data))],
            )


def _check_batches(
    projection: Projection, events: Sequence[AnyEvent], whole: Folded, standings: Sequence[Kept]
) -> None:
    __tracebackhide__ = True
    outcome = _outcome(whole)
    for start, end in _runs(len(events)):
        run = events[start:end]
        folded = projection.fold(standings[start].state, run)
        found = standings[start].followed_by(folded)
        expected = {step: what for step, what in outcome.items() if run[0].id <= step <= run[-1].id}
        broken = [*told_differences(projection, standings[end], found)]
        if expected != _outcome(folded):
            broken.append(told("events not applied", expected, _outcome(folded)))
        if broken:
            _fail_batches(projection, events, broken, f"{run[0].id} to {run[-1].id}")


def _runs(events: int) -> Sequence[tuple[int, int]]:
    """Where runs of so many events begin and end: all, or a sample with the whole among it."""
    if events * (events + 1) // 2 <= MOST_BATCHES:
        return [*combinations(range(events + 1), 2)]
    chance = random.Random(events)
    some = (sorted(chance.sample(range(events + 1), 2)) for _ in range(MOST_BATCHES))
    return [(0, events), *((start, end) for start, end in some)]


def _fail_batches(
    projection: Projection, events: Sequence[AnyEvent], broken: list[str], run: str
) -> NoReturn:
    """Say why rows differ: because of the batches, or because of the database in between."""
    __tracebackhide__ = True
    start = nothing_kept(projection)
    at_once = start.followed_by(projection.fold(start.state, events), stored=False)
    one_by_one = _standings(projection, events, stored=False)[-1]
    if [*told_differences(projection, at_once, one_by_one)]:
        _fail(
            f"The events {run}, folded in one batch, give another row than one by one: a handler depends on "
            "what came before it in its batch, and not on the row alone.",
            broken,
        )
    _fail(
        f"The events {run} give another row once the row before them was stored: a handler depends on what "
        "JSON does not keep in PostgreSQL, such as the order of keys.",
        broken,
    )


def _standings(projection: Projection, events: Sequence[AnyEvent], *, stored: bool) -> list[Kept]:
    """What is held before the first event and after each, folded one by one."""
    kept = [nothing_kept(projection)]
    for event in events:
        kept.append(kept[-1].followed_by(projection.fold(kept[-1].state, [event]), stored=stored))
    return kept


def _outcome(folded: Folded) -> dict[Any, str]:
    """Which events were not applied, and why."""
    found = {one.event_id: f"rejected: {one.reason}" for one in folded.rejections}
    if folded.failure:
        found[folded.failure.event_id] = f"raised {type(folded.failure.error).__name__}"
    return found


def _unlike(projection: Projection, one: Folded, kept: Kept, other: Folded, found: Kept) -> Iterator[str]:
    yield from told_differences(projection, kept, found)
    if _outcome(one) != _outcome(other):
        yield told("events not applied", _outcome(one), _outcome(other))


def _fail(law: str, broken: Sequence[str]) -> NoReturn:
    __tracebackhide__ = True
    raise AssertionError("\n".join([law, *(f"  {line}" for line in broken)]))
