"""Snapshots of a graph: what each field does to the row, and when a plan is built."""

from __future__ import annotations

from typing import Any

import pytest

from projections.models import DEFAULT_NAME
from tests.unit.graphs import doubling, snapshot, step
from tests.unit.rows import NOT_AN_OBJECT, NOT_TEXT, NOT_TEXT_OR_EMPTY, Said, change, folded, row_after
from worker import EventId


def graph(**fields: Any) -> Said:
    return "graph_snapshot", {"graphSnapshot": fields}


def test_a_snapshot_sets_steps_root_names_and_plan() -> None:
    steps = [step("a", searchName="S"), "odd", step("b", primaryInputStepId="a")]
    row = change(graph(steps=steps, rootStepId="b", name="Kinases", recordType="gene"))
    assert row == {
        "steps": steps,
        "step_count": 3,
        "root_step_id": "b",
        "name": "Kinases",
        "record_type": "gene",
        "plan": row["plan"],
    }
    assert row["plan"]["root"]["primaryInput"]["searchName"] == "S"
    assert row["plan"]["metadata"] == {"name": "Kinases"}


@pytest.mark.parametrize("wrong", [*NOT_AN_OBJECT, ...])
def test_a_snapshot_that_is_no_object_changes_nothing(wrong: Any) -> None:
    data = {} if wrong is ... else {"graphSnapshot": wrong}
    assert change(("graph_snapshot", {**data, "name": "outside", "steps": [1]})) == {}


@pytest.mark.parametrize("wrong", [None, "x", 5, True, {}])
def test_steps_that_are_no_list_are_ignored(wrong: Any) -> None:
    assert change(graph(steps=wrong, rootStepId="a")) == {"root_step_id": "a"}


@pytest.mark.parametrize("wrong", NOT_TEXT)
def test_a_root_that_is_no_text_is_ignored(wrong: Any) -> None:
    assert change(graph(steps=[step("a")], rootStepId=wrong)) == {"steps": [step("a")], "step_count": 1}


def test_a_root_may_be_empty() -> None:
    assert change(graph(rootStepId="")) == {"root_step_id": ""}


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"name": "a", "graphName": "b"}, "a"),
        ({"graphName": "b"}, "b"),
        ({"name": "", "graphName": "b"}, "b"),
        ({"name": None, "graphName": "b"}, "b"),
        ({"name": 5, "graphName": "b"}, DEFAULT_NAME),
        ({"name": "", "graphName": 5}, DEFAULT_NAME),
        ({"name": "", "graphName": ""}, DEFAULT_NAME),
    ],
)
def test_the_first_name_that_is_not_empty_counts(fields: dict[str, Any], name: str) -> None:
    assert row_after(graph(**fields))["name"] == name


@pytest.mark.parametrize("wrong", NOT_TEXT_OR_EMPTY)
def test_a_record_type_of_a_snapshot_that_is_no_text_is_ignored(wrong: Any) -> None:
    assert change(graph(recordType=wrong, graphName="b")) == {"name": "b"}


def test_an_empty_list_of_steps_empties_them() -> None:
    row = row_after(graph(steps=[step("a")], rootStepId="a"), graph(steps=[]))
    assert (row["steps"], row["step_count"], row["root_step_id"]) == ([], 0, "a")
    assert row["plan"]["root"]["id"] == "a"


@pytest.mark.parametrize(
    ("unbuildable", "reason"),
    [
        (snapshot(step("a"), root="b"), "no_root"),
        (snapshot(step("a", primaryInputStepId="a"), root="a"), "cyclic"),
        (doubling(20), "too_large"),
    ],
)
def test_a_plan_that_cannot_be_built_leaves_the_old_one_and_a_remark(
    unbuildable: dict[str, Any], reason: str
) -> None:
    old: Said = ("graph_plan", {"plan": {"root": {"searchName": "A"}}})
    new: Said = ("graph_snapshot", {"graphSnapshot": unbuildable})
    row = row_after(old, new)
    assert (row["plan"], row["steps"]) == (old[1]["plan"], unbuildable["steps"])
    [remark] = folded(old, new).remarks
    assert (remark.event_id, remark.what, remark.reason) == (EventId(5, 1), "plan_not_built", reason)
