"""The comparison of a table with its logs: it tells what differs, and only that."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from projections import strategies
from worker.comparison import compare, expected_rows
from worker.difference import Difference, differences, excerpts
from worker.events import Event, EventId, UndecodableEvent
from worker.log import Page
from worker.replay import FoldedLog, fold_page
from worker.row import RawJson

EVENTS: list[Event | UndecodableEvent] = [
    Event(EventId(1_000, 0), "user_message", {}),
    Event(EventId(1_000, 1), "strategy_link", {"wdkStrategyId": 7, "isSaved": True}),
    UndecodableEvent(EventId(2_000, 0), "user_message", "no data"),
    Event(EventId(3_000, 0), "graph_plan", {"plan": {"root": {"searchName": "s"}}, "name": "a"}),
]


def folded(*events: Event | UndecodableEvent, log: FoldedLog | None = None) -> FoldedLog:
    """The fold of one more page."""
    log = log or FoldedLog(strategies.new_state)
    ids = [str(event.id) for event in events]
    return fold_page(strategies, log, Page(ids[0], ids[-1], events, ended=True))


def row(**columns: Any) -> dict[str, Any]:
    return {"last_event_id": "5-0", "name": "a", "plan": RawJson("{}")} | columns


def raw(value: object) -> RawJson:
    return RawJson(json.dumps(value))


@pytest.mark.parametrize("cut", range(1, len(EVENTS)))
def test_a_log_folds_to_the_same_however_it_is_cut_into_pages(cut: int) -> None:
    # A page begins with the entry that the one before it ended with.
    assert folded(*EVENTS[cut - 1 :], log=folded(*EVENTS[:cut])) == folded(*EVENTS)


def test_an_expected_row_has_its_log_s_columns_and_those_of_the_rule() -> None:
    rows = expected_rows(strategies, {"a": folded(*EVENTS), "b": FoldedLog(strategies.new_state)})
    assert rows.keys() == {"a"}, "a log without projected events makes no row"
    expected = rows["a"]
    assert (expected["message_count"], expected["name"], expected["step_count"]) == (1, "a", 1)
    assert (expected["wdk_strategy_id"], expected["is_saved"]) == (7, True)
    assert (expected["first_event_id"], expected["last_event_id"]) == ("1000-0", "3000-0")
    assert expected["updated_at"] == EventId(3_000, 0).time
    assert expected["version"] == strategies.version


def test_a_claim_of_another_log_takes_the_strategy_from_the_expected_row() -> None:
    later = Event(EventId(4_000, 0), "strategy_link", {"wdkStrategyId": 7})
    rows = expected_rows(strategies, {"a": folded(*EVENTS), "b": folded(later)})
    assert {s: (r["wdk_strategy_id"], r["is_saved"]) for s, r in rows.items()} == {
        "a": (None, False),
        "b": (7, False),
    }


def test_equal_rows_do_not_differ() -> None:
    comparison = compare({"a": row(), "b": row()}, {"a": row(), "b": row()})
    assert (comparison.rows, comparison.wrong_rows, comparison.differences) == (2, 0, ())


@pytest.mark.parametrize(
    ("column", "stored"),
    [("name", "b"), ("name", None), ("last_event_id", "5-1"), ("plan", RawJson("[]")), ("plan", None)],
)
def test_a_wrong_column_is_told_with_both_values(column: str, stored: Any) -> None:
    comparison = compare({"a": row(), "b": row()}, {"a": row(**{column: stored}), "b": row()})
    assert comparison.differences == (Difference("a", column, row()[column], stored),)
    assert comparison.wrong_rows == 1


def test_missing_and_extra_rows_are_wrong() -> None:
    comparison = compare({"a": row(), "b": row()}, {"b": row(), "c": row(), "d": row()})
    assert (comparison.missing, comparison.extra) == (("a",), ("c", "d"))
    assert (comparison.rows, comparison.wrong_rows) == (4, 3)


def test_a_row_with_several_wrong_columns_counts_once() -> None:
    assert compare({"a": row()}, {"a": row(name="b", last_event_id="6-0")}).wrong_rows == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('{"a": 1, "b": 2}', '{"b":2,"a":1}'),
        ("1e23", "100000000000000000000000"),
        ("1.50", "1.5"),
        ("-0.0", "0"),
        ('"\\u00e9"', '"é"'),
    ],
)
def test_json_is_compared_by_value(one: str, other: str) -> None:
    assert not list(differences("a", row(plan=RawJson(one)), row(plan=RawJson(other))))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (True, 1),
        (False, 0),
        (None, False),
        ("1", 1),
        ([1, 2], [2, 1]),
        ([], {}),
        (10**30, 10**30 + 1),
        ({"a": None}, {}),
    ],
)
def test_json_values_that_python_might_confuse_differ(one: object, other: object) -> None:
    assert list(differences("a", row(plan=raw(one)), row(plan=raw(other))))


def test_excerpts_show_where_long_values_differ() -> None:
    one, other = excerpts(Difference("a", "plan", raw("x" * 500 + "1"), raw("x" * 500 + "2")), 30)
    assert len(one) <= 30
    assert one.startswith("…xxx")
    assert one.replace('1"', '2"') == other


def test_excerpts_of_short_values_are_the_values() -> None:
    assert excerpts(Difference("a", "name", None, "b"), 30) == ("null", "b")


@pytest.mark.parametrize("nan", [float("nan"), Decimal("NaN")])
def test_what_is_not_a_number_is_the_same_when_stored(nan: Any) -> None:
    assert not [*differences("a", {"price": nan}, {"price": type(nan)("nan")})]
    assert [*differences("a", {"price": nan}, {"price": type(nan)(1)})]
