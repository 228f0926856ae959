"""What one turn of a conversation has gathered: model, tool calls, citations and so on. Pure, on plain data.

A turn lies between two events of type `message_start` or `message_end`. It is kept as a dict that JSON can
represent, so that it can be stored after one event and taken up again at the next.

Models, tasks and reasoning are text, citations a list, arguments an object: a payload field of any other type
counts as absent. All other fields are shown as the log has them, null included.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from json.encoder import encode_basestring_ascii
from typing import Any

JsonObject = dict[str, Any]

_TASK_TOKENS = ("promptTokens", "completionTokens", "llmCallCount", "estimatedCostUsd")


def new_turn() -> JsonObject:
    """A turn that has gathered nothing yet."""
    return {
        "modelId": "",
        "toolCalls": _no_calls(),
        "citations": [],
        "planningArtifacts": [],
        "reasoning": "",
        "tasks": {},
    }


def _no_calls() -> JsonObject:
    """Tool calls in order, the place of the first of each id, and the places of messages that show them."""
    return {"calls": [], "first": {}, "shown_in": []}


def show(turn: JsonObject, message_place: int) -> JsonObject:
    """What the turn has gathered, as the fields of an assistant message: each only where there is any.

    The lists are copies: what is gathered later does not reach the message. The turn remembers the message's
    place, since results of the calls that it shows still have to.
    """
    for calls in (turn["toolCalls"], *(task["calls"] for task in turn["tasks"].values())):
        if calls and calls["calls"]:
            calls["shown_in"].append(message_place)
    fields = {
        "modelId": turn["modelId"],
        "toolCalls": list(turn["toolCalls"]["calls"]),
        "citations": list(turn["citations"]),
        "planningArtifacts": list(turn["planningArtifacts"]),
        "reasoning": turn["reasoning"],
        "subKaniActivity": _activity(turn["tasks"]),
    }
    return {name: value for name, value in fields.items() if value}


def _activity(tasks: Mapping[str, JsonObject]) -> JsonObject:
    """What the sub-agents did, by task; empty where there was no task."""
    if not tasks:
        return {}
    activity: JsonObject = {
        "calls": {name: list(task["calls"]["calls"]) for name, task in tasks.items() if task["calls"]},
        "status": {name: task["status"] for name, task in tasks.items() if "status" in task},
        "models": {name: task["model"] for name, task in tasks.items() if task["model"]},
        "tokenUsage": {name: task["tokenUsage"] for name, task in tasks.items() if task["tokenUsage"]},
    }
    return {name: value for name, value in activity.items() if value or name in ("calls", "status")}


def select_model(turn: JsonObject, data: JsonObject) -> None:
    if isinstance(model := data.get("modelId"), str):
        turn["modelId"] = model


def cite(turn: JsonObject, data: JsonObject) -> None:
    if isinstance(citations := data.get("citations"), list):
        turn["citations"].extend(citations)


def add_planning_artifact(turn: JsonObject, data: JsonObject) -> None:
    if artifact := data.get("planningArtifact"):
        turn["planningArtifacts"].append(artifact)


def reason(turn: JsonObject, data: JsonObject) -> None:
    if isinstance(reasoning := data.get("reasoning"), str):
        turn["reasoning"] = reasoning


def start_call(calls: JsonObject, data: JsonObject) -> None:
    """Add a call to those of the turn or of a task. It has no ``result`` until it ends."""
    calls["first"].setdefault(call_key(data), len(calls["calls"]))
    arguments = _arguments(data.get("arguments"))
    calls["calls"].append({"id": data.get("id", ""), "name": data.get("name", ""), "arguments": arguments})


def _arguments(arguments: Any) -> JsonObject:
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return {}
    return arguments if isinstance(arguments, dict) else {}


def end_call(calls: JsonObject, data: JsonObject, shown_by: Callable[[int], list[JsonObject]]) -> None:
    """Put a result into the first call with its id, in the turn and in every message that shows this call.

    ``shown_by`` gives a message's own list of these calls, which is a beginning of the turn's. An absent
    result is null, since the call has ended all the same. An end without its call is passed over.
    """
    place = calls["first"].get(call_key(data))
    if place is None:
        return
    ended = calls["calls"][place] | {"result": data.get("result")}
    calls["calls"][place] = ended
    for message_place in calls["shown_in"]:
        shown = shown_by(message_place)
        if place < len(shown):
            shown[place] = ended


def start_task(turn: JsonObject, name: str, data: JsonObject) -> None:
    """A task that starts once more keeps its calls."""
    task = _task(turn, name)
    task["status"] = "running"
    task["calls"] = task["calls"] or _no_calls()
    _note_model(task, data)


def end_task(turn: JsonObject, name: str, data: JsonObject) -> None:
    task = _task(turn, name)
    task["status"] = data.get("status", "done")
    _note_model(task, data)
    if data.get("promptTokens") is not None:
        task["tokenUsage"] = {field: data.get(field, 0) for field in _TASK_TOKENS}


def start_task_call(turn: JsonObject, name: str, data: JsonObject) -> None:
    """A task that never started is made for its first call; it has no status."""
    task = _task(turn, name)
    task["calls"] = task["calls"] or _no_calls()
    start_call(task["calls"], data)


def end_task_call(
    turn: JsonObject, name: str, data: JsonObject, shown_by: Callable[[int], list[JsonObject]]
) -> None:
    task = turn["tasks"].get(name)
    if task and task["calls"]:
        end_call(task["calls"], data, shown_by)


def _task(turn: JsonObject, name: str) -> JsonObject:
    nothing: JsonObject = {"calls": None, "model": "", "tokenUsage": {}}
    task: JsonObject = turn["tasks"].setdefault(name, nothing)
    return task


def _note_model(task: JsonObject, data: JsonObject) -> None:
    if model := text(data, "modelId"):
        task["model"] = model


def text(data: JsonObject, field: str) -> str:
    """A field that must be a string; empty by default."""
    value = data.get(field)
    return value if isinstance(value, str) else ""


def call_key(data: JsonObject) -> str:
    """What tells calls apart: their id in JSON, so that an id may be of any type. Empty by default."""
    call_id = data.get("id", "")
    if isinstance(call_id, str):
        return encode_basestring_ascii(call_id)
    try:
        return json.dumps(call_id, sort_keys=True)
    except RecursionError:
        return ""
