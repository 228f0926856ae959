"""What an event changes in its row, as plainly as an application would have it inline."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from projections.models import DEFAULT_NAME
from projections.plan import build_plan, count_steps

MESSAGES = frozenset({"user_message", "assistant_message"})
"""Types that count one message more; everything else that events change is a new value."""

PROJECTED = MESSAGES | {
    "strategy_meta",
    "strategy_link",
    "graph_snapshot",
    "graph_plan",
    "model_selected",
    "graph_cleared",
}

_CLEARED: Mapping[str, Any] = {
    "name": DEFAULT_NAME,
    "plan": {},
    "steps": [],
    "root_step_id": None,
    "step_count": 0,
    "wdk_strategy_id": None,
    "is_saved": False,
}


def new_values(event_type: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that an event sets, with their values."""
    match event_type:
        case "strategy_meta":
            return _given(name=data.get("name"), record_type=data.get("recordType"))
        case "strategy_link":
            return _given(wdk_strategy_id=data.get("wdkStrategyId"), is_saved=data.get("isSaved"))
        case "model_selected":
            return _given(model_id=data.get("modelId"))
        case "graph_cleared":
            return dict(_CLEARED)
        case "graph_plan":
            plan = data["plan"]
            named = _given(name=data.get("name"), record_type=data.get("recordType"))
            return {"plan": plan, "step_count": count_steps(plan), **named}
        case "graph_snapshot":
            return _of_snapshot(data["graphSnapshot"])
        case _:
            return {}


def _of_snapshot(snapshot: Mapping[str, Any]) -> dict[str, Any]:
    steps = snapshot["steps"]
    return {
        "steps": steps,
        "step_count": len(steps),
        **_given(
            root_step_id=snapshot.get("rootStepId"),
            name=snapshot.get("name") or snapshot.get("graphName"),
            record_type=snapshot.get("recordType"),
            plan=build_plan(snapshot),
        ),
    }


def _given(**values: Any) -> dict[str, Any]:
    return {column: value for column, value in values.items() if value is not None}


def event_time(event_id: str) -> datetime:
    """The time in an event's id."""
    return datetime.fromtimestamp(int(event_id.partition("-")[0]) / 1000, UTC)
