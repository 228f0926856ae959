"""Plans: the tree that a strategy's graph unfolds to, and how many steps a plan holds. Pure functions.

A graph is a list of steps that name their inputs by id. A step that several others name is repeated in the
tree, so that a graph of n steps may unfold to 2^n nodes. A tree is therefore measured while it is built:
every step is visited once, its tree is one object that all its parents share, and the first one that is too
large ends the work. Nothing here recurses.

A field of the wrong JSON type counts as absent, whatever step or snapshot it stands in:

====================================== ===================================================================
field                                  has a value if it is
====================================== ===================================================================
``steps``                              a list; of it, objects with a string ``id`` are steps
``rootStepId``                         a string; likewise ``primaryInputStepId``, ``secondaryInputStepId``
``recordType``, ``name``               a string, also an empty one
``searchName``, ``displayName``        a non-empty string; likewise ``operator``
``kind``                               a string
``parameters``                         an object
``colocationParams``                   a non-empty object
====================================== ===================================================================
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import orjson

MAX_NODES = 10_000
MAX_LEVELS = 200
MAX_JSON_BYTES = 16 * 1024 * 1024

_INPUTS = (("primaryInput", "primaryInputStepId"), ("secondaryInput", "secondaryInputStepId"))


class NoPlan(Enum):
    """Why a snapshot gives no plan: the old one stays."""

    NOT_GIVEN = "not_given"
    """The snapshot holds no objects in ``steps`` or no string ``rootStepId``: it does not speak of a plan."""
    NO_ROOT = "no_root"
    """No step has the id that ``rootStepId`` names."""
    CYCLIC = "cyclic"
    """A step is, over its inputs, an input of itself. Steps that the root does not reach do not matter."""
    TOO_LARGE = "too_large"
    """The plan would have more than 10,000 nodes, 200 levels or 16 MiB of JSON (compact, in UTF-8)."""


@dataclass(frozen=True, slots=True)
class Unfolded:
    """A plan as it is stored. Nodes of repeated steps, and all parameters, are shared objects: do not change
    them in place."""

    plan: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Tree:
    """A node with all that hangs below it, and the measures of its JSON."""

    node: dict[str, Any]
    nodes: int
    levels: int
    json_bytes: int

    @property
    def too_large(self) -> bool:
        return self.nodes > MAX_NODES or self.levels > MAX_LEVELS or self.json_bytes > MAX_JSON_BYTES


def build_plan(snapshot: Mapping[str, Any]) -> dict[str, Any] | None:
    """The plan that ``graphSnapshot`` unfolds to, or None: the old plan stays."""
    outcome = unfold_plan(snapshot)
    return outcome.plan if isinstance(outcome, Unfolded) else None


def unfold_plan(snapshot: Mapping[str, Any]) -> Unfolded | NoPlan:
    """The plan that ``graphSnapshot`` unfolds to, or why there is none.

    Takes time in proportion to the snapshot, not to the plan. A graph that is both cyclic and too large is
    called what is found first.
    """
    steps = _steps_by_id(snapshot.get("steps"))
    root_id = snapshot.get("rootStepId")
    if steps is None or not isinstance(root_id, str):
        return NoPlan.NOT_GIVEN
    if root_id not in steps:
        return NoPlan.NO_ROOT
    plan: dict[str, Any] = {
        "recordType": _string(snapshot.get("recordType"), "transcript"),
        "root": _root_of_small_tree(steps, root_id),
        "metadata": {"name": _string(snapshot.get("name"), "")},
    }
    if plan["root"] is not None and _json_bytes(plan) <= MAX_JSON_BYTES:
        return Unfolded(plan)
    tree = _unfold(steps, root_id)
    if isinstance(tree, NoPlan):
        return tree
    if _json_bytes(plan | {"root": None}) - len("null") + tree.json_bytes > MAX_JSON_BYTES:
        return NoPlan.TOO_LARGE
    return Unfolded(plan | {"root": tree.node})


def count_steps(plan: Mapping[str, Any]) -> int:
    """The number of nodes with a non-empty ``searchName``, from ``plan.root`` along both inputs.

    A node is an object, and a ``searchName`` of any other type than string counts as empty. A node without a
    name is not counted, but its inputs are.
    """
    count = 0
    waiting = [plan.get("root")]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            name = node.get("searchName")
            count += isinstance(name, str) and name != ""
            waiting += node.get("primaryInput"), node.get("secondaryInput")
    return count


def _steps_by_id(steps: Any) -> dict[str, dict[str, Any]] | None:
    """Steps by their id, of several with one id the last; None where ``steps`` holds no objects at all."""
    if not isinstance(steps, list):
        return None
    by_id: dict[str, dict[str, Any]] | None = None
    for step in steps:
        if isinstance(step, dict):
            by_id = {} if by_id is None else by_id
            step_id = step.get("id")
            if isinstance(step_id, str):
                by_id[step_id] = step
    return by_id


def _root_of_small_tree(steps: Mapping[str, dict[str, Any]], root_id: str) -> dict[str, Any] | None:
    """The plan's root for what nearly every graph is: a tree of so few steps that it cannot have too many
    levels. None for any other graph, one where a step is used twice included: it must be measured."""
    root = _node(steps[root_id])
    used = {root_id}
    growing = [(steps[root_id], root)]
    for step, node in growing:
        for name, field in _INPUTS:
            input_id = step.get(field)
            if isinstance(input_id, str) and input_id in steps:
                if input_id in used or len(used) == MAX_LEVELS:
                    return None
                used.add(input_id)
                node[name] = input_node = _node(steps[input_id])
                growing.append((steps[input_id], input_node))
    return root


def _unfold(steps: Mapping[str, dict[str, Any]], root_id: str) -> _Tree | NoPlan:
    """Grow the trees of all steps that the root reaches, inputs first.

    A path of more than 200 steps, or more than 10,000 steps in all, already tell that the tree is too large:
    the walk ends there, so that it never takes longer than the largest graph that is allowed.
    """
    trees: dict[str, _Tree] = {}
    path = {root_id: None}  # From the root to the step in hand; a dict, for its order and its fast `in`.
    while path:
        step_id = next(reversed(path))
        inputs = _inputs_of(steps[step_id], steps)
        missing = next((input_id for input_id in inputs.values() if input_id not in trees), None)
        if missing is None:
            del path[step_id]
            tree = _grow(steps[step_id], {name: trees[input_id] for name, input_id in inputs.items()})
            if tree.too_large:
                return NoPlan.TOO_LARGE
            trees[step_id] = tree
        elif missing in path:
            return NoPlan.CYCLIC
        elif len(path) >= MAX_LEVELS or len(path) + len(trees) >= MAX_NODES:
            return NoPlan.TOO_LARGE
        else:
            path[missing] = None
    return trees[root_id]


def _inputs_of(step: Mapping[str, Any], steps: Mapping[str, Any]) -> dict[str, str]:
    """The ids of a step's inputs, by the name that the plan gives them; those that exist only."""
    named = {name: step.get(field) for name, field in _INPUTS}
    return {name: value for name, value in named.items() if isinstance(value, str) and value in steps}


