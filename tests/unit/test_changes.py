"""What changed between two rows."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.retold import applied
from worker.changes import ABSENT, Change, changes

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.floats(allow_nan=False) | st.sampled_from(["", "x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=10,
)


def told(before: Any, after: Any) -> list[tuple[str, Any, Any]]:
    return [(c.place, c.before, c.after) for c in changes({"c": before}, {"c": after})]


def test_a_plain_column_is_told_as_a_whole() -> None:
    assert told("old", "new") == [("c", "old", "new")]
    assert told(None, 0) == [("c", None, 0)]
    assert told("same", "same") == []


def test_json_is_told_by_the_paths_that_changed() -> None:
    before = {"root": {"name": "a", "parameters": {"x": [1, 2]}}, "gone": 1}
    after = {"root": {"name": "b", "parameters": {"x": [1, 3, 4]}}, "new": {"y": None}}
    assert told(before, after) == [
        ("c.root.name", "a", "b"),
        ("c.root.parameters.x[1]", 2, 3),
        ("c.root.parameters.x[2]", ABSENT, 4),
        ("c.gone", 1, ABSENT),
        ("c.new", ABSENT, {"y": None}),
    ]


def test_null_is_a_value_and_not_an_absence() -> None:
    assert told({"a": None}, {}) == [("c.a", None, ABSENT)]
    assert told({}, {"a": None}) == [("c.a", ABSENT, None)]


@pytest.mark.parametrize(("before", "after"), [(True, 1), (False, 0), ([], {}), ({}, None), ("1", 1)])
def test_values_of_different_types_differ(before: Any, after: Any) -> None:
    assert told({"a": before}, {"a": after}) == [("c.a", before, after)]


def test_numbers_are_compared_as_numbers() -> None:
    assert told([1, 10**30], [1.0, 10**30]) == []


def test_keys_that_are_no_names_are_quoted() -> None:
    assert Change("plan", ("a b", "x.y", 0, "é"), 1, 2).place == "plan['a b']['x.y'][0].é"


def test_nesting_deeper_than_python_recurses_is_no_obstacle() -> None:
    def nested(leaf: int) -> Any:
        value: Any = leaf
        for _ in range(5_000):
            value = [value]
        return value

    [change] = changes({"c": nested(1)}, {"c": nested(2)})
    assert (len(change.path), change.before, change.after) == (5_000, 1, 2)


@given(json_values, json_values)
def test_applied_to_the_one_the_changes_give_the_other(before: Any, after: Any) -> None:
    found = list(changes({"c": before}, {"c": after}))
    assert list(changes(applied({"c": before}, found), {"c": after})) == []


@given(json_values, json_values, json_values)
def test_changes_compose(first: Any, second: Any, third: Any) -> None:
    on = applied({"c": first}, changes({"c": first}, {"c": second}))
    there = applied(on, changes({"c": second}, {"c": third}))
    straight = applied({"c": first}, changes({"c": first}, {"c": third}))
    assert list(changes(there, straight)) == []


@given(json_values)
def test_what_is_the_same_has_no_changes(value: Any) -> None:
    assert told(value, value) == []
