"""The fold: events in, changed row out; what is refused and what fails leaves no trace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tallies import Tally, added, event, tallies
from worker import Event, EventId, Projection, RejectedEventError, Remark
from worker.events import UndecodableEvent
from worker.fold import Folded, Rejection
from worker.row import RawJson, RowState

NEW: RowState = (0, None, RawJson("[]"))

kinds: st.SearchStrategy[tuple[str, dict[str, Any]]] = st.one_of(
    st.tuples(st.just("add"), st.fixed_dictionaries({"n": st.integers(-3, 3)})),
    st.tuples(st.just("put"), st.fixed_dictionaries({"numbers": st.lists(st.integers(0, 3), max_size=2)})),
    st.tuples(st.just("tell"), st.fixed_dictionaries({"n": st.integers(0, 3)})),
    st.tuples(st.sampled_from(["refuse", "undecodable"]), st.just({})),
    st.tuples(st.sampled_from(["add", "refuse", "fail"]), st.just({})),
)
logs = st.lists(kinds, max_size=12)
cuts = st.lists(st.integers(0, 12), max_size=5).map(sorted)


def fold(*events: Event | UndecodableEvent, state: RowState = NEW) -> Folded:
    return tallies().fold(state, events)


def undecodable(number: int) -> UndecodableEvent:
    return UndecodableEvent(EventId(number, 0), "add", "the data are not JSON")


def events_of(log: Sequence[tuple[str, dict[str, Any]]]) -> list[Event | UndecodableEvent]:
    return [
        undecodable(number) if event_type == "undecodable" else event(number, event_type, **data)
        for number, (event_type, data) in enumerate(log)
    ]


# The law.


@given(logs, cuts)
def test_a_fold_is_the_same_however_its_events_are_cut_into_batches(
    log: list[tuple[str, dict[str, Any]]], cuts: list[int]
) -> None:
    whole = fold(*events_of(log))
    state, parts = NEW, []
    events = events_of(log)
    for start, end in zip([0, *cuts], [*cuts, len(events)], strict=True):
        parts.append(fold(*events[start:end], state=state))
        state = parts[-1].state
        if parts[-1].failure:
            break
    assert state == whole.state
    assert sum((part.facts for part in parts), ()) == whole.facts
    assert sum((part.remarks for part in parts), ()) == whole.remarks
    assert sum((part.rejections for part in parts), ()) == whole.rejections
    assert sum(part.applied for part in parts) == whole.applied
    assert max((part.last for part in parts if part.last), default=None) == whole.last
    assert max((part.updated_at for part in parts if part.updated_at), default=None) == whole.updated_at
    assert whole.changed <= frozenset().union(*(part.changed for part in parts))
    assert [part.failure and part.failure.event_id for part in parts][-1] == (
        whole.failure and whole.failure.event_id
    )


@given(logs)
def test_a_fold_is_the_same_again(log: list[tuple[str, dict[str, Any]]]) -> None:
    events = events_of(log)
    first, second = fold(*events), fold(*events)
    assert (first.state, first.facts, first.rejections) == (second.state, second.facts, second.rejections)


# What is applied.


def test_events_are_applied_in_order() -> None:
    folded = fold(added(1, 2), event(2, "put", numbers=[7]), added(3, 4))
    assert folded.state == (6, None, RawJson("[7,4]"))
    assert (folded.last, folded.applied, folded.rejections, folded.failure) == (EventId(3, 0), 3, (), None)


def test_a_fold_of_nothing_changes_nothing() -> None:
    folded = fold()
    assert (folded.state, folded.changed, folded.last, folded.updated_at) == (NEW, frozenset(), None, None)


def test_only_columns_that_differ_are_changed() -> None:
    assert fold(added(1)).changed == {"total", "numbers"}
    assert fold(event(1, "put", numbers=[])).changed == frozenset()
    assert fold(event(1, "tell", n=1)).changed == frozenset()
    assert fold(added(1, 2), added(2, -2)).changed == {"numbers"}


def test_the_row_is_updated_at_the_time_of_the_last_event() -> None:
    assert fold(added(1), added(1_700_000_000_000)).updated_at == datetime(
        2023, 11, 14, 22, 13, 20, tzinfo=UTC
    )


def test_facts_and_remarks_come_in_the_order_of_events() -> None:
    folded = fold(event(1, "tell", n=5), added(2), event(3, "tell", n=6))
    assert folded.facts == (5, 6)
    assert [remark.reason for remark in folded.remarks] == ["5", "6"]


# What a fold leaves alone.


def test_json_that_is_changed_in_place_does_not_reach_the_state_before() -> None:
    before = (0, None, RawJson("[1]"))
    assert fold(added(1, 2), added(2, 3), state=before).state[2] == RawJson("[1,2,3]")
    assert before == (0, None, RawJson("[1]"))


def test_no_two_new_rows_share_their_defaults() -> None:
    projection = tallies()
    projection.fold(projection.new_state, [added(1, 7)])
    assert projection.fold(projection.new_state, [added(1, 8)]).state[2] == RawJson("[8]")
    assert projection.new_state == NEW


def test_what_a_row_took_from_an_event_can_be_changed_without_the_event() -> None:
    events = [event(1, "put", numbers=[1]), added(2, 2), event(3, "refuse"), added(4, 3)]
    assert fold(*events).state[2] == RawJson("[1,2,3]")
    assert events[0].data == {"numbers": [1]}


# What is rejected.


@pytest.mark.parametrize("rejected", [event(3, "refuse"), undecodable(3)])
def test_a_rejected_event_leaves_no_trace_but_the_position(rejected: Event | UndecodableEvent) -> None:
    before = [added(1), event(2, "tell", n=2)]
    folded, without = fold(*before, rejected), fold(*before)
    assert (folded.state, folded.changed, folded.facts, folded.remarks) == (
        without.state,
        without.changed,
        without.facts,
        without.remarks,
    )
    assert folded.last == EventId(3, 0)
    assert folded.updated_at == EventId(3, 0).time
    assert folded.applied == 2


def test_after_a_rejected_event_the_stream_goes_on() -> None:
    folded = fold(added(1, 1), event(2, "refuse"), added(3, 2), undecodable(4), added(5, 3))
    assert folded.state == (6, None, RawJson("[1,2,3]"))
    assert folded.applied == 3
    assert folded.rejections == (
        Rejection(EventId(2, 0), "refuse", "not wanted", decoded=True),
        Rejection(EventId(4, 0), "add", "the data are not JSON", decoded=False),
    )


def test_a_rejected_event_after_the_year_9999_does_not_move_the_time() -> None:
    beyond = undecodable(253_402_300_800_000)
    folded = fold(added(1), beyond)
    assert (folded.last, folded.updated_at) == (beyond.id, EventId(1, 0).time)
    assert fold(beyond).updated_at is None


# What fails.


@pytest.mark.parametrize("failing", [event(3, "fail"), event(3, "add")])
def test_a_failing_handler_stops_before_its_event_and_keeps_what_was_before(failing: Event) -> None:
    before = [added(1), event(2, "tell", n=2)]
    folded, without = fold(*before, failing, added(4)), fold(*before)
    assert folded.failure is not None
    assert (folded.failure.event_id, folded.failure.type) == (failing.id, failing.type)
    assert isinstance(folded.failure.error, ZeroDivisionError | KeyError)
    assert (folded.state, folded.changed, folded.facts, folded.remarks, folded.last, folded.applied) == (
        without.state,
        without.changed,
        without.facts,
        without.remarks,
        without.last,
        without.applied,
    )


def test_a_first_event_that_fails_leaves_the_row_as_it_is() -> None:
    folded = fold(event(1, "fail"), added(2))
    assert (folded.state, folded.changed, folded.last, folded.updated_at) == (NEW, frozenset(), None, None)
    assert folded.applied == 0


def test_rejections_before_a_failure_are_kept_and_later_ones_not_made() -> None:
    folded = fold(event(1, "refuse"), event(2, "fail"), event(3, "refuse"), undecodable(4))
    assert [rejection.event_id for rejection in folded.rejections] == [EventId(1, 0)]
    assert folded.last == EventId(1, 0)


def keep_a_set(row: Tally, event: Event) -> None:
    row.numbers.append({1, 2})


def assign_a_set(row: Tally, event: Event) -> None:
    row.numbers = [{1, 2}]


def misspell_a_column(row: Tally, event: Event) -> None:
    row.totl = 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("handler", [keep_a_set, assign_a_set, misspell_a_column])
def test_what_no_row_can_hold_is_a_failure_of_the_event_that_set_it(
    handler: Callable[[Tally, Event], None],
) -> None:
    projection = tallies()
    projection.on("odd")(handler)
    folded = projection.fold(NEW, [added(1), event(2, "odd"), added(3)])
    assert folded.failure is not None
    assert folded.failure.event_id == EventId(2, 0)
    assert folded.state == (1, None, RawJson("[1]"))
    assert folded.remarks == ()


def test_a_handler_that_takes_its_event_apart_fails_and_stops_nothing_else() -> None:
    projection = tallies()

    @projection.on("take")
    def take(row: Tally, event: Event) -> None:
        row.total += event.data.pop("n")

    folded = projection.fold(projection.new_state, [event(1, "take", n=1), event(2, "refuse")])
    assert folded.failure is not None
    assert (folded.failure.event_id, folded.last) == (EventId(1, 0), None)


def test_a_rejection_that_cannot_say_why_is_a_failure() -> None:
    class MuteError(RejectedEventError):
        def __str__(self) -> str:
            raise LookupError("no words")

    projection = tallies()

    @projection.on("mute")
    def mute(row: Tally, event: Event) -> None:
        raise MuteError

    folded = projection.fold(projection.new_state, [added(1), event(2, "mute"), added(3)])
    assert folded.failure is not None
    assert (folded.failure.event_id, folded.last) == (EventId(2, 0), EventId(1, 0))


def test_a_remark_tells_of_an_event_that_was_applied() -> None:
    assert fold(event(1, "tell", n=5)).remarks == (Remark(EventId(1, 0), "told", "5"),)


def test_each_event_is_applied_twice_at_most_however_many_are_rejected() -> None:
    calls = 0
    counting = Projection("counting", table=Tally)

    @counting.on("good", "bad")
    def count(row: Tally, event: Event) -> None:
        nonlocal calls
        calls += 1
        if event.type == "bad":
            raise RejectedEventError("bad")

    events = [Event(EventId(number, 0), "bad" if number % 2 else "good", {}) for number in range(1_000)]
    folded = counting.fold(counting.new_state, events)
    assert (folded.applied, len(folded.rejections)) == (500, 500)
    assert calls <= 2 * len(events)
