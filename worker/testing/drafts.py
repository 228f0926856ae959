"""Events as tests write them, made into events as the worker reads them from a log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from worker.emit import encode_event
from worker.events import AnyEvent, Event, EventId, SkippedEvent, UndecodableEvent, parse_entry
from worker.log import MAX_PAYLOAD_MEGABYTES

Draft = tuple[str, Mapping[str, Any] | bytes]
"""A type and a payload; bytes stand in the log as they are, so that they may be no JSON."""

_MAX_PAYLOAD_BYTES = MAX_PAYLOAD_MEGABYTES * 1024 * 1024


def event(event_type: str, /, **data: Any) -> Draft:
    """An event whose payload has these fields: ``event("line_added", sku="apple", quantity=2)``."""
    return event_type, data


def events(*drafts: Draft | AnyEvent) -> tuple[AnyEvent, ...]:
    """Events in the order of a log, with the ids 1-0, 2-0 and so on: what handlers will be given.

    Payloads go through JSON as those of `worker.emit` do: a tuple becomes a list, a date its text. An `Event`
    stays as it is, and what comes after it has higher ids. Raises InvalidEventError for what no log may hold,
    and ValueError for an `Event` whose id is not above those before it.
    """
    made: list[AnyEvent] = []
    last = EventId(0, 0)
    for draft in drafts:
        if isinstance(draft, Event | UndecodableEvent | SkippedEvent):
            if draft.id <= last:
                raise ValueError(f"Event {draft.id} comes after {last}: ids must increase, as in a log.")
            made.append(draft)
        else:
            made.append(_read(EventId(last.ms + 1, 0), *draft))
        last = made[-1].id
    return tuple(made)


def raw_payload(event_type: str, payload: Mapping[str, Any] | bytes) -> bytes:
    """What stands in the log."""
    return payload if isinstance(payload, bytes) else encode_event("stream", "", event_type, payload).encode()


def _read(event_id: EventId, event_type: str, payload: Mapping[str, Any] | bytes) -> AnyEvent:
    fields = (b"op", b"", b"type", event_type.encode(), b"data", raw_payload(event_type, payload))
    return parse_entry(str(event_id).encode(), event_type, fields, _MAX_PAYLOAD_BYTES)


def types_of(made: Iterable[AnyEvent]) -> set[str]:
    """The types that occur."""
    return {one.type for one in made}
