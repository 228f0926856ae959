"""Transcripts of events in memory: a conversation's messages, and what the assistant is doing now. Pure.

An event comes as its type and its payload, a JSON object; `projections.transcripts` reads them from a log and
passes over entries whose payload is none.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from projections import turn as turns
from projections.turn import JsonObject, call_key, text

THINKING_TYPES = frozenset({"message_start", "message_end", "tool_call_start", "tool_call_end"})
"""Types that `Thinking` looks at; all others mean nothing to it."""

TRANSCRIPT_TYPES = THINKING_TYPES | {
    "user_message",
    "assistant_message",
    "model_selected",
    "citations",
    "planning_artifact",
    "reasoning",
    "subkani_task_start",
    "subkani_task_end",
    "subkani_tool_call_start",
    "subkani_tool_call_end",
}
"""Types that `Transcript` looks at; all others change nothing."""

_TURN_TOKENS = (
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
# Without time zone, which makes `isoformat` twice as fast.
_EPOCH = datetime.fromtimestamp(0, UTC).replace(tzinfo=None)
_CARRIED = ("citations", "planningArtifacts", "toolCalls", "reasoning")


class Messages(Protocol):
    """A conversation's messages by their places, as far as `Transcript` asks for them: a list, for one."""

    def __len__(self) -> int:
        """How many there are."""

    def __getitem__(self, place: int, /) -> JsonObject:
        """A message that is about to be changed: its calls, or its token usage."""

    def append(self, message: JsonObject, /) -> None:
        """Add the next message."""


class Places(Protocol):
    """Places of messages, of which the last is taken first: a list, for one."""

    def __len__(self) -> int:
        """How many there are."""

    def append(self, place: int, /) -> None:
        """Add a place after all others."""

    def pop(self) -> int:
        """Take the last place out."""


class Transcription:
    """Writes a conversation's messages, event by event, wherever they are kept.

    ``messages``, ``turn`` and ``uncounted``, by role the places of messages that have no token usage yet, are
    its whole state, plain data that JSON can represent: one made of stored ones goes on where the first left
    off. An event may change earlier messages: results of tool calls reach the messages of their
    turn that show the call, and token counts come when a turn ends, for the last uncounted of each role.
    """

    def __init__(
        self,
        messages: Messages,
        turn: JsonObject | None = None,
        uncounted: Mapping[str, Places] | None = None,
    ) -> None:
        self.messages = messages
        self.turn = turns.new_turn() if turn is None else turn
        self.uncounted: Mapping[str, Places] = uncounted or {"user": [], "assistant": []}

    def apply(self, event_id: str | bytes, event_type: str, data: JsonObject) -> None:
        """Apply the log's next event; its id as Redis prints it."""
        match event_type:
            case "tool_call_start":  # The most frequent come first.
                turns.start_call(self.turn["toolCalls"], data)
            case "tool_call_end":
                turns.end_call(self.turn["toolCalls"], data, self._calls)
            case "user_message":
                self._add_message("user", event_id, data)
            case "assistant_message":
                self._add_message("assistant", event_id, data)
            case "message_start":
                self.turn = turns.new_turn()
            case "message_end":
                self._count_tokens(data)
                self.turn = turns.new_turn()
            case "model_selected":
                turns.select_model(self.turn, data)
            case "citations":
                turns.cite(self.turn, data)
            case "planning_artifact":
                turns.add_planning_artifact(self.turn, data)
            case "reasoning":
                turns.reason(self.turn, data)
            case _ if task := text(data, "task"):
                self._apply_to_task(task, event_type, data)

    def _apply_to_task(self, task: str, event_type: str, data: JsonObject) -> None:
        match event_type:
            case "subkani_task_start":
                turns.start_task(self.turn, task, data)
            case "subkani_task_end":
                turns.end_task(self.turn, task, data)
            case "subkani_tool_call_start":
                turns.start_task_call(self.turn, task, data)
            case "subkani_tool_call_end":
                turns.end_task_call(self.turn, task, data, lambda place: self._task_calls(place, task))

    def _calls(self, place: int) -> list[JsonObject]:
        calls: list[JsonObject] = self.messages[place]["toolCalls"]
        return calls

    def _task_calls(self, place: int, task: str) -> list[JsonObject]:
        calls: list[JsonObject] = self.messages[place]["subKaniActivity"]["calls"][task]
        return calls

    def _add_message(self, role: str, event_id: str | bytes, data: JsonObject) -> None:
        place = len(self.messages)
        message: dict[str, Any] = {
            "role": role,
            "content": data.get("content", ""),
            "messageId": data.get("messageId"),
            "timestamp": _timestamp(event_id),
        }
        if role == "assistant":
            message |= turns.show(self.turn, place)
            message |= {field: data[field] for field in _CARRIED if field in data and field not in message}
        self.messages.append(message)
        self.uncounted[role].append(place)

    def _count_tokens(self, data: JsonObject) -> None:
        total = data.get("totalTokens")
        if not isinstance(total, int) or isinstance(total, bool) or total <= 0:
            return
        usage: JsonObject = {field: data.get(field, 0) for field in _TURN_TOKENS}
        usage["modelId"] = data.get("modelId", "")
        for uncounted in self.uncounted.values():
            if uncounted:
                self.messages[uncounted.pop()]["tokenUsage"] = usage.copy()


class Transcript(Transcription):
    """A conversation's messages in memory."""

    messages: list[JsonObject]

    def __init__(self) -> None:
        super().__init__([])


def _timestamp(event_id: str | bytes) -> str | None:
    """The time in an id, ISO 8601 in UTC; None after the year 9999."""
    text = event_id.decode() if isinstance(event_id, bytes) else event_id
    ms = int(text.partition("-")[0])
    try:
        time = _EPOCH + timedelta(0, 0, 1000 * ms)
    except OverflowError:
        return None
    return f"{time.isoformat()}+00:00"


class Thinking:
    """What the assistant is doing now, found by looking back from the log's end.

    ``answer`` is None unless the log ends in a turn that has started and not ended. It stands when
    `look_back` has come to a turn's boundary, or to the log's first event.
    """

    def __init__(self) -> None:
        self.answer: JsonObject | None = None
        self._ended: set[str] = set()
        self._running: list[JsonObject] = []

    def look_back(self, event_type: str, data: JsonObject) -> bool:
        """Take the event before those taken so far. True: the answer stands, earlier events do not matter.

        A call runs if no end with its id comes after its start, so that an id may be used again.
        """
        match event_type:
            case "message_start":
                self.answer = {"toolCalls": self._running[::-1]}
            case "tool_call_start" if call_key(data) not in self._ended:
                self._running.append(data)
            case "tool_call_end":
                self._ended.add(call_key(data))
        return event_type in ("message_start", "message_end")
