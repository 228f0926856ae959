"""`given(events).then(row)`: what it compares, what it says, and which handlers it finds out."""

from __future__ import annotations

import re
from datetime import date
from decimal import Decimal

import pytest

from projections import strategies
from tests.impure import boards
from tests.orders import orders
from tests.tallies import tallies
from worker import Event, EventId, InvalidEventError
from worker.testing import event, events, given
from worker.testing.drafts import Draft

APPLE = event("put", sku="apple", columns={"quantity": 2, "tags": ["red"]})
PEAR = event("put", sku="pear", columns={"quantity": 1})


# What is compared.


def test_only_what_is_named_is_compared() -> None:
    then = given(orders(), APPLE, PEAR).then(status="new")
    then.then(lines={"apple": {"quantity": 2}, "pear": {}}).then(notes={})
    then.then(lines={"apple": {"tags": ["red"], "price": None}, "pear": {"tags": []}})


def test_a_row_that_differs_is_told_column_by_column() -> None:
    with pytest.raises(AssertionError) as failed:
        given(orders(), APPLE, PEAR, event("shipped")).then(
            status="paid", lines={"apple": {"quantity": 3, "colour": 1}, "fig": {"quantity": 1}}
        )
    assert str(failed.value).splitlines() == [
        "Projection orders, after 3 events:",
        "  status: expected 'paid', found 'new'",
        "  lines['apple'].quantity: expected 3, found 2",
        "  lines['apple'].colour: there is no such column, only quantity, price, tags",
        "  lines['fig']: expected {'quantity': 1}, found no such row",
        "  lines['pear']: expected no such row, found {'quantity': 1, 'price': None, 'tags': []}",
        "  no handler, so passed over: shipped",
    ]


def test_names_that_the_projection_does_not_have_are_told() -> None:
    with pytest.raises(TypeError, match="Projection orders has no lnes; it has lines, notes, status"):
        given(orders()).then(lnes={})


def test_payloads_go_through_json_as_those_in_a_log_do() -> None:
    [made] = events(event("put", numbers=(1, 2), on=date(2020, 1, 2), price=Decimal("1.5")))
    assert isinstance(made, Event)
    assert made.data == {"numbers": [1, 2], "on": "2020-01-02", "price": "1.5"}
    given(tallies(), event("put", numbers=(1, 2))).then(numbers=[1, 2])


def test_what_no_log_may_hold_is_refused() -> None:
    with pytest.raises(InvalidEventError):
        events(event(""))


def test_ids_increase_from_those_that_are_given() -> None:
    later = Event(EventId(7, 3), "add", {"n": 1})
    assert [str(one.id) for one in events(event("add"), later, event("add"))] == ["1-0", "7-3", "8-0"]
    with pytest.raises(ValueError, match="7-3 comes after 7-3: ids must increase"):
        events(later, later)


# Events that are not applied.


def test_rejected_events_are_told_and_may_be_expected() -> None:
    rejecting = given(tallies(), event("add", n=1), event("refuse"), ("add", b"nonsense"))
    rejecting.then(total=1).then_rejected("not wanted").then_rejected("not JSON", at=3)
    rejecting.then_rejected(at="refuse").then(total=1)
    with pytest.raises(AssertionError, match=r"expected event 1 to be rejected because of 'wanted'"):
        rejecting.then_rejected("wanted", at=1)
    with pytest.raises(AssertionError, match="event 2-0, 'refuse', was rejected: not wanted"):
        rejecting.then(total=2)


def test_a_handler_that_raises_fails_the_test_unless_it_is_expected() -> None:
    stopping = given(tallies(), event("add", n=1), event("fail"), event("add", n=1))
    with pytest.raises(AssertionError, match="event 2-0, 'fail', raised ZeroDivisionError: broken") as failed:
        stopping.then(total=1)
    assert isinstance(failed.value.__cause__, ZeroDivisionError)
    stopping.then_stops(at=2, error=ZeroDivisionError).then(total=1)
    for at, error in ((1, ZeroDivisionError), ("fail", KeyError), ("add", Exception)):
        with pytest.raises(AssertionError, match=f"expected the stream to stop at .* with {error.__name__}"):
            stopping.then_stops(at=at, error=error)
    with pytest.raises(AssertionError, match="to stop"):
        given(tallies(), event("add", n=1)).then_stops()


def test_child_rows_of_events_that_fail_are_not_there() -> None:
    given(orders(), APPLE, event("fail")).then_stops(at="fail").then(lines={"apple": {"quantity": 2}})


# Laws.


@pytest.mark.parametrize(
    ("drafts", "law"),
    [
        ([event("clock")], "a handler reads a clock, draws random numbers, or keeps something outside"),
        ([event("global")], "a handler reads a clock, draws random numbers, or keeps something outside"),
        ([event("known")] * 2, "a handler reads a clock, draws random numbers, or keeps something outside"),
        ([event("payload")], "The handler of 'payload' changes the payload of its event"),
        ([event("batch", key="a")] * 2, "depends on what came before it in its batch"),
        ([event("order", key=key) for key in ("bb", "a", "c")], "depends on what JSON does not keep"),
    ],
    ids=["clock", "global", "known", "payload", "batch", "order"],
)
def test_a_handler_that_breaks_a_law_is_found_out(drafts: list[Draft], law: str) -> None:
    with pytest.raises(AssertionError, match=law):
        given(boards(), event("pure"), *drafts, event("pure")).then()


def test_what_differs_between_batches_is_told() -> None:
    with pytest.raises(AssertionError, match=re.escape("pins[a].note: expected 'first', found 'again'")):
        given(boards(), event("batch", key="a"), event("batch", key="a")).then()


def test_of_many_events_a_sample_of_batches_is_tried() -> None:
    given(tallies(), *(event("add", n=n) for n in range(400))).then(total=sum(range(400)))


def test_events_that_are_delivered_again_change_nothing() -> None:
    given(orders(), APPLE, PEAR, event("delete", sku="apple")).when(times=3).then(
        lines={"pear": {"quantity": 1}}
    )
    given(tallies(), event("add", n=1), event("fail")).when(times=2).then_stops(at=2).then(total=1)
    with pytest.raises(ValueError, match="once at least"):
        given(orders()).when(times=0)


def test_floats_come_back_as_the_integers_that_postgresql_makes_of_them() -> None:
    given(tallies(), event("put", numbers=[1e23, 1.5, 1e-7]), event("add", n=1)).then(
        numbers=[10**23, 1.5, 1e-7, 1]
    )


def test_columns_of_a_rule_are_those_of_a_stream_alone() -> None:
    linked = event("strategy_link", wdkStrategyId=7, isSaved=True)
    given(strategies, linked).then(wdk_strategy_id=7, is_saved=True)
    given(strategies, event("user_message")).then(wdk_strategy_id=None, message_count=1)


def test_what_is_no_remark_fails_its_event_alone() -> None:
    remarking = given(orders(), APPLE, event("remark"), PEAR)
    remarking.then_stops(at=2, error=TypeError).then(lines={"apple": {"quantity": 2}})


def test_child_rows_that_are_assigned_fail_their_event_alone() -> None:
    assigning = given(orders(), APPLE, event("assign"), PEAR)
    assigning.then_stops(at=2, error=AttributeError).then(lines={"apple": {"quantity": 2}})
    with pytest.raises(
        AssertionError, match=r"row\.lines are child rows, which cannot be assigned; write them"
    ):
        assigning.then(status="paid")
