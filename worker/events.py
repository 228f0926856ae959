"""Event ids, events, and how entries of a log become events."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum, auto
from typing import Any, Final

from worker.payload import UndecodablePayloadError, as_storable_text, decode_object

MAX_STREAM_ID_BYTES = 512

_MAX_TYPES = 1_000
_MAX_TYPE_BYTES = 100

_UINT64_END = 1 << 64
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_YEAR_10000_MS = 253_402_300_800_000


@dataclass(frozen=True, slots=True, order=True)
class EventId:
    """The id of an entry in a Redis stream, ``<ms>-<seq>``.

    Both parts are unsigned 64-bit integers and are compared as numbers: ``5-10`` is after ``5-9``.
    """

    ms: int
    seq: int

    @classmethod
    def parse(cls, text: str | bytes) -> EventId:
        """Parse the canonical form, as Redis prints it. Raises ValueError for anything else."""
        if isinstance(text, bytes):
            text = text.decode("ascii")
        ms, dash, seq = text.partition("-")
        if not (dash and ms.isascii() and ms.isdigit() and seq.isascii() and seq.isdigit()):
            raise ValueError(f"{text!r} is not an event id of the form <ms>-<seq>")
        event_id = cls(int(ms), int(seq))
        if event_id.ms >= _UINT64_END or event_id.seq >= _UINT64_END:
            raise ValueError(f"{text!r} is not an event id: both parts must be below 2^64")
        if str(event_id) != text:
            raise ValueError(f"{text!r} is not an event id as Redis prints it: {event_id}")
        return event_id

    def __str__(self) -> str:
        return f"{self.ms}-{self.seq}"

    @property
    def time(self) -> datetime | None:
        """When the event was appended, in UTC; None after the year 9999, which no timestamp can hold."""
        if self.ms >= _YEAR_10000_MS:
            return None
        return _EPOCH + timedelta(milliseconds=self.ms)


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of a log whose type is projected and whose data could be decoded.

    ``data`` holds no NUL characters, lone surrogates, NaN or infinities (see `worker.payload`), so that all
    of it can be stored; ``mended`` is how many values were replaced for that. Handlers must not change it.
    """

    id: EventId
    type: str
    data: dict[str, Any]
    operation_id: str = ""
    mended: int = 0


@dataclass(frozen=True, slots=True)
class UndecodableEvent:
    """An entry of a projected type whose data can never be applied, and why."""

    id: EventId
    type: str
    reason: str


@dataclass(frozen=True, slots=True)
class SkippedEvent:
    """An event that an operator decided not to apply: it moves the position and nothing else."""

    id: EventId
    type: str


AnyEvent = Event | UndecodableEvent | SkippedEvent
"""What a log may hold of projected types."""


class OtherEntry(Enum):
    """An entry that is no event of a projected type."""

    UNPROJECTED = auto()
    UNTYPED = auto()
    """Its type is missing or not UTF-8."""


UNPROJECTED: Final = OtherEntry.UNPROJECTED
UNTYPED: Final = OtherEntry.UNTYPED


class EventTypes(dict[bytes | None, str | OtherEntry]):
    """What the type field of an entry says: the name of a projected type, or that it is none.

    Types are told by their bytes. Others than the projected are decoded when they are met for the first time,
    since they may be no text, and remembered up to a limit.
    """

    def __init__(self, projected: Collection[str]) -> None:
        super().__init__({name.encode(): name for name in projected})
        self[None] = UNTYPED

    def __missing__(self, raw: bytes) -> OtherEntry:
        try:
            raw.decode("utf-8")
        except UnicodeDecodeError:
            return UNTYPED
        if len(self) < _MAX_TYPES and len(raw) <= _MAX_TYPE_BYTES:
            self[raw] = UNPROJECTED
        return UNPROJECTED


def without_skipped(events: Sequence[AnyEvent], skipped: Collection[EventId]) -> Sequence[AnyEvent]:
    """The same events, those that operators skipped marked as such."""
    if not skipped:
        return events
    return [SkippedEvent(event.id, event.type) if event.id in skipped else event for event in events]


def is_event_id(text: str) -> bool:
    """Whether an entry could have this id."""
    try:
        EventId.parse(text)
    except ValueError:
        return False
    return True


def parse_stream_id(raw: bytes) -> str | None:
    """The stream id that ``raw`` spells, or None where nothing could store it.

    None: not UTF-8, holds NUL, or longer than 512 bytes.
    """
    if len(raw) > MAX_STREAM_ID_BYTES or b"\0" in raw:
        return None
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return None


def field(fields: Sequence[bytes], name: bytes) -> bytes | None:
    """The value of a field in a raw entry ``[name, value, name, value, ...]``.

    Of a field that stands twice the last counts, as for every client that makes a mapping of an entry.
    """
    for at in range(len(fields) - 2, -1, -2):
        if fields[at] == name:
            return fields[at + 1]
    return None


def parse_entry(
    raw_id: bytes, fields: Sequence[bytes], types: EventTypes, max_payload_bytes: int
) -> Event | UndecodableEvent | OtherEntry:
    """Make an event of a raw entry, or say that its type is not among the projected ones.

    An entry of any other type is told by its bytes alone: nothing of it is decoded.
    """
    # Nearly every entry was written as op, type, data.
    usual = len(fields) == 6 and fields[2] == b"type" and fields[4] == b"data"
    event_type = types[fields[3] if usual else field(fields, b"type")]
    if event_type is UNPROJECTED or event_type is UNTYPED:
        return event_type
    event_id = EventId.parse(raw_id)
    if event_id.time is None:
        return UndecodableEvent(event_id, event_type, "its time lies after the year 9999")
    raw_data = field(fields, b"data")
    if raw_data is None:
        return UndecodableEvent(event_id, event_type, "the entry has no data field")
    try:
        data, mended = decode_object(raw_data, max_payload_bytes)
    except UndecodablePayloadError as error:
        return UndecodableEvent(event_id, event_type, str(error))
    spelled = (field(fields, b"op") or b"").decode("utf-8", "replace")
    operation_id = as_storable_text(spelled)
    return Event(event_id, event_type, data, operation_id, mended + (operation_id is not spelled))
