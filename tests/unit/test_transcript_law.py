"""Transcripts are what the plainest reading of the rules gives, whatever a log holds."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any, cast
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from projections import transcripts
from projections.messages import TRANSCRIPT_TYPES, Transcript, Transcription
from tests.conversations import ConversationEvent, Entry, RawData, conversation_events, log_of
from tests.reference import transcript as reference

TYPES = (
    *sorted(TRANSCRIPT_TYPES),
    "tool_call_start",
    "tool_call_end",
    "assistant_message",
    "assistant_delta",
)


class OneLog:
    """A Redis that holds a single log and knows two commands; entries come in the shape that it is told."""

    def __init__(self, entries: Sequence[Entry], *, mappings: bool) -> None:
        self.entries = entries
        self.mappings = mappings

    async def execute_command(
        self, command: str, key: bytes, start: str, end: str, _count: str, count: int, **_options: Any
    ) -> list[Any]:
        found = list(self.entries) if command == "XRANGE" else list(reversed(self.entries))
        if start.startswith("("):
            found = found[[entry_id for entry_id, _ in found].index(start[1:]) + 1 :]
        return [self._shape(*entry) for entry in found[:count]]

    def _shape(self, entry_id: str, fields: dict[bytes, bytes]) -> Any:
        if self.mappings:
            return entry_id.encode(), fields
        return [entry_id.encode(), [part for field in fields.items() for part in field]]


async def both(redis: Redis) -> tuple[Any, Any]:
    """The messages, and what the assistant is doing."""
    return (
        await transcripts.read_stream_messages(redis, "s"),
        await transcripts.read_stream_thinking(redis, "s"),
    )


def same(one: Any, other: Any) -> bool:
    """Equal, and of the same types; NaN, which is not equal to itself, included."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


@given(conversation_events(TYPES, max_size=40), st.booleans(), st.integers(1, 5))
@settings(deadline=None)
def test_a_transcript_is_what_the_plainest_reading_gives(
    conversation: list[ConversationEvent], mappings: bool, page: int
) -> None:
    entries = log_of(conversation)
    redis = cast("Redis", OneLog(entries, mappings=mappings))
    with patch.multiple(transcripts, _FIRST_PAGE_ENTRIES=page, _MAX_PAGE_ENTRIES=page):
        messages, thinking = asyncio.run(both(redis))
    assert same(messages, reference.messages(entries))
    assert same(thinking, reference.thinking(entries))


@given(conversation_events(TYPES), st.data())
@settings(deadline=None)
def test_a_transcript_goes_on_from_its_stored_state(
    conversation: list[ConversationEvent], data: st.DataObject
) -> None:
    events = [
        (f"1-{number}", event_type, payload)
        for number, (event_type, payload) in enumerate(conversation)
        if isinstance(event_type, str) and isinstance(payload, dict) and not isinstance(payload, RawData)
    ]
    at_once, resumed = Transcript(), Transcription([])
    for event in events:
        at_once.apply(*event)
        if data.draw(st.booleans()):
            state = [resumed.messages, resumed.turn, resumed.uncounted]
            resumed = Transcription(*json.loads(json.dumps(state)))
        resumed.apply(*event)
    assert same(at_once.messages, resumed.messages)
