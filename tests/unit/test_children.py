"""What handlers do to child rows, and what that comes to."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Column, Enum, create_mock_engine

from tests.orders import OrderLine, orders
from worker import Event, EventId
from worker.children import ChildRows, followed
from worker.payload import decode_stored
from worker.replay import FoldedLog
from worker.row import RawJson
from worker.row_arrays import sql_type
from worker.upgrade import _bytes

TABLE = orders().children["lines"]
KEYS = st.sampled_from(["a", "b", "c"])
VALUES = st.fixed_dictionaries(
    {}, optional={"quantity": st.integers(0, 9), "tags": st.lists(st.integers(0, 3))}
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), KEYS, VALUES.map(lambda given: {"quantity": 1, **given})),
        st.tuples(st.just("change"), KEYS, VALUES),
        st.tuples(st.just("delete"), KEYS, st.just({})),
        st.tuples(st.just("clear"), KEYS, st.just({})),
    ),
    max_size=12,
)
Step = tuple[str, str, dict[str, Any]]
Rows = dict[str, dict[str, Any]]


def replay(steps: list[Step], rows: Rows) -> Rows:
    """What the calls mean, one after the other, on a table."""
    rows = dict(rows)
    for what, key, values in steps:
        if what == "put":
            rows[key] = {"price": None, "tags": [], **values}
        elif what == "change" and key in rows:
            rows[key] = {**rows[key], **values}
        elif what == "delete":
            rows.pop(key, None)
        elif what == "clear":
            rows = {}
    return rows


def call(steps: list[Step]) -> ChildRows:
    called = ChildRows(TABLE)
    for what, key, values in steps:
        if what == "clear":
            called.clear()
        else:
            getattr(called, what)(key, **values)
    return called


def written(rows: Rows, effect: ChildRows) -> Rows:
    """The table after one write of what calls came to."""
    after = {} if effect.cleared else dict(rows)
    for key, write in effect.writes.items():
        if write is None:
            after.pop(str(key), None)
            continue
        values = {c: read(v) for c, v in write.values.items()}
        if write.whole:
            after[str(key)] = values
        elif key in after:
            after[str(key)] = {**after[str(key)], **values}
    return after


def read(value: Any) -> Any:
    return decode_stored(value.text) if isinstance(value, RawJson) else value


BEFORE: Rows = {"a": {"quantity": 7, "price": None, "tags": [1]}}


@given(STEPS, STEPS)
def test_calls_come_to_what_they_mean_one_by_one_however_they_are_cut(
    first: list[Step], rest: list[Step]
) -> None:
    expected = replay(first + rest, BEFORE)
    assert written(BEFORE, call(first + rest)) == expected
    assert written(written(BEFORE, call(first)), call(rest)) == expected
    both = followed({"lines": call(first)}, {"lines": call(rest)})["lines"]
    assert written(BEFORE, both) == expected
    assert {k: {c: read(v) for c, v in row.items()} for k, row in both.rows.items()} == replay(
        first + rest, {}
    )


@given(STEPS, STEPS)
def test_what_came_before_is_not_changed(first: list[Step], rest: list[Step]) -> None:
    earlier, later = call(first), call(rest)
    followed({"lines": earlier}, {"lines": later})
    assert (earlier, later) == (call(first), call(rest))


def event(number: int, event_type: str, **data: Any) -> Event:
    return Event(EventId(number, 0), event_type, data)


def test_a_fold_tells_what_became_of_child_rows() -> None:
    projection = orders()
    folded = projection.fold(
        projection.new_state,
        [
            event(1, "put", sku="a", columns={"quantity": 1}),
            event(2, "change", sku="a", columns={"quantity": 2}),
        ],
    )
    assert folded.children["lines"].rows["a"]["quantity"] == 2
    assert "notes" not in folded.children


def test_a_handler_that_fails_leaves_nothing_in_child_rows() -> None:
    projection = orders()
    put = event(1, "put", sku="a", columns={"quantity": 1})
    folded = projection.fold(projection.new_state, [put, event(2, "fail")])
    assert folded.failure is not None
    assert folded.children == projection.fold(projection.new_state, [put]).children


def test_what_a_handler_changes_later_stays_out_of_a_row() -> None:
    tags = ["new"]
    rows = ChildRows(TABLE)
    rows.put("a", quantity=1, tags=tags)
    tags.append("old")
    assert rows.rows["a"]["tags"] == RawJson('["new"]')


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda rows: rows.put("a"), "lines.put() needs quantity"),
        (lambda rows: rows.put("a", quantity=1, colour="red"), "order_lines has no column colour to write"),
        (lambda rows: rows.change("a", stream_id="b"), "order_lines has no column stream_id to write"),
        (lambda rows: rows.put(1, quantity=1), "keys of order_lines are str, not int"),
        (lambda rows: rows.delete(None), "keys of order_lines are str, not NoneType"),
    ],
)
def test_a_wrong_call_is_told_in_a_sentence(call: Any, told: str) -> None:
    with pytest.raises(TypeError) as raised:
        call(ChildRows(TABLE))
    assert str(raised.value) == told


def test_a_model_of_child_rows_is_an_ordinary_model() -> None:
    assert OrderLine(stream_id="a", sku="b", quantity=1).quantity == 1


def test_handlers_cannot_put_something_else_in_the_place_of_child_rows() -> None:
    projection = orders()
    folded = projection.fold(projection.new_state, [Event(EventId(1, 0), "assign", {})])
    assert folded.failure is not None
    assert isinstance(folded.failure.error, AttributeError)


def test_a_column_may_be_named_as_a_parameter() -> None:
    table = replace(TABLE, columns=(*TABLE.columns, "key", "self"))
    called = ChildRows(table)
    called.put("a", quantity=1, key="k", self="s")
    called.change("a", key="l")
    assert called.rows["a"]["key"] == "l"


def test_an_enum_without_a_type_of_its_own_travels_as_text_and_is_not_cut() -> None:
    dialect = create_mock_engine("postgresql://", lambda *_: None).dialect
    assert sql_type(Column("c", Enum("a", "b", native_enum=False)), dialect) == "text"
    assert sql_type(Column("c", Enum("a", "b", name="letter")), dialect) == "letter"


def test_the_fold_of_a_stale_row_is_as_large_as_its_child_rows() -> None:
    called = ChildRows(TABLE)
    called.put("a", quantity=1, tags=["x" * 10_000])
    state = orders().new_state
    assert _bytes(FoldedLog(state, children={"lines": called})) > _bytes(FoldedLog(state)) + 10_000
