"""Payloads of the graph types: plans and snapshots, of graphs that are shared, cyclic or in pieces."""

from typing import Any

from tests.payloads.choices import ABSENT, TEXT_FIELD, Choices, Table, any_text, make_object

NUMBERS = (
    *(1, 0, -1, 1.5, -0.0, 1e16, 1e23, 1.5e300, 5e-324),
    *(2**53 + 1, 2**64, 10**30, float("nan"), float("-inf")),
)


def parameters(choices: Choices) -> dict[str, Any]:
    return {choices.text(): choices.pick(NUMBERS), "list": [choices.text(), None, {}]}


PLAN_NODE: Table = {
    "searchName": ("GenesByTaxon", "__combine__", any_text, "", ABSENT, 5, None),
    "parameters": (ABSENT, ABSENT, parameters),
}
NO_NODE: tuple[Any, ...] = (ABSENT, ABSENT, None, 5, "s1", [{"searchName": "hidden"}], {})


def plan_node(choices: Choices, depth: int = 2) -> dict[str, Any]:
    """A node of a plan, with or without a search name, perhaps with inputs."""
    node = make_object(choices, PLAN_NODE)
    for name in ("primaryInput", "secondaryInput", "thirdInput"):
        if depth and choices.pick((False, False, True)):
            node[name] = plan_node(choices, depth - 1)
        else:
            node |= make_object(choices, {name: NO_NODE})
    return node


def plan(choices: Choices) -> dict[str, Any]:
    return {"recordType": "gene", "root": plan_node(choices)}


GRAPH_PLAN: Table = {
    "plan": (plan,) * 6 + ({}, {"root": None}, {"root": [{"searchName": "S"}]}, ABSENT, None, [], "x", 5),
    "name": TEXT_FIELD,
    "recordType": TEXT_FIELD,
}

STEP_IDS = ("s1", "s2", "s3", "s4", "s5", "s6", "ü", "", "\x00")
STEP: Table = {
    "kind": ("search", "combine", " Combine\t", "COMBINE", "combined", "", ABSENT, None, 5),
    "searchName": ("GenesByTaxon", "", "", " ", ABSENT, None, 5, "a\x00"),
    "parameters": (parameters, {}, ABSENT, None, [], 5),
    "displayName": (ABSENT, any_text, "", None, 5, ["x"]),
    "operator": (ABSENT, ABSENT, ABSENT, "INTERSECT", "", None, 5, {"x": 1}),
    "colocationParams": (ABSENT, ABSENT, parameters, {}, None, "x", [1]),
}


def step(choices: Choices, position: int) -> Any:
    """A step that mostly has the next id and names later steps as inputs; now and then anything else."""
    if choices.pick((False,) * 12 + (True,)):
        return choices.pick((None, 5, "s1", [], [{"id": "s1"}]))
    inputs = (ABSENT, *STEP_IDS[position + 1 : 6] * 4, *STEP_IDS, "missing", None, 5)
    links: Table = {
        "id": STEP_IDS[position : position + 1] * 20 + (*STEP_IDS, ABSENT, None, 5),
        "primaryInputStepId": inputs,
        "secondaryInputStepId": inputs,
    }
    return make_object(choices, STEP | links)


def steps(choices: Choices) -> list[Any]:
    return [step(choices, position) for position in range(choices.count(0, 6))]


TITLE: tuple[Any, ...] = (ABSENT, "", any_text, any_text, None, 0, 5, False, [], ["x"])
GRAPH: Table = {
    "steps": (steps,) * 8 + (ABSENT, None, "s1", {"id": "s1"}),
    "rootStepId": STEP_IDS[:1] * 10 + (*STEP_IDS, "missing", ABSENT, None, 5),
    "name": TITLE,
    "graphName": TITLE,
    "recordType": TEXT_FIELD,
}


def graph(choices: Choices) -> dict[str, Any]:
    return make_object(choices, GRAPH)


def chain(length: int, *, shared: bool = False, **more: Any) -> dict[str, Any]:
    """A graph of steps one below another; where they are shared, each names the next one twice."""
    chained = []
    for position in range(length):
        below = f"n{position + 1}"
        links = {"primaryInputStepId": below} | ({"secondaryInputStepId": below} if shared else {})
        chained.append({"id": f"n{position}", "searchName": "S"} | links | more)
    return {"steps": chained, "rootStepId": "n0"}


def ring(length: int) -> dict[str, Any]:
    """A graph in which the last step names the first."""
    graph = chain(length)
    graph["steps"][-1]["primaryInputStepId"] = "n0"
    return graph


def special_graph(choices: Choices) -> dict[str, Any]:
    """A graph at a limit, or far beyond one."""
    return choices.pick(SPECIAL_GRAPHS)


SPECIAL_GRAPHS = (
    ring(1),
    ring(3),
    chain(6, shared=True),
    chain(200),
    chain(201),
    chain(3_000),
    chain(60, shared=True),  # would unfold to 2 ** 60 nodes
    chain(12, shared=True, parameters={"text": "p" * 8_192}),  # would unfold to 4,095 nodes and 32 MiB
)

GRAPH_SNAPSHOT: Table = {
    "graphSnapshot": (graph,) * 10 + (special_graph, special_graph, ABSENT, None, [], "x")
}
