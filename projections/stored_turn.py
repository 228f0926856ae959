"""A conversation's transcript while it is projected: what is kept in its row, and what reaches the messages.

The messages themselves are child rows, which are written and never read, since there may be very many. Of
those that a later event may still change, the row keeps what is needed for that: the calls that messages of
the open turn show, and the places of messages that have no token usage yet. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from projections import turn as turns
from projections.messages import Transcription
from projections.models import MESSAGE_COLUMNS, StreamTranscript
from projections.turn import JsonObject
from worker import ChildRows, Event

_SHOWN = ("toolCalls", "subKaniActivity")
_ALWAYS = {"role", "timestamp"}


def apply(row: StreamTranscript, event: Event) -> None:
    """Apply the log's next event to a conversation's row and messages."""
    state = row.open_turn  # Changed in place: what is assigned is encoded and decoded for the next event.
    if not state:
        state |= {"turn": turns.new_turn(), "shown": {}}
    uncounted = {role: _Runs(row.uncounted.setdefault(role, [])) for role in ("user", "assistant")}
    messages = _StoredMessages(row.message_count, state["shown"], row.messages, event.id.time)
    transcript = Transcription(messages, state["turn"], uncounted)
    transcript.apply(event.raw_id, event.type, event.data)
    messages.write_touched()
    row.message_count = len(messages)
    if transcript.turn is not state["turn"]:
        state |= {"turn": transcript.turn, "shown": {}}


class _StoredMessages:
    """Messages that are child rows, as a transcript sees them during one event.

    ``shown`` is what messages of the open turn show of its calls, by the message's place.
    """

    def __init__(
        self, count: int, shown: dict[str, JsonObject], rows: ChildRows, time: datetime | None
    ) -> None:
        self._count = count
        self._shown = shown
        self._rows = rows
        self._time = time
        self._touched: dict[int, JsonObject] = {}

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, place: int) -> JsonObject:
        return self._touched.setdefault(place, self._shown.get(str(place), {}))

    def append(self, message: JsonObject) -> None:
        # An empty value was carried by the payload: nothing of the turn, which an event might change.
        if shown := {field: message[field] for field in _SHOWN if message.get(field)}:
            self._shown[str(self._count)] = shown
        values = columns_of({field: value for field, value in message.items() if field not in _ALWAYS})
        self._rows.put(self._count, role=message["role"], timestamp=self._time, **values)
        self._count += 1

    def write_touched(self) -> None:
        """Write what the event changed of earlier messages."""
        for place, fields in self._touched.items():
            if fields:
                self._rows.change(place, **columns_of(fields))


def columns_of(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that hold these fields of a message.

    What its column cannot hold, as a content that is no text, is kept by the field's name in ``unusual``.
    """
    columns: dict[str, Any] = {}
    unusual: JsonObject = {}
    for field, value in fields.items():
        column, is_text = MESSAGE_COLUMNS[field]
        if isinstance(value, str) if is_text else value is not None:
            columns[column] = value
        elif field != "messageId" or value is not None:
            unusual[field] = value
    return columns | {"unusual": unusual} if unusual else columns


class _Runs:
    """Places in ascending order, kept as runs ``[first, last, step]`` in a list that JSON can represent.

    A conversation whose turns are never counted would otherwise take a number for each of its messages.
    """

    def __init__(self, runs: list[list[int]]) -> None:
        self._runs = runs

    def __len__(self) -> int:
        return sum((last - first) // step + 1 for first, last, step in self._runs)

    def __bool__(self) -> bool:
        return bool(self._runs)

    def append(self, place: int) -> None:
        if self._runs:
            first, last, step = run = self._runs[-1]
            if first == last or place == last + step:
                run[1:] = place, place - last
                return
        self._runs.append([place, place, 1])

    def pop(self) -> int:
        first, last, step = run = self._runs[-1]
        if first == last:
            self._runs.pop()
        else:
            run[1:] = last - step, 1 if last - step == first else step
        return last
