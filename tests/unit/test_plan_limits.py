"""Plans that are too large: where the limits lie, and that finding out is cheap."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest

from projections.plan import MAX_JSON_BYTES, NoPlan, Unfolded, build_plan, count_steps, unfold_plan
from tests.unit.graphs import LEAF, chain, doubling, snapshot, step, unfolding_to

# Limits.


def test_two_hundred_levels_are_allowed() -> None:
    assert isinstance(unfold_plan(chain(200)), Unfolded)
    assert unfold_plan(chain(201)) is NoPlan.TOO_LARGE


def test_levels_count_along_the_longest_way_also_over_steps_that_were_met_before() -> None:
    graph = chain(200)
    # The new root meets the end of the chain first, and then the whole of it.
    graph["steps"].append(step(primaryInputStepId="150", secondaryInputStepId="0"))
    assert unfold_plan({**graph, "rootStepId": "root"}) is NoPlan.TOO_LARGE


def test_ten_thousand_nodes_are_allowed() -> None:
    plan = build_plan(unfolding_to(10_000))
    assert plan is not None
    assert count_steps(plan) == 10_000
    assert unfold_plan(unfolding_to(10_001)) is NoPlan.TOO_LARGE


def test_sixteen_mebibytes_of_json_are_allowed() -> None:
    def graph(padding: int) -> dict[str, Any]:
        leaf = {**LEAF, "parameters": {"é": "x" * padding}}
        return snapshot(step(primaryInputStepId="leaf"), leaf, name="ü")

    empty = json.dumps(build_plan(graph(0)), ensure_ascii=False, separators=(",", ":"))
    padding = MAX_JSON_BYTES - len(empty.encode())
    assert isinstance(unfold_plan(graph(padding)), Unfolded)
    assert unfold_plan(graph(padding + 1)) is NoPlan.TOO_LARGE


def test_repeated_parameters_count_each_time() -> None:
    graph = doubling(6)
    graph["steps"][-1]["parameters"] = {"ids": "PF3D7_0100100," * 40_000}  # 32 times half a mebibyte.
    assert unfold_plan(graph) is NoPlan.TOO_LARGE


@pytest.mark.parametrize("value", [1 << 64, "\ud800", [[[]] * 3] * 300, 0.1])
def test_any_json_value_can_be_measured(value: Any) -> None:
    plan = build_plan(snapshot(step(parameters={"p": value})))
    assert plan is not None
    assert plan["root"]["parameters"] == {"p": value}


# Cheapness.


class CountedStep(dict[str, Any]):
    """A step that counts how often somebody asks for its inputs."""

    asked = 0

    def get(self, key: str, default: Any = None) -> Any:
        CountedStep.asked += key == "primaryInputStepId"
        return super().get(key, default)


@pytest.mark.parametrize("steps", [15, 200, 100_000])
def test_an_exploding_graph_is_given_up_early(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CountedStep, "asked", 0)
    graph = doubling(steps)
    graph["steps"] = [CountedStep(each) for each in graph["steps"]]
    assert unfold_plan(graph) is NoPlan.TOO_LARGE
    assert CountedStep.asked <= 3 * 200


def test_a_graph_of_many_steps_is_given_up_after_ten_thousand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CountedStep, "asked", 0)
    heap = [
        step(str(n), primaryInputStepId=str(2 * n), secondaryInputStepId=str(2 * n + 1))
        for n in range(50_000)
    ]
    assert unfold_plan(snapshot(*map(CountedStep, heap), root="1")) is NoPlan.TOO_LARGE
    assert CountedStep.asked <= 3 * 10_000


def test_shared_steps_take_memory_once() -> None:
    graph = doubling(13)
    tracemalloc.start()
    try:
        plan = build_plan(graph)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert plan is not None
    assert count_steps(plan) == 8191
    assert peak < 64 * 1024
