"""Plans: what a snapshot's steps unfold to, and how many steps a plan holds."""

from __future__ import annotations

import json
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from projections import plan as plans
from projections.plan import NoPlan, Unfolded, build_plan, count_steps, unfold_plan
from tests.reference.plan import plan_of, searches_in
from tests.unit.graphs import LEAF, chain, snapshot, step


def node(**fields: Any) -> dict[str, Any]:
    """The root node of the plan that a single step with these fields gives."""
    plan = build_plan(snapshot({"id": "root", **fields}))
    assert plan is not None
    root: dict[str, Any] = plan["root"]
    return root


# What a plan looks like.


def test_a_plan_is_the_tree_below_the_root_step() -> None:
    union = {
        "id": "root",
        "kind": "combine",
        "operator": "UNION",
        "displayName": "Either",
        "primaryInputStepId": "leaf",
        "secondaryInputStepId": "text",
    }
    text = {"id": "text", "searchName": "GenesByTextSearch"}
    assert build_plan(snapshot(LEAF, union, text, recordType="gene", name="Kinases")) == {
        "recordType": "gene",
        "root": {
            "id": "root",
            "searchName": "__combine__",
            "parameters": {},
            "displayName": "Either",
            "operator": "UNION",
            "primaryInput": LEAF,
            "secondaryInput": {"id": "text", "searchName": "GenesByTextSearch", "parameters": {}},
        },
        "metadata": {"name": "Kinases"},
    }


def test_a_shared_step_is_repeated_in_the_tree() -> None:
    plan = build_plan(snapshot(step(primaryInputStepId="leaf", secondaryInputStepId="leaf"), LEAF))
    assert plan is not None
    assert plan["root"]["primaryInput"] == plan["root"]["secondaryInput"] == LEAF


@pytest.mark.parametrize("absent", [{}, {"recordType": None, "name": None}, {"recordType": 1, "name": ["x"]}])
def test_record_type_and_name_have_defaults(absent: dict[str, Any]) -> None:
    plan = build_plan(snapshot(step(), **absent))
    assert plan is not None
    assert plan["recordType"] == "transcript"
    assert plan["metadata"] == {"name": ""}


def test_the_name_is_the_snapshots_own_and_not_the_graphs() -> None:
    plan = build_plan(snapshot(step(), graphName="Graph"))
    assert plan is not None
    assert plan["metadata"] == {"name": ""}


@pytest.mark.parametrize(
    ("fields", "search_name"),
    [
        ({"searchName": "GenesByTaxon", "kind": "combine", "operator": "UNION"}, "GenesByTaxon"),
        ({"searchName": "", "kind": "combine"}, "__combine__"),
        ({"searchName": None, "kind": " Combine\n"}, "__combine__"),
        ({"operator": "MINUS"}, "__combine__"),
        ({"searchName": 5, "kind": "transform", "operator": "MINUS"}, "__combine__"),
        ({"kind": "combined"}, "__unknown__"),
        ({"kind": ["combine"], "operator": ""}, "__unknown__"),
        ({"kind": "search", "operator": {"name": "MINUS"}}, "__unknown__"),
        ({}, "__unknown__"),
    ],
)
def test_a_search_name_that_is_empty_is_stood_in_for(fields: dict[str, Any], search_name: str) -> None:
    assert node(**fields)["searchName"] == search_name


@pytest.mark.parametrize("parameters", [None, [], "x", 5, False])
def test_parameters_are_always_an_object(parameters: Any) -> None:
    assert node()["parameters"] == {}
    assert node(parameters=parameters)["parameters"] == {}
    assert node(parameters={"p": None})["parameters"] == {"p": None}


@pytest.mark.parametrize("empty", ["", {}, [], None, 0, 7, ["x"], True])
def test_optional_fields_stand_only_where_they_are_not_empty(empty: Any) -> None:
    assert node(displayName=empty, operator=empty, colocationParams=empty).keys() == {
        "id",
        "searchName",
        "parameters",
    }
    fields = {"displayName": "Nearby", "operator": "COLOCATE", "colocationParams": {"upstream": 1000}}
    assert node(**fields).items() >= fields.items()


@pytest.mark.parametrize("input_id", ["nowhere", "", None, 5, ["leaf"], {"id": "leaf"}])
def test_an_input_that_does_not_exist_is_left_out(input_id: Any) -> None:
    plan = build_plan(snapshot(step(primaryInputStepId=input_id, secondaryInputStepId="leaf"), LEAF))
    assert plan is not None
    assert "primaryInput" not in plan["root"]
    assert plan["root"]["secondaryInput"] == LEAF


# Which steps there are, and when there is no plan.


def test_of_several_steps_with_one_id_the_last_counts() -> None:
    plan = build_plan(snapshot(step(searchName="First"), step(searchName="Last")))
    assert plan is not None
    assert plan["root"]["searchName"] == "Last"


