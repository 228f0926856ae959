"""The plans and step counts of the reference, held against the rules by examples written out by hand."""

import json
from typing import Any

import pytest

from tests.payloads.graphs import chain, ring
from tests.reference import plan as plan_module
from tests.reference.plan import plan_of, searches_in
from tests.unit.test_reference import row_after


def snapshot(**fields: Any) -> tuple[str, Any]:
    return "graph_snapshot", {"graphSnapshot": fields}


def root_of(*steps: Any, root: str = "r") -> Any:
    plan = plan_of({"steps": list(steps), "rootStepId": root})
    assert plan is not None
    return plan["root"]


def bushy(nodes: int) -> dict[str, Any]:
    """A graph that unfolds to exactly so many nodes, of few steps that are shared."""
    steps: dict[int, dict[str, Any]] = {}
    sizes = [nodes]
    while sizes:
        size = sizes.pop()
        if size and size not in steps:
            halves = (size - 1) // 2, size - 1 - (size - 1) // 2
            steps[size] = {
                "id": str(size),
                "primaryInputStepId": str(halves[0]),
                "secondaryInputStepId": str(halves[1]),
            }
            sizes += halves
    return {"steps": list(steps.values()), "rootStepId": str(nodes)}


def count(node: dict[str, Any]) -> int:
    return 1 + sum(count(node[name]) for name in ("primaryInput", "secondaryInput") if name in node)


def test_a_snapshot_sets_steps_root_name_record_type_and_plan() -> None:
    steps = [
        {
            "id": "c",
            "kind": "combine",
            "operator": "UNION",
            "primaryInputStepId": "a",
            "secondaryInputStepId": "b",
        },
        {"id": "a", "searchName": "ByTaxon", "parameters": {"organism": "Pf"}, "displayName": "Taxon"},
        {"id": "b", "searchName": "ByText", "colocationParams": {"upstream": 5}},
        "no step",
    ]
    row = row_after(snapshot(steps=steps, rootStepId="c", name="Mine", recordType="gene"))
    assert row["steps"] == steps
    assert (row["step_count"], row["root_step_id"], row["name"], row["record_type"]) == (
        4,
        "c",
        "Mine",
        "gene",
    )
    assert row["plan"] == {
        "recordType": "gene",
        "root": {
            "id": "c",
            "searchName": "__combine__",
            "parameters": {},
            "operator": "UNION",
            "primaryInput": {
                "id": "a",
                "searchName": "ByTaxon",
                "parameters": {"organism": "Pf"},
                "displayName": "Taxon",
            },
            "secondaryInput": {
                "id": "b",
                "searchName": "ByText",
                "parameters": {},
                "colocationParams": {"upstream": 5},
            },
        },
        "metadata": {"name": "Mine"},
    }


@pytest.mark.parametrize("no_snapshot", [None, [], "x", 5])
def test_a_snapshot_that_is_no_object_changes_nothing(no_snapshot: Any) -> None:
    payload = {"graphSnapshot": no_snapshot, "name": "n", "recordType": "gene"}
    assert row_after(("graph_snapshot", payload)) == row_after(("strategy_meta", {}))


def test_wrong_types_in_a_snapshot_are_ignored() -> None:
    row = row_after(
        snapshot(steps=[{"id": "a"}], rootStepId="a", name="n", recordType="gene"),
        snapshot(steps={"id": "b"}, rootStepId=None, name=None, recordType=[]),
    )
    assert (row["steps"], row["step_count"], row["root_step_id"]) == ([{"id": "a"}], 1, "a")
    assert (row["name"], row["record_type"], row["plan"]["root"]["id"]) == ("n", "gene", "a")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ({"name": "one", "graphName": "two"}, "one"),
        ({"name": "", "graphName": "two"}, "two"),
        ({"name": None, "graphName": "two"}, "two"),
        ({"name": 0, "graphName": "two"}, "two"),
        ({"graphName": "two"}, "two"),
        ({"name": 5, "graphName": "two"}, "before"),
        ({"graphName": 5}, "before"),
        ({"name": "", "graphName": ""}, "before"),
        ({}, "before"),
    ],
)
def test_the_first_non_empty_name_counts_if_it_is_text(names: dict[str, Any], expected: str) -> None:
    assert row_after(("strategy_meta", {"name": "before"}), snapshot(**names))["name"] == expected


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        ({"searchName": "S", "kind": "combine"}, "S"),
        ({"searchName": "", "kind": "combine"}, "__combine__"),
        ({"kind": " CoMBine\n"}, "__combine__"),
        ({"operator": "UNION"}, "__combine__"),
        ({"kind": "search", "operator": ""}, "__unknown__"),
        ({"kind": 5, "operator": 5, "searchName": 5}, "__unknown__"),
        ({}, "__unknown__"),
    ],
)
def test_a_step_without_a_search_name_gets_one(step: dict[str, Any], expected: str) -> None:
    assert root_of({"id": "r", **step})["searchName"] == expected


