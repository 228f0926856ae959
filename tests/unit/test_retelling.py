"""A history told again, without servers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from projections import strategies
from projections.claim_facts import Claimed
from projections.claims import Claims
from tests.retold import applied
from tests.tallies import added, event, tallies
from worker import Event, EventId, HistoryEntry
from worker.changes import Change
from worker.events import AnyEvent, SkippedEvent
from worker.moments import END
from worker.retelling import Retelling, decoded, rule_history

TALLIES = tallies()


def link(at: int, wdk_strategy_id: int = 7, **data: Any) -> Event:
    return Event(EventId(at, 0), "strategy_link", {"wdkStrategyId": wdk_strategy_id, **data})


def claim(at: int, wdk_strategy_id: int = 7) -> Claimed:
    return Claimed(EventId(at, 0), wdk_strategy_id)


def tell(
    stream_id: str,
    events: Sequence[AnyEvent],
    rivals: Mapping[str, Sequence[Any]] | None = None,
    up_to: EventId = END,
) -> list[HistoryEntry]:
    retelling = Retelling(strategies, stream_id, up_to)
    retelling.expect(rivals or {})
    return [*retelling.tell(events), *retelling.rest()]


def strategy(entry: HistoryEntry) -> tuple[str, Any, Any]:
    [change] = [c for c in entry.changes if c.column == "wdk_strategy_id"]
    return entry.stream_id, change.before, change.after


def test_events_that_change_nothing_are_left_out() -> None:
    told = Retelling(TALLIES, "a", END)
    events: list[AnyEvent] = [
        added(1),
        event(2, "tell", n=1),
        SkippedEvent(EventId(3, 0), "add"),
        added(4, 0),
    ]
    assert [entry.event_id.ms for entry in told.tell([*events, event(5, "refuse")])] == [1, 4]


def test_what_others_took_stands_where_it_happened() -> None:
    told = tell("b", [link(1), link(3)], {"c": [claim(2)], "d": [claim(9)]})
    assert [strategy(entry) for entry in told] == [
        ("b", None, 7),
        ("c", 7, None),
        ("b", None, 7),
        ("d", 7, None),
    ]
    assert [entry.event_id.ms for entry in told] == [1, 2, 3, 9]


def test_at_one_event_id_the_order_is_that_of_the_stream_ids() -> None:
    first = tell("b", [link(1), link(2)], {"a": [claim(2)]})
    assert [strategy(entry) for entry in first] == [("b", None, 7), ("a", 7, None), ("b", None, 7)]
    last = tell("b", [link(1), link(2, isSaved=True)], {"c": [claim(2)]})
    assert [entry.stream_id for entry in last] == ["b", "b", "c"]
    assert strategy(last[-1]) == ("c", 7, None)


def test_what_others_took_after_the_last_event_that_counts_is_left_out() -> None:
    assert len(tell("b", [link(1)], {"c": [claim(3)]}, up_to=EventId(2, 0))) == 1


def test_who_takes_what_is_no_longer_held_changes_nothing() -> None:
    told = tell("b", [link(1), Event(EventId(2, 0), "graph_cleared", {})], {"c": [claim(3)]})
    assert [entry.stream_id for entry in told] == ["b", "b"]


def test_a_history_of_the_rule_alone_is_told_from_facts() -> None:
    told = list(rule_history(Claims(), "b", [claim(1), claim(3)], {"c": [claim(2)]}))
    assert [strategy(entry) for entry in told] == [("b", None, 7), ("c", 7, None), ("b", None, 7)]


def test_a_handler_that_fails_ends_the_history_with_its_event() -> None:
    told = Retelling(TALLIES, "a", END)
    first, failing = told.tell([added(1), event(2, "fail"), added(3)])
    assert first.changes[0] == Change("total", (), 0, 1)
    assert (failing.event_id, failing.changes, told.stopped) == (EventId(2, 0), (), True)


tally_events = st.lists(
    st.sampled_from(["add", "put", "tell", "refuse"]).flatmap(
        lambda kind: st.builds(
            lambda n, numbers: (kind, {"n": n, "numbers": numbers}),
            st.integers(0, 2),
            st.lists(st.integers(0, 1) | st.none(), max_size=3),
        )
    ),
    max_size=12,
).map(lambda some: [event(number, kind, **data) for number, (kind, data) in enumerate(some, 1)])


@given(tally_events, st.integers(0, 12))
def test_the_changes_applied_to_a_new_row_give_the_row(events: list[Event], cut: int) -> None:
    told = Retelling(TALLIES, "a", END)
    row = dict(zip(TALLIES.columns, map(decoded, TALLIES.new_state), strict=True))
    for part in (events[:cut], events[cut:]):
        for entry in told.tell(part):
            row = applied(row, entry.changes)
    state = TALLIES.fold(TALLIES.new_state, events).state
    assert row == dict(zip(TALLIES.columns, map(decoded, state), strict=True))