def _grow(step: Mapping[str, Any], inputs: Mapping[str, _Tree]) -> _Tree:
    node = _node(step)
    json_bytes = _json_bytes(node)
    for name, tree in inputs.items():
        node[name] = tree.node
        json_bytes += len(f',"{name}":') + tree.json_bytes
    return _Tree(
        node,
        nodes=1 + sum(tree.nodes for tree in inputs.values()),
        levels=1 + max((tree.levels for tree in inputs.values()), default=0),
        json_bytes=json_bytes,
    )


def _node(step: Mapping[str, Any]) -> dict[str, Any]:
    parameters = step.get("parameters")
    search_name = step.get("searchName")
    node = {
        "id": step["id"],
        "searchName": search_name if search_name and isinstance(search_name, str) else _stand_in(step),
        "parameters": parameters if isinstance(parameters, dict) else {},
    }
    if (value := step.get("displayName")) and isinstance(value, str):
        node["displayName"] = value
    if (value := step.get("operator")) and isinstance(value, str):
        node["operator"] = value
    if (value := step.get("colocationParams")) and isinstance(value, dict):
        node["colocationParams"] = value
    return node


def _stand_in(step: Mapping[str, Any]) -> str:
    """What a step without a search name is called."""
    combines = _string(step.get("kind"), "").strip().lower() == "combine"
    return "__combine__" if combines or _string(step.get("operator"), "") else "__unknown__"


def _string(value: Any, default: str) -> str:
    return value if isinstance(value, str) else default


def _json_bytes(value: Any) -> int:
    """The length of a value's compact JSON in UTF-8."""
    try:
        return len(orjson.dumps(value))
    except orjson.JSONEncodeError:  # Integers beyond 64 bits, lone surrogates, or nested deeper than 254.
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        return len(text.encode("utf-8", "surrogatepass"))
