"""The transcripts of a conversation, by one plain walk over its log.

Where the rules can be read in two ways, this reference reads them so:

* A default applies where the field is absent. A field that is there is taken as given, null included,
  except where a type is named: the model id, a list of citations, the reasoning, tool arguments, the total
  of tokens.
* "Where the turn has gathered any" leaves out an empty model id and an empty reasoning; the payload's
  reasoning then counts. A payload carries what it has a key for, even if that is null or empty.
* Arguments that are neither an object nor the text of one are `{}`, absent ones too.
* A message shows what the turn had gathered when it was written. Later calls, citations or states do not
  come into it; only the result of a call that it already shows does, that of a sub-agent's call likewise. A
  call that ended without a `result` has the result null.
* A task that is not text is as empty as "". A second start of a task keeps its calls. A call of a task that
  was never started is kept, and gives the task no status; a task that ends without a start has a status and
  no calls.
* Token usage goes to the last message of each role that has none: that need not be the last message of the
  role. `true` is no number of tokens.
* Limits on payloads do not apply, and text is not cleaned: the log is shown as it is. Data that is not
  strict UTF-8 is no JSON. An entry from after the year 9999 has the timestamp null.
* Thinking is an empty list while a turn goes on without an open call. A call is open if no `tool_call_end`
  with its id comes after it; of two open calls with one id both are shown. Absent ids count as "". Entries
  that hold no object are passed over here too.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from tests.reference.wire import Entry, json_object, time_of, type_of

Payload: TypeAlias = dict[str, Any]
Message: TypeAlias = dict[str, Any]
Call: TypeAlias = dict[str, Any]

MESSAGE_USAGE = (
    "promptTokens",
    "completionTokens",
    "totalTokens",
    "cachedTokens",
    "toolCallCount",
    "registeredToolCount",
    "llmCallCount",
    "subKaniPromptTokens",
    "subKaniCompletionTokens",
    "subKaniCallCount",
    "estimatedCostUsd",
)
TASK_USAGE = ("promptTokens", "completionTokens", "llmCallCount", "estimatedCostUsd")


@dataclass
class Turn:
    """What was gathered since the last `message_start` or `message_end`."""

    model_id: str = ""
    tool_calls: list[Call] = field(default_factory=list)
    citations: list[Any] = field(default_factory=list)
    planning_artifacts: list[Any] = field(default_factory=list)
    reasoning: str = ""
    task_calls: dict[str, list[Call]] = field(default_factory=dict)
    task_status: dict[str, Any] = field(default_factory=dict)
    task_models: dict[str, str] = field(default_factory=dict)
    task_usage: dict[str, dict[str, Any]] = field(default_factory=dict)


def messages(entries: Sequence[Entry]) -> list[Message]:
    """The messages of a conversation in order."""
    result: list[Message] = []
    turn = Turn()
    for event_id, event_type, payload in readable(entries):
        match event_type:
            case "message_start":
                turn = Turn()
            case "message_end":
                add_token_usage(result, payload)
                turn = Turn()
            case "user_message":
                result.append(message("user", event_id, payload))
            case "assistant_message":
                result.append(message("assistant", event_id, payload) | metadata(turn, payload))
            case _:
                gather(turn, event_type, payload)
    return result


def thinking(entries: Sequence[Entry]) -> dict[str, Any] | None:
    """The tool calls that are open now, perhaps none; None if no turn is going on."""
    open_calls: list[Payload] | None = None
    for _, event_type, payload in readable(entries):
        match event_type:
            case "message_start":
                open_calls = []
            case "message_end":
                open_calls = None
            case "tool_call_start" if open_calls is not None:
                open_calls.append(payload)
            case "tool_call_end" if open_calls is not None:
                open_calls = [call for call in open_calls if call.get("id", "") != payload.get("id", "")]
    return None if open_calls is None else {"toolCalls": open_calls}


def readable(entries: Sequence[Entry]) -> list[tuple[str, str, Payload]]:
    """Event id, type and payload of the entries that have a type and a JSON object."""
    read = [(event_id, type_of(fields), json_object(fields.get(b"data"))) for event_id, fields in entries]
    return [
        (event_id, event_type, payload)
        for event_id, event_type, payload in read
        if event_type is not None and payload is not None
    ]


def message(role: str, event_id: str, payload: Payload) -> Message:
    time = time_of(event_id)
    return {
        "role": role,
        "content": payload.get("content", ""),
        "messageId": payload.get("messageId"),
        "timestamp": time.isoformat() if time is not None else None,
    }


def metadata(turn: Turn, payload: Payload) -> dict[str, Any]:
    """What an assistant message shows of its turn, and after that of its own payload."""
    gathered = {
        "modelId": turn.model_id,
        "toolCalls": list(turn.tool_calls),
        "citations": list(turn.citations),
        "planningArtifacts": list(turn.planning_artifacts),
        "reasoning": turn.reasoning,
        "subKaniActivity": activity(turn),
    }
    result = {name: value for name, value in gathered.items() if value}
    for name in ("citations", "planningArtifacts", "toolCalls", "reasoning"):
        if name in payload and name not in result:
            result[name] = payload[name]
    return result


def activity(turn: Turn) -> dict[str, Any] | None:
    """What the sub-agents did in a turn, or None if there were none."""
    if not turn.task_calls and not turn.task_status:
        return None
    result: dict[str, Any] = {
        "calls": {task: list(calls) for task, calls in turn.task_calls.items()},
        "status": dict(turn.task_status),
    }
    if turn.task_models:
        result["models"] = dict(turn.task_models)
    if turn.task_usage:
        result["tokenUsage"] = dict(turn.task_usage)
    return result


def gather(turn: Turn, event_type: str, payload: Payload) -> None:
    """Add to a turn what one event tells about it."""
    match event_type:
        case "model_selected":
            if isinstance(payload.get("modelId"), str):
                turn.model_id = payload["modelId"]
        case "tool_call_start":
            turn.tool_calls.append(started_call(payload))
        case "tool_call_end":
            end_call(turn.tool_calls, payload)
        case "citations":
            if isinstance(payload.get("citations"), list):
                turn.citations += payload["citations"]
        case "planning_artifact":
            if payload.get("planningArtifact"):
                turn.planning_artifacts.append(payload["planningArtifact"])
        case "reasoning":
            if isinstance(payload.get("reasoning"), str):
                turn.reasoning = payload["reasoning"]
        case "subkani_task_start" | "subkani_tool_call_start" | "subkani_tool_call_end" | "subkani_task_end":
            task = payload.get("task")
            if isinstance(task, str) and task:
                gather_task(turn, task, event_type, payload)


def gather_task(turn: Turn, task: str, event_type: str, payload: Payload) -> None:
    """Add to a turn what one event tells about a sub-agent's task."""
    match event_type:
        case "subkani_task_start":
            turn.task_status[task] = "running"
            turn.task_calls.setdefault(task, [])
            note_model(turn, task, payload)
        case "subkani_tool_call_start":
            turn.task_calls.setdefault(task, []).append(started_call(payload))
        case "subkani_tool_call_end":
            end_call(turn.task_calls.get(task, []), payload)
        case "subkani_task_end":
            turn.task_status[task] = payload.get("status", "done")
            note_model(turn, task, payload)
            if payload.get("promptTokens") is not None:
                turn.task_usage[task] = {name: payload.get(name, 0) for name in TASK_USAGE}


