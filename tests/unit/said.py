"""Events of a conversation in plain words, and the transcripts that they give."""

from __future__ import annotations

from typing import Any

from projections.messages import Thinking, Transcript

Payload = dict[str, Any]
Said = tuple[str, Payload]

AT = "2023-11-14T22:13:20+00:00"
START: Said = ("message_start", {})
END: Said = ("message_end", {})
REPLY: Said = ("assistant_message", {"content": "Found 12 genes."})
ACTIVITY = "subKaniActivity"


def transcript_of(*events: Said) -> list[Payload]:
    transcript = Transcript()
    for number, (event_type, data) in enumerate(events):
        transcript.apply(f"1700000000000-{number}", event_type, data)
    return transcript.messages


def reply_after(*events: Said) -> Payload:
    """What the assistant message that follows these events shows beyond its own content."""
    message = transcript_of(*events, REPLY)[-1]
    own = {"role": "assistant", "content": "Found 12 genes.", "messageId": None, "timestamp": AT}
    assert message.items() >= own.items()
    return {name: value for name, value in message.items() if name not in own}


def thinking_after(*events: Said) -> Payload | None:
    thinking = Thinking()
    for event_type, data in reversed(events):
        if thinking.look_back(event_type, data):
            break
    return thinking.answer


def call_start(call_id: str = "c1", **fields: Any) -> Said:
    return "tool_call_start", {"id": call_id, "name": "search", "arguments": {}, **fields}


def call_end(call_id: str = "c1", **fields: Any) -> Said:
    return "tool_call_end", {"id": call_id, "result": "found", **fields}


def call(call_id: str = "c1", **fields: Any) -> Payload:
    return {"id": call_id, "name": "search", "arguments": {}, **fields}


def task(kind: str, name: Any = "explore", /, **fields: Any) -> Said:
    return f"subkani_{kind}", {"task": name, **fields}
