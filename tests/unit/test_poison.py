"""Projections that pass poison over: an event whose handler raises leaves a letter and no other trace."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import given

from tests.tallies import Tally, added, event, tallies
from tests.unit.test_projection import NEW, cuts, events_of, keep_a_set, logs
from worker import Event, EventId, Projection
from worker.fold import Folded
from worker.letters import Reason, letters_of
from worker.poison import Poison
from worker.row import RawJson


def passing() -> Projection:
    """Tallies that go on after events whose handlers raise."""
    projection = tallies()
    projection.poison = Poison("pass")
    return projection


def fold(*events: Event) -> Folded:
    return passing().fold(NEW, events)


def test_the_policy_is_declared() -> None:
    assert Projection("p", table=Tally).poison is Poison.STOP
    assert Projection("p", table=Tally, poison="pass").poison is Poison.GO_ON


def test_the_stream_goes_on_as_if_the_event_had_not_been() -> None:
    folded = fold(
        added(1, 1), event(2, "fail"), added(3, 2), event(4, "add"), event(5, "refuse"), added(6, 3)
    )
    assert folded.failure is None
    assert folded.state == (6, None, RawJson("[1,2,3]"))
    assert (folded.applied, folded.facts, folded.remarks, folded.last) == (3, (), (), EventId(6, 0))
    assert [str(rejection.event_id) for rejection in folded.rejections] == ["2-0", "4-0", "5-0"]


def test_the_letter_tells_the_error_and_the_log_where_it_was_raised() -> None:
    [rejection] = fold(event(1, "fail")).rejections
    assert rejection.reason.startswith("ZeroDivisionError in fail, line ")
    assert "broken" not in rejection.reason
    [letter] = letters_of("a", [rejection])
    assert (letter.reason, letter.event_type) == (Reason.HANDLER_FAILED, "fail")
    assert letter.error.startswith("Traceback")
    assert letter.error.endswith("ZeroDivisionError: broken\n")


def test_what_is_kept_of_an_error_is_bounded() -> None:
    projection = passing()

    @projection.on("long")
    def long(row: Any, event: Event) -> None:
        raise ValueError("x" * 100_000)

    [rejection] = projection.fold(NEW, [event(1, "long")]).rejections
    assert len(rejection.raised or "") == 2_000


def test_a_value_that_no_row_can_hold_is_passed_over_with_the_event_that_set_it() -> None:
    projection = passing()
    projection.on("odd")(keep_a_set)
    folded = projection.fold(NEW, [added(1), event(2, "odd"), added(3)])
    assert (folded.state[0], folded.failure, folded.last) == (2, None, EventId(3, 0))
    assert [rejection.event_id for rejection in folded.rejections] == [EventId(2, 0)]


def test_a_lack_of_memory_stops_the_stream_all_the_same() -> None:
    projection = passing()

    @projection.on("large")
    def large(row: Any, event: Event) -> None:
        raise MemoryError

    folded = projection.fold(NEW, [added(1), event(2, "large"), added(3)])
    assert folded.failure is not None
    assert folded.last == EventId(1, 0)


@given(logs, cuts)
def test_a_fold_is_the_same_however_its_events_are_cut_into_batches(
    log: Sequence[tuple[str, dict[str, Any]]], cuts: list[int]
) -> None:
    events, state, parts = events_of(log), NEW, []
    whole = passing().fold(NEW, events)
    for start, end in zip([0, *cuts], [*cuts, len(events)], strict=True):
        parts.append(passing().fold(state, events[start:end]))
        state = parts[-1].state
    assert (state, whole.failure) == (whole.state, None)
    assert [r.event_id for part in parts for r in part.rejections] == [r.event_id for r in whole.rejections]
    assert sum(part.applied for part in parts) == whole.applied
