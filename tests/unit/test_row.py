"""Rows as handlers see them: columns as attributes, JSON decoded only where it is looked at."""

from __future__ import annotations

from typing import Any

import pytest

from worker import row as row_module
from worker.row import RawJson, row_class

Row: Any = row_class(("name", "count", "plan", "steps"), {"plan", "steps"})
STATE = ("a", 1, RawJson('{"x": [1]}'), None)


def test_columns_are_attributes() -> None:
    row = Row(STATE)
    assert (row.name, row.count, row.plan, row.steps) == ("a", 1, {"x": [1]}, None)


def test_a_state_goes_through_a_row_unchanged() -> None:
    assert Row(STATE).state() == STATE


def test_what_a_handler_sets_is_in_the_state() -> None:
    row = Row(STATE)
    row.name, row.count, row.plan, row.steps = None, 2, {"y": 1}, [1, "é"]
    assert row.state() == (None, 2, RawJson('{"y":1}'), RawJson('[1,"é"]'))


def test_json_that_is_changed_in_place_is_in_the_state() -> None:
    row = Row(STATE)
    row.plan["x"].append(2)
    assert row.plan == {"x": [1, 2]}
    assert row.state()[2] == RawJson('{"x":[1,2]}')
    assert STATE[2] == RawJson('{"x": [1]}')


def test_json_that_is_assigned_and_then_changed_is_in_the_state() -> None:
    row = Row(STATE)
    row.steps = []
    row.steps.append(1)
    row.steps.append(2)
    assert row.state()[3] == RawJson("[1,2]")


def test_what_was_assigned_is_not_changed_through_the_row() -> None:
    given: list[Any] = [1]
    row = Row(STATE)
    row.steps = given
    row.steps.append(2)
    assert given == [1]
    assert row.steps == [1, 2]


def test_null_takes_the_place_of_json() -> None:
    row = Row(STATE)
    row.plan = None
    assert row.plan is None
    assert row.state()[2] is None


@pytest.mark.parametrize("value", [False, 0, "", "text", 1.5])
def test_a_json_column_holds_any_json_value(value: Any) -> None:
    row = Row(STATE)
    row.plan = value
    assert row.plan == value
    again = Row(row.state())
    assert again.plan == value


def test_json_that_nobody_looks_at_is_neither_decoded_nor_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_module, "decode_stored", pytest.fail)
    monkeypatch.setattr(row_module, "encode", pytest.fail)
    row = Row(STATE)
    row.count += 1
    assert row.state() == ("a", 2, STATE[2], None)


def test_json_is_decoded_once() -> None:
    row = Row(STATE)
    assert row.plan is row.plan


def test_a_misspelt_column_is_an_error() -> None:
    row = Row(STATE)
    with pytest.raises(AttributeError):
        row.nmae = "b"
    with pytest.raises(AttributeError):
        row.stream_id  # noqa: B018


def test_facts_and_remarks_are_a_rows_own() -> None:
    first, second = Row(STATE), Row(STATE)
    first.facts.append("fact")
    assert (first.facts, first.remarks, second.facts) == (["fact"], [], [])
