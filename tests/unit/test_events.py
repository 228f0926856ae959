"""Event ids, and how the raw entries of a log become events."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker import events
from worker.events import (
    UNPROJECTED,
    UNTYPED,
    Event,
    EventId,
    EventTypes,
    OtherEntry,
    UndecodableEvent,
    field,
    parse_entry,
    parse_stream_id,
    type_field,
)

HIGHEST = 2**64 - 1
TYPES = EventTypes({"user_message", "café"})

parts = st.integers(0, HIGHEST)


def parsed(*fields: bytes, raw_id: bytes = b"5-1") -> Event | UndecodableEvent | OtherEntry:
    event_type = TYPES[type_field(fields)]
    return event_type if isinstance(event_type, OtherEntry) else parse_entry(raw_id, event_type, fields, 1000)


def reason_of(event: object) -> str:
    assert isinstance(event, UndecodableEvent)
    return event.reason


# Event ids.


def test_event_ids_are_compared_as_numbers() -> None:
    assert EventId.parse("5-10") > EventId.parse("5-9")
    assert EventId.parse("10-0") > EventId.parse("9-99")


@given(st.lists(st.tuples(parts, parts)))
def test_the_order_of_event_ids_is_that_of_their_parts(ids: list[tuple[int, int]]) -> None:
    texts = [f"{ms}-{seq}" for ms, seq in ids]
    assert sorted(map(EventId.parse, texts)) == [EventId(*parts) for parts in sorted(ids)]


@given(parts, parts)
def test_an_event_id_is_read_as_it_is_written(ms: int, seq: int) -> None:
    event_id = EventId(ms, seq)
    assert EventId.parse(str(event_id)) == EventId.parse(str(event_id).encode()) == event_id


def test_the_highest_event_id_is_one() -> None:
    assert EventId.parse("18446744073709551615-18446744073709551615") == EventId(HIGHEST, HIGHEST)


@pytest.mark.parametrize(
    "text",
    [
        *("", "5", "-", "5-", "-5", "5-1-1", "$", "+", "5-*", "(5-1", "-5-1", "5--1", "+5-1", "5-+1"),
        *(" 5-1", "5-1\n", "5_0-1", "5.0-1", "\u0665-1", "5-²", "\xff-1", b"\xff-1", b"5-\x00"),
        *("05-1", "5-01", "00-0", "18446744073709551616-0", "0-18446744073709551616", "9" * 5000 + "-0"),
    ],
)
def test_nothing_else_is_an_event_id(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"is not an event id|ascii|digits"):
        EventId.parse(text)


def test_the_time_of_an_event_is_in_its_id() -> None:
    assert EventId(0, 7).time == datetime(1970, 1, 1, tzinfo=UTC)
    assert EventId(1_700_000_000_123, 0).time == datetime(2023, 11, 14, 22, 13, 20, 123_000, UTC)


def test_after_the_year_9999_there_is_no_time() -> None:
    last = EventId(253_402_300_799_999, HIGHEST)
    assert last.time == datetime(9999, 12, 31, 23, 59, 59, 999_000, UTC)
    assert EventId(last.ms + 1, 0).time is None
    assert EventId(HIGHEST, HIGHEST).time is None


# Entries.


def test_an_entry_of_a_projected_type_becomes_an_event() -> None:
    event = parsed(b"op", b"o1", b"type", b"user_message", b"data", b'{"content": "hi"}')
    assert event == Event(EventId(5, 1), "user_message", {"content": "hi"}, "o1")


@pytest.mark.parametrize(
    "fields",
    [
        (b"type", b"user_message", b"data", b"{}"),
        (b"data", b"{}", b"type", b"user_message", b"op", b""),
        (b"op", b"", b"more", b"x", b"type", b"user_message", b"data", b"{}", b"\xff", b"\xff"),
    ],
)
def test_fields_may_stand_in_any_order_with_others_among_them(fields: tuple[bytes, ...]) -> None:
    assert parsed(*fields) == Event(EventId(5, 1), "user_message", {}, "")


def test_types_are_compared_as_bytes() -> None:
    event = parsed(b"type", "café".encode(), b"data", b"{}")
    assert event == Event(EventId(5, 1), "café", {}, "")


@pytest.mark.parametrize("event_type", [b"other", b"", b"USER_MESSAGE", b"user_message ", b"x" * 10_000])
def test_an_entry_of_any_other_type_is_no_event(event_type: bytes) -> None:
    for _ in range(2):
        assert parsed(b"op", b"", b"type", event_type, b"data", b"{}") is UNPROJECTED


@pytest.mark.parametrize("event_type", [b"\xff", b"user_message\xff", b"\xed\xa0\x80"])
def test_an_entry_whose_type_is_no_text_has_none(event_type: bytes) -> None:
    for _ in range(2):
        assert parsed(b"op", b"", b"type", event_type, b"data", b"{}") is UNTYPED


def test_an_entry_without_a_type_is_no_event() -> None:
    assert parsed(b"op", b"", b"data", b"{}") is UNTYPED
    assert parsed() is UNTYPED


def test_only_so_many_types_are_remembered() -> None:
    types = EventTypes({"user_message"})
    for number in range(2_000):
        assert types[b"%d" % number] is UNPROJECTED
        assert types[b"\xff%d" % number] is UNTYPED
    assert len(types) == 1_000
    assert types[b"user_message"] == "user_message"


def test_an_entry_that_is_not_projected_costs_no_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "decode_object", pytest.fail)
    monkeypatch.setattr(EventId, "parse", pytest.fail)
    assert parsed(b"op", b"", b"type", b"assistant_delta", b"data", b"{}", raw_id=b"\xff") is UNPROJECTED


def test_of_a_field_that_stands_twice_the_last_counts() -> None:
    assert field([b"a", b"1", b"a", b"2", b"b", b"3"], b"a") == b"2"
    event = parsed(b"type", b"other", b"data", b"x", b"type", b"user_message", b"data", b'{"n": 1}')
    assert event == Event(EventId(5, 1), "user_message", {"n": 1}, "")


@pytest.mark.parametrize(("first", "last"), [(b"user_message", b"other"), (b"other", b"user_message")])
def test_of_a_type_that_stands_twice_the_last_counts_whatever_the_entry_is_like(
    first: bytes, last: bytes
) -> None:
    by_name = field([b"op", b"", b"type", first, b"type", last], b"type")
    assert by_name == last
    assert (parsed(b"op", b"", b"type", first, b"type", last) is UNPROJECTED) == (last == b"other")


def test_values_are_not_taken_for_names() -> None:
    assert field([b"op", b"type", b"x", b"data"], b"type") is None
    assert field([], b"type") is None


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ([], "no data field"),
        ([b"data", b""], "not JSON"),
        ([b"data", b"{"], "not JSON"),
        ([b"data", b"\xff"], "not UTF-8"),
        ([b"data", b"[]"], "no JSON object"),
        ([b"data", b'{"a": "%s"}' % (b"x" * 1000)], "more than 1000"),
    ],
)
def test_data_that_can_never_be_applied_give_the_reason(data: list[bytes], reason: str) -> None:
    event = parsed(b"op", b"", b"type", b"user_message", *data)
    assert reason in reason_of(event)
    assert isinstance(event, UndecodableEvent)
    assert (event.id, event.type) == (EventId(5, 1), "user_message")


def test_an_event_after_the_year_9999_can_never_be_applied() -> None:
    event = parsed(b"type", b"user_message", b"data", b"{}", raw_id=b"253402300800000-0")
    assert reason_of(event) == "its time lies after the year 9999"


def test_an_operation_id_may_hold_anything() -> None:
    event = parsed(b"op", b"a\xffb\0", b"type", b"user_message", b"data", b"{}")
    assert isinstance(event, Event)
    assert event.operation_id == "a\ufffdb\ufffd"


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda event: pickle.loads(pickle.dumps(event))]
)
def test_an_event_may_be_copied(copied: Callable[[Event], Event]) -> None:
    event = parsed(b"op", b"caf\xc3\xa9", b"type", b"user_message", b"data", b'{"a": [1]}')
    assert isinstance(event, Event)
    copy_of = copied(event)
    assert copy_of == event
    assert (copy_of.id, copy_of.operation_id, copy_of.data) == (EventId(5, 1), "café", {"a": [1]})


def test_values_that_cannot_be_stored_are_counted() -> None:
    event = parsed(b"op", b"\0", b"type", b"user_message", b"data", rb'{"a": ["\u0000", NaN], "\ud800": 1}')
    assert isinstance(event, Event)
    assert event.mended == 4


# Stream ids.


@pytest.mark.parametrize("stream_id", ["a", "", "é", "\U0001f9ec", "stream:x", " ", "\n", "é" * 256])
def test_stream_ids_are_text(stream_id: str) -> None:
    assert parse_stream_id(stream_id.encode()) == stream_id


@pytest.mark.parametrize("raw", [b"\xff", b"\xed\xa0\x80", b"a\0", b"\0", b"x" * 513, "é".encode() * 257])
def test_what_no_column_could_hold_is_no_stream_id(raw: bytes) -> None:
    assert parse_stream_id(raw) is None


names = st.sampled_from([b"op", b"type", b"data", b"other"])


@given(st.lists(st.tuples(names, st.sampled_from([b"user_message", b"{}", b'{"a":1}'])), max_size=4))
def test_however_fields_are_ordered_or_doubled_the_last_of_each_name_counts(
    pairs: list[tuple[bytes, bytes]],
) -> None:
    last = dict(pairs)
    event = parsed(*(part for pair in pairs for part in pair))
    if b"type" not in last:
        assert event is UNTYPED
    elif last[b"type"] != b"user_message":
        assert event is UNPROJECTED
    elif last.get(b"data", b"user_message") == b"user_message":
        assert isinstance(event, UndecodableEvent)
    else:
        data, operation_id = json.loads(last[b"data"]), last.get(b"op", b"").decode()
        assert event == Event(EventId(5, 1), "user_message", data, operation_id)