def note_model(turn: Turn, task: str, payload: Payload) -> None:
    model_id = payload.get("modelId")
    if isinstance(model_id, str) and model_id:
        turn.task_models[task] = model_id


def started_call(payload: Payload) -> Call:
    arguments = payload.get("arguments")
    if isinstance(arguments, str):
        arguments = json_object(arguments)
    return {
        "id": payload.get("id", ""),
        "name": payload.get("name", ""),
        "arguments": arguments if isinstance(arguments, dict) else {},
    }


def end_call(calls: list[Call], payload: Payload) -> None:
    """Put a result into the first call with its id; messages that show that call show the result too."""
    for call in calls:
        if call["id"] == payload.get("id", ""):
            call["result"] = payload.get("result")
            return


def add_token_usage(written: list[Message], payload: Payload) -> None:
    """Add the tokens of a turn to the last message of each role that has none yet."""
    total = payload.get("totalTokens")
    if not isinstance(total, int) or isinstance(total, bool) or total <= 0:
        return
    for role in ("user", "assistant"):
        for candidate in reversed(written):
            if candidate["role"] == role and "tokenUsage" not in candidate:
                usage = {name: payload.get(name, 0) for name in MESSAGE_USAGE}
                candidate["tokenUsage"] = usage | {"modelId": payload.get("modelId", "")}
                break
