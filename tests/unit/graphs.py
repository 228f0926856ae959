"""Graphs of steps, as snapshots hold them."""

from __future__ import annotations

from typing import Any

LEAF = {"id": "leaf", "searchName": "GenesByTaxon", "parameters": {"organism": "Plasmodium vivax P01"}}


def snapshot(*steps: Any, root: Any = "root", **fields: Any) -> dict[str, Any]:
    return {"steps": list(steps), "rootStepId": root, **fields}


def step(step_id: Any = "root", **fields: Any) -> dict[str, Any]:
    return {"id": step_id, "searchName": "GenesByTextSearch", **fields}


def chain(length: int) -> dict[str, Any]:
    return snapshot(*(step(str(n), primaryInputStepId=str(n + 1)) for n in range(length)), root="0")


def doubling(steps: int) -> dict[str, Any]:
    """Each step's inputs are both the next step: 2^steps - 1 nodes."""
    both = ("primaryInputStepId", "secondaryInputStepId")
    return snapshot(*(step(str(n), **dict.fromkeys(both, str(n + 1))) for n in range(steps)), root="0")


def unfolding_to(nodes: int) -> dict[str, Any]:
    """A graph whose plan has exactly so many nodes, on few levels."""
    steps = [step("1")]
    wanted = nodes
    while wanted > 1:
        below, odd = divmod(wanted - 1, 2)
        if odd:
            steps.append(step(str(wanted), primaryInputStepId=str(wanted - 1)))
            wanted -= 1
        else:
            inputs = {"primaryInputStepId": str(below), "secondaryInputStepId": str(below)}
            steps.append(step(str(wanted), **inputs))
            wanted = below
    return snapshot(*steps, root=str(nodes))