@pytest.mark.parametrize("nothing", ["", None, {}, [], 0])
def test_optional_fields_of_a_node_are_there_only_if_not_empty(nothing: Any) -> None:
    step = {
        "id": "r",
        "searchName": "S",
        "displayName": nothing,
        "operator": nothing,
        "colocationParams": nothing,
    }
    assert root_of(step) == {"id": "r", "searchName": "S", "parameters": {}}


def test_the_last_of_several_steps_with_one_id_counts() -> None:
    steps = {"id": "r", "searchName": "first"}, {"id": "r", "searchName": "last"}, {"id": 5}, None
    assert root_of(*steps)["searchName"] == "last"


def test_inputs_that_do_not_exist_are_left_out() -> None:
    step = {"id": "r", "primaryInputStepId": "missing", "secondaryInputStepId": 5}
    assert root_of(step) == {"id": "r", "searchName": "__unknown__", "parameters": {}}


def test_record_type_and_name_of_a_plan_have_defaults() -> None:
    plan = plan_of({"steps": [{"id": "r"}], "rootStepId": "r", "graphName": "not this"})
    assert plan is not None
    assert (plan["recordType"], plan["metadata"]) == ("transcript", {"name": ""})


@pytest.mark.parametrize(
    "graph",
    [
        pytest.param({"steps": [{"id": "a"}], "rootStepId": "missing"}, id="no such root"),
        pytest.param({"steps": [{"id": "a"}]}, id="no root"),
        pytest.param({"steps": [], "rootStepId": "a"}, id="no steps"),
        pytest.param({"steps": [None, "a"], "rootStepId": "a"}, id="no objects"),
        pytest.param({"rootStepId": "a"}, id="no list"),
        pytest.param(ring(1), id="its own input"),
        pytest.param(ring(7), id="cycle"),
        pytest.param(chain(201), id="201 levels"),
        pytest.param(chain(20_000), id="20,000 levels"),
        pytest.param(bushy(10_001), id="10,001 nodes"),
        pytest.param(chain(200, shared=True), id="2 ** 200 nodes"),
        pytest.param(chain(12, shared=True, parameters={"text": "p" * 8_192}), id="32 MiB"),
    ],
)
def test_without_a_plan_the_old_one_stays(graph: dict[str, Any]) -> None:
    assert plan_of(graph) is None
    row = row_after(("graph_plan", {"plan": {"old": True}}), ("graph_snapshot", {"graphSnapshot": graph}))
    assert (row["plan"], row["steps"]) == ({"old": True}, graph.get("steps", []))


def test_a_shared_step_is_repeated() -> None:
    root = root_of(*chain(3, shared=True)["steps"], root="n0")
    assert root["primaryInput"] == root["secondaryInput"]
    assert count(root) == 7


def test_a_cycle_out_of_reach_does_no_harm() -> None:
    assert root_of({"id": "r"}, *ring(2)["steps"])["id"] == "r"


def test_plans_may_be_as_large_as_the_limits() -> None:
    full = bushy(10_000)
    assert count(root_of(*full["steps"], root=full["rootStepId"])) == 10_000
    assert count(root_of(*chain(200)["steps"], root="n0")) == 200


def test_the_json_of_a_plan_is_measured_without_building_it(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = chain(5, shared=True, parameters={"text": "größer"}) | {"name": "日本"}
    size = len(json.dumps(plan_of(graph), ensure_ascii=False).encode())
    monkeypatch.setattr(plan_module, "JSON_LIMIT", size)
    assert plan_of(graph) is not None
    monkeypatch.setattr(plan_module, "JSON_LIMIT", size - 1)
    assert plan_of(graph) is None


def test_a_plan_is_taken_as_given_with_its_searches_counted() -> None:
    leaf = {"searchName": "S"}
    root = {
        "searchName": "",
        "primaryInput": {"searchName": "S", "secondaryInput": leaf},
        "secondaryInput": leaf,
    }
    row = row_after(("graph_plan", {"plan": {"root": root, "x": 1}, "name": "n", "recordType": "gene"}))
    assert (row["plan"], row["step_count"]) == ({"root": root, "x": 1}, 3)
    assert (row["name"], row["record_type"], row["steps"]) == ("n", "gene", [])


def test_a_plan_that_is_no_object_leaves_the_rest_of_its_event() -> None:
    row = row_after(
        ("graph_plan", {"plan": {"root": {"searchName": "S"}}}), ("graph_plan", {"plan": [], "name": "n"})
    )
    assert (row["plan"], row["step_count"], row["name"]) == ({"root": {"searchName": "S"}}, 1, "n")


@pytest.mark.parametrize(
    "plan",
    [
        {},
        {"root": None},
        {"root": [{"searchName": "S"}]},
        {"root": {"searchName": 5}},
        {"root": {"other": {}}},
    ],
)
def test_what_is_no_node_with_a_search_is_not_counted(plan: dict[str, Any]) -> None:
    assert searches_in(plan) == 0
