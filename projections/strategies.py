"""The strategies read model: how each event changes the row of its conversation.

Handlers are pure. A field of the wrong JSON type is ignored; the rest of its event still applies.
"""

from __future__ import annotations

from typing import Any

from projections.claim_facts import Claimed, Cleared, Saved
from projections.claims import Claims
from projections.models import DEFAULT_NAME, StreamProjection
from projections.plan import NoPlan, count_steps, unfold_plan
from worker import Event, Projection, RejectedEventError, Remark

_BIGINT_END = 1 << 63

strategies = Projection(
    "strategies",
    table=StreamProjection,
    version=1,
    checkpoints={"strategy_link", "graph_snapshot", "graph_plan", "model_selected"},
    rule=Claims(),
)


@strategies.on("user_message", "assistant_message")
def message(row: StreamProjection, event: Event) -> None:
    """A message of either side was written."""
    row.message_count += 1


@strategies.on("strategy_meta")
def strategy_meta(row: StreamProjection, event: Event) -> None:
    """The strategy was named, or its record type chosen."""
    _set_name_and_record_type(row, event.data)


@strategies.on("model_selected")
def model_selected(row: StreamProjection, event: Event) -> None:
    """The person chose another model."""
    model_id = event.data.get("modelId")
    if isinstance(model_id, str):
        row.model_id = model_id


@strategies.on("strategy_link")
def strategy_link(row: StreamProjection, event: Event) -> None:
    """The conversation claims a WDK strategy, or says whether it is saved there."""
    wdk_strategy_id = event.data.get("wdkStrategyId")
    if isinstance(wdk_strategy_id, int) and not isinstance(wdk_strategy_id, bool):
        if not -_BIGINT_END <= wdk_strategy_id < _BIGINT_END:
            raise RejectedEventError("wdkStrategyId is outside the range of bigint")
        row.facts.append(Claimed(event.id, wdk_strategy_id))
    is_saved = event.data.get("isSaved")
    if isinstance(is_saved, bool):
        row.facts.append(Saved(event.id, is_saved))


@strategies.on("graph_cleared")
def graph_cleared(row: StreamProjection, event: Event) -> None:
    """The strategy was thrown away; what is known of the conversation itself stays."""
    row.name = DEFAULT_NAME
    row.plan = {}
    row.steps = []
    row.root_step_id = None
    row.step_count = 0
    row.facts.append(Cleared(event.id))


@strategies.on("graph_plan")
def graph_plan(row: StreamProjection, event: Event) -> None:
    """The strategy's plan, as the assistant wrote it."""
    plan = event.data.get("plan")
    if isinstance(plan, dict):
        row.plan = plan
        row.step_count = count_steps(plan)
    _set_name_and_record_type(row, event.data)


@strategies.on("graph_snapshot")
def graph_snapshot(row: StreamProjection, event: Event) -> None:
    """The strategy's graph as a list of steps, from which the plan is built."""
    snapshot = event.data.get("graphSnapshot")
    if not isinstance(snapshot, dict):
        return
    steps = snapshot.get("steps")
    if isinstance(steps, list):
        row.steps = steps
        row.step_count = len(steps)
    root_step_id = snapshot.get("rootStepId")
    if isinstance(root_step_id, str):
        row.root_step_id = root_step_id
    name = snapshot.get("name") or snapshot.get("graphName")
    if isinstance(name, str) and name:
        row.name = name
    _set_record_type(row, snapshot)
    unfolded = unfold_plan(snapshot)
    if not isinstance(unfolded, NoPlan):
        row.plan = unfolded.plan
    elif unfolded is not NoPlan.NOT_GIVEN:
        row.remarks.append(Remark(event.id, "plan_not_built", unfolded.value))


def _set_name_and_record_type(row: StreamProjection, data: dict[str, Any]) -> None:
    name = data.get("name")
    if isinstance(name, str) and name:
        row.name = name
    _set_record_type(row, data)


def _set_record_type(row: StreamProjection, data: dict[str, Any]) -> None:
    record_type = data.get("recordType")
    if isinstance(record_type, str) and record_type:
        row.record_type = record_type
