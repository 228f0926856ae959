"""Transcripts that are projected are those that are read from the log, in whatever batches."""

from __future__ import annotations

import json
from itertools import chain
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from projections.messages import TRANSCRIPT_TYPES, Transcript
from projections.models import MESSAGE_COLUMNS
from projections.stored_transcripts import transcripts
from projections.stored_turn import _Runs
from tests.conversations import ConversationEvent, conversation_events, log_of
from worker import Event, EventId, row
from worker.children import AllChildRows
from worker.events import AnyEvent, parse_entry
from worker.payload import encode
from worker.row import RawJson

TYPES = (*sorted(TRANSCRIPT_TYPES), "tool_call_start", "tool_call_end", "assistant_message", "message_end")

Table = dict[int, dict[str, Any]]
"""Messages by their place, as columns."""


def written(table: Table, children: AllChildRows) -> Table:
    """The table after the child rows of one batch were written."""
    if "messages" not in children:
        return table
    effect = children["messages"]
    after = {} if effect.cleared else dict(table)
    for key, write in effect.writes.items():
        place = int(key)
        if write is None:
            after.pop(place, None)
        elif write.whole:
            after[place] = dict(write.values)
        elif place in after:
            after[place] |= write.values
    return after


def read(columns: dict[str, Any]) -> dict[str, Any]:
    """A message as it is read back."""
    plain = {c: json.loads(v.text) if isinstance(v, RawJson) else v for c, v in columns.items()}
    time = plain["timestamp"]
    message = {"role": plain["role"], "messageId": None, "timestamp": time and time.isoformat()}
    message |= {field: plain[c] for field, (c, _) in MESSAGE_COLUMNS.items() if plain[c] is not None}
    return message | (plain["unusual"] or {})


def in_order(conversation: list[ConversationEvent]) -> list[AnyEvent]:
    """The events as the worker reads them, those that it cannot decode included."""
    return [
        parse_entry(entry_id.encode(), fields[b"type"].decode(), list(chain(*fields.items())), 1_000_000)
        for entry_id, fields in log_of(conversation)
        if fields.get(b"type") in {name.encode() for name in TRANSCRIPT_TYPES}
    ]


def as_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


@given(conversation_events(TYPES, max_size=40), st.data())
@settings(deadline=None, max_examples=1_000)
def test_messages_are_those_of_the_log_after_any_batches(
    conversation: list[ConversationEvent], data: st.DataObject
) -> None:
    events = in_order(conversation)
    cuts = data.draw(st.lists(st.integers(0, len(events)), max_size=6).map(sorted))
    expected = Transcript()
    state, table = transcripts.new_state, Table()
    for start, end in zip([0, *cuts], [*cuts, len(events)], strict=True):
        folded = transcripts.fold(state, events[start:end])
        assert folded.failure is None
        state, table = folded.state, written(table, folded.children)
        rejected = {rejection.event_id for rejection in folded.rejections}
        for event in events[start:end]:
            if isinstance(event, Event) and event.id not in rejected:
                expected.apply(event.raw_id, event.type, event.data)
        assert sorted(table) == list(range(len(expected.messages)))
        found = [read(table[place]) for place in sorted(table)]
        assert as_json(found) == as_json(expected.messages)


def test_a_conversation_whose_turns_are_never_counted_keeps_its_row_small() -> None:
    events = [
        Event(EventId(number, 0), ("user_message", "assistant_message")[number % 2], {"content": "x"})
        for number in range(10_000)
    ]
    folded = transcripts.fold(transcripts.new_state, events)
    uncounted = dict(zip(transcripts.columns, folded.state, strict=True))["uncounted"]
    assert json.loads(uncounted.text) == {"user": [[0, 9998, 2]], "assistant": [[1, 9999, 2]]}


@given(st.lists(st.integers(1, 3) | st.none(), max_size=30))
def test_runs_are_a_list_of_places(steps: list[int | None]) -> None:
    """None takes the last place out, a number adds the place so far after the last that was added."""
    runs, plain, place = _Runs([]), list[int](), 0
    for step in steps:
        if step is None:
            if plain:
                assert runs.pop() == plain.pop()
        else:
            place += step
            runs.append(place)
            plain.append(place)
        assert (len(runs), bool(runs)) == (len(plain), bool(plain))


def test_a_long_turn_is_encoded_once_in_a_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[Any] = []

    def note(value: Any) -> str:
        encoded.append(value)
        return encode(value)

    monkeypatch.setattr(row, "encode", note)
    calls = [Event(EventId(n, 0), "tool_call_start", {"id": str(n)}) for n in range(1, 100)]
    folded = transcripts.fold(transcripts.new_state, calls)
    assert folded.applied == 99
    assert len(encoded) == 2  # open_turn and uncounted
