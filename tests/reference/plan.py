"""The plan of a graph snapshot: a tree built from a flat list of steps that name their inputs.

Steps may be shared, and a shared step is repeated wherever it is named, so that thirty steps can unfold to
a billion nodes. The tree is therefore counted, level by level, before it is built. A cycle needs no rule of
its own: its unfolding never ends, and so has more levels than are allowed.
"""

import json
from collections import Counter
from typing import Any, TypeAlias

Step: TypeAlias = dict[str, Any]

NODE_LIMIT = 10_000
LEVEL_LIMIT = 200
JSON_LIMIT = 16 * 1024 * 1024

INPUTS = {"primaryInput": "primaryInputStepId", "secondaryInput": "secondaryInputStepId"}


def plan_of(snapshot: dict[str, Any]) -> dict[str, Any] | None:
    """The plan that a snapshot's steps make up, or None where the old plan stays."""
    steps, root_id = snapshot.get("steps"), snapshot.get("rootStepId")
    if not isinstance(steps, list) or not isinstance(root_id, str):
        return None
    steps_by_id = {
        step["id"]: step for step in steps if isinstance(step, dict) and isinstance(step.get("id"), str)
    }
    if root_id not in steps_by_id:
        return None
    plan = {
        "recordType": string(snapshot, "recordType", "transcript"),
        "root": None,
        "metadata": {"name": string(snapshot, "name", "")},
    }
    if not fits(steps_by_id, root_id, _json_size(plan) - len("null")):
        return None
    plan["root"] = tree(steps_by_id, root_id)
    return plan


def fits(steps_by_id: dict[str, Step], root_id: str, size_without_root: int) -> bool:
    """Whether the tree under a step is finite and within all limits, found without building it."""
    node_sizes: dict[str, int] = {}
    levels, nodes, size = 0, 0, size_without_root
    level = Counter({root_id: 1})
    while level:
        levels += 1
        next_level: Counter[str] = Counter()
        for step_id, times in level.items():
            inputs = input_ids(steps_by_id, step_id)
            if step_id not in node_sizes:
                links = sum(len(f', "{name}": ') for name in inputs)
                node_sizes[step_id] = _json_size(node(steps_by_id[step_id])) + links
            nodes += times
            size += times * node_sizes[step_id]
            for input_id in inputs.values():
                next_level[input_id] += times
        if levels > LEVEL_LIMIT or nodes > NODE_LIMIT or size > JSON_LIMIT:
            return False
        level = next_level
    return True


def tree(steps_by_id: dict[str, Step], step_id: str) -> dict[str, Any]:
    """The node of a step with everything below it; only for steps of which `fits` is true."""
    result = node(steps_by_id[step_id])
    for name, input_id in input_ids(steps_by_id, step_id).items():
        result[name] = tree(steps_by_id, input_id)
    return result


def input_ids(steps_by_id: dict[str, Step], step_id: str) -> dict[str, str]:
    """The steps that a step names as its inputs, leaving out those that do not exist."""
    step = steps_by_id[step_id]
    named = {name: step.get(field) for name, field in INPUTS.items()}
    return {name: value for name, value in named.items() if isinstance(value, str) and value in steps_by_id}


def node(step: Step) -> dict[str, Any]:
    """The node of a step, without its inputs."""
    parameters = step.get("parameters")
    result: dict[str, Any] = {
        "id": step["id"],
        "searchName": search_name(step),
        "parameters": parameters if isinstance(parameters, dict) else {},
    }
    if string(step, "displayName"):
        result["displayName"] = step["displayName"]
    if string(step, "operator"):
        result["operator"] = step["operator"]
    colocation = step.get("colocationParams")
    if isinstance(colocation, dict) and colocation:
        result["colocationParams"] = colocation
    return result


def search_name(step: Step) -> str:
    """The step's own search name, or what stands in for an empty one."""
    own = string(step, "searchName")
    if own:
        return own
    if string(step, "kind").strip().lower() == "combine" or string(step, "operator"):
        return "__combine__"
    return "__unknown__"


def string(container: dict[str, Any], field: str, default: str = "") -> str:
    """A text field, or the default where the field is absent or is no text."""
    value = container.get(field)
    return value if isinstance(value, str) else default


def searches_in(plan: dict[str, Any]) -> int:
    """How many nodes of a given plan have a search name, from its root along the two inputs."""
    count = 0
    nodes = [plan.get("root")]
    while nodes:
        candidate = nodes.pop()
        if isinstance(candidate, dict):
            count += 1 if string(candidate, "searchName") else 0
            nodes += [candidate.get(name) for name in INPUTS]
    return count


def _json_size(value: Any) -> int:
    """The length of a value's JSON in bytes of UTF-8, spaced as PostgreSQL prints jsonb."""
    return len(json.dumps(value, ensure_ascii=False).encode("utf-8"))
