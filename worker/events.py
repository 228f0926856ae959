"""Event ids, events, and how entries of a log become events."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum, auto
from typing import Any, ClassVar, Final, NamedTuple

from worker.payload import UndecodablePayloadError, as_storable_text, decode_object

MAX_STREAM_ID_BYTES = 512

_MAX_TYPES = 1_000
_MAX_TYPE_BYTES = 100

_UINT64_END = 1 << 64
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_YEAR_10000_MS = 253_402_300_800_000
_YEAR_10000_DIGITS = 15


class EventId(NamedTuple):
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

    @classmethod
    def of_entry(cls, raw: bytes) -> EventId:
        """The id of an entry as Redis sent it, which is canonical: not checked as in `parse`."""
        return _make_tuple(cls, map(int, raw.split(b"-")))

    def __str__(self) -> str:
        return f"{self.ms}-{self.seq}"

    @property
    def time(self) -> datetime | None:
        """When the event was appended, in UTC; None after the year 9999, which no timestamp can hold."""
        if self.ms >= _YEAR_10000_MS:
            return None
        return _EPOCH + timedelta(milliseconds=self.ms)


class _Entry(NamedTuple):
    raw_id: bytes
    type: str
    data: dict[str, Any]
    raw_operation_id: bytes
    mended: int


class Event(_Entry):
    """One entry of a log whose type is projected and whose data could be decoded.

    ``data`` holds no NUL characters, lone surrogates, NaN or infinities (see `worker.payload`), so that all
    of it can be stored; ``mended`` is how many values were replaced for that. Handlers must not change it.
    Most handlers ask for neither ``id`` nor ``operation_id``: both are made of what Redis sent when one does.
    """

    __slots__ = ()

    def __new__(
        cls, id: EventId, type: str, data: dict[str, Any], operation_id: str = "", mended: int = 0
    ) -> Event:
        return _make_tuple(cls, (str(id).encode(), type, data, operation_id.encode(), mended))

    def __getnewargs__(self) -> tuple[Any, ...]:
        """What a copy is made of."""
        return (self.id, self.type, self.data, self.operation_id, self.mended)

    @property
    def id(self) -> EventId:
        return EventId.of_entry(self.raw_id)

    @property
    def operation_id(self) -> str:
        return as_storable_text(self.raw_operation_id.decode("utf-8", "replace"))


# For what is made of every entry: half the time of a call of the class.
_make_tuple = tuple.__new__


@dataclass(frozen=True, slots=True)
class UndecodableEvent:
    """An entry of a projected type whose data can never be applied, and why."""

    id: EventId
    type: str
    reason: str
    mended: ClassVar[int] = 0


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


def type_field(fields: Sequence[bytes]) -> bytes | None:
    """The type of a raw entry: for most entries the only thing that is looked at."""
    # Nearly every entry was written as op, type, data.
    if len(fields) == 6 and fields[2] == b"type" and fields[4] != b"type":
        return fields[3]
    return field(fields, b"type")


def parse_entry(
    raw_id: bytes, event_type: str, fields: Sequence[bytes], max_payload_bytes: int
) -> Event | UndecodableEvent:
    """Make an event of a raw entry of a projected type."""
    if raw_id.find(b"-") >= _YEAR_10000_DIGITS and EventId.of_entry(raw_id).time is None:
        return UndecodableEvent(EventId.of_entry(raw_id), event_type, "its time lies after the year 9999")
    usual = len(fields) == 6 and fields[0] == b"op" and fields[2] != b"op" and fields[4] == b"data"
    raw_data = fields[5] if usual else field(fields, b"data")
    if raw_data is None:
        return UndecodableEvent(EventId.of_entry(raw_id), event_type, "the entry has no data field")
    try:
        data, mended = decode_object(raw_data, max_payload_bytes)
    except UndecodablePayloadError as error:
        return UndecodableEvent(EventId.of_entry(raw_id), event_type, str(error))
    raw_operation_id = fields[1] if usual else field(fields, b"op") or b""
    event = _make_tuple(Event, (raw_id, event_type, data, raw_operation_id, mended))
    if raw_operation_id.isascii() and raw_operation_id.find(b"\0") < 0:
        return event
    spelled = raw_operation_id.decode("utf-8", "replace")
    return event._replace(mended=mended + (as_storable_text(spelled) is not spelled))