def test_what_is_no_step_is_ignored() -> None:
    junk = [None, "root", 5, ["root"], {}, {"id": None}, {"id": 5}, {"id": ["root"]}]
    assert build_plan(snapshot(*junk, step(), *junk)) == build_plan(snapshot(step()))


@pytest.mark.parametrize(
    "graph",
    [
        {},
        {"rootStepId": "root"},
        {"steps": [step()]},
        {"steps": [], "rootStepId": "root"},
        {"steps": [None, "root"], "rootStepId": "root"},
        {"steps": {"root": step()}, "rootStepId": "root"},
        {"steps": "root", "rootStepId": "root"},
        {"steps": [step()], "rootStepId": 5},
    ],
)
def test_a_plan_needs_objects_in_steps_and_a_root_id(graph: dict[str, Any]) -> None:
    assert unfold_plan(graph) is NoPlan.NOT_GIVEN
    assert build_plan(graph) is None


@pytest.mark.parametrize("graph", [snapshot(step(), root="other"), snapshot({"id": 5}), snapshot({})])
def test_without_a_root_step_there_is_no_plan(graph: dict[str, Any]) -> None:
    assert unfold_plan(graph) is NoPlan.NO_ROOT
    assert build_plan(graph) is None


@pytest.mark.parametrize("length", [1, 2, 3, 200])
def test_a_cycle_gives_no_plan(length: int) -> None:
    graph = chain(length)
    graph["steps"][-1]["primaryInputStepId"] = "0"
    assert unfold_plan(graph) is NoPlan.CYCLIC
    assert build_plan(graph) is None


def test_a_cycle_that_the_root_does_not_reach_does_not_matter() -> None:
    assert isinstance(unfold_plan(snapshot(step(), step("loop", primaryInputStepId="loop"))), Unfolded)


# The number of steps of a plan.


def test_nodes_with_a_search_name_are_counted() -> None:
    named = {"searchName": "GenesByTaxon"}
    nameless = {"searchName": "", "primaryInput": named, "secondaryInput": {"secondaryInput": named}}
    assert count_steps({"root": {**named, "primaryInput": nameless, "other": named}}) == 3


@pytest.mark.parametrize("junk", [None, 5, "root", [{"searchName": "x"}], True])
def test_what_is_no_node_is_not_counted(junk: Any) -> None:
    assert count_steps({"root": junk}) == 0
    assert count_steps({"root": {"searchName": junk if junk != "root" else "", "primaryInput": junk}}) == 0


def test_a_plan_without_a_root_has_no_steps() -> None:
    assert count_steps({}) == 0


def test_a_deep_plan_is_counted_without_recursion() -> None:
    root: dict[str, Any] = {"searchName": "x"}
    for _ in range(100_000):
        root = {"searchName": "x", "secondaryInput": root}
    assert count_steps({"root": root}) == 100_001


# The law: the same as a plain, recursive reading of the rules.

IDS = st.sampled_from(["a", "b", "c", "d", "e", "", 5, None])
TEXTS = st.sampled_from(["", "x", " COMBINE ", "combine", 5, None, {"x": 1}, {}])
STEPS = st.one_of(
    st.fixed_dictionaries(
        {},
        optional={
            "id": IDS,
            "searchName": TEXTS,
            "kind": TEXTS,
            "operator": TEXTS,
            "displayName": TEXTS,
            "colocationParams": TEXTS,
            "parameters": TEXTS,
            "primaryInputStepId": IDS,
            "secondaryInputStepId": IDS,
        },
    ),
    st.sampled_from([None, "a", 5]),
)
SNAPSHOTS = st.fixed_dictionaries(
    {"steps": st.lists(STEPS, max_size=8), "rootStepId": IDS}, optional={"name": TEXTS, "recordType": TEXTS}
)


@given(SNAPSHOTS)
@settings(deadline=None)
def test_a_plan_is_what_the_plainest_reading_of_the_rules_gives(graph: dict[str, Any]) -> None:
    plan = build_plan(graph)
    assert plan == plan_of(graph)
    assert plan is None or count_steps(plan) == searches_in(plan)


def spelled(outcome: Unfolded | NoPlan) -> str:
    return json.dumps(outcome.plan if isinstance(outcome, Unfolded) else outcome.value)


@given(SNAPSHOTS | st.builds(chain, st.integers(198, 202)))
@settings(deadline=None)
def test_a_tree_of_few_steps_is_the_same_if_it_is_measured(graph: dict[str, Any]) -> None:
    with patch.object(plans, "_root_of_small_tree", return_value=None):
        measured = unfold_plan(graph)
    assert spelled(unfold_plan(graph)) == spelled(measured)
