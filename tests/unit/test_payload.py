"""Payloads: what is read of a JSON object, what is replaced in it, and what is refused."""

from __future__ import annotations

import json
import time
from itertools import cycle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.reference.wire import storable_object
from worker.payload import (
    MAX_DEPTH,
    UndecodablePayloadError,
    UnreadableValueError,
    decode_object,
    decode_stored,
    encode,
)

LIMIT = 16 * 1024 * 1024

storable_text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(10**40), 10**40),
    st.floats(allow_nan=False, allow_infinity=False),
    storable_text,
)
storable_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(storable_text, inner, max_size=3),
    max_leaves=8,
)
storable_objects = st.dictionaries(storable_text, storable_values, max_size=3)

FRAGMENTS = [
    *(b"{", b"}", b"[", b"]", b'"', b":", b",", b" ", b"\\", b"a", b"\xff", b"\xc3\xa9", b"\x00", b"\n"),
    *(b'"a"', b'{"a":', b'"a":', b"null", b"NaN", b"-Infinity", b"1e999", b"-0", b"9" * 19, b"1" * 4301),
    *(b"\\u0000", b"\\ud83e", b"\\uddec", b"\\uD800", b"\\u00", b"\\\\", b'\\"', b"[" * 501, b"]" * 501),
]
nearly_json = st.lists(st.sampled_from(FRAGMENTS)).map(b"".join)
nearly_an_object = nearly_json.map(lambda inner: b'{"a":%s}' % inner)


def decoded(raw: bytes | str, max_bytes: int = LIMIT) -> dict[str, Any]:
    return decode_object(raw.encode() if isinstance(raw, str) else raw, max_bytes)[0]


def mended(raw: bytes | str) -> int:
    return decode_object(raw.encode() if isinstance(raw, str) else raw, LIMIT)[1]


def refusal(raw: bytes, max_bytes: int = LIMIT) -> str:
    with pytest.raises(UndecodablePayloadError) as caught:
        decode_object(raw, max_bytes)
    return str(caught.value)


def nested(levels: int, innermost: bytes = b"1", opening: bytes = b'{"a":', closing: bytes = b"}") -> bytes:
    return b'{"a":' + opening * (levels - 1) + innermost + closing * (levels - 1) + b"}"


# What is read.


@given(storable_objects, st.booleans())
def test_an_object_that_can_be_stored_is_read_exactly(value: dict[str, Any], ascii_only: bool) -> None:
    result = decoded(json.dumps(value, ensure_ascii=ascii_only))
    assert result == value
    assert json.dumps(result) == json.dumps(value)  # which tells 1 from 1.0 and true


@given(storable_values)
def test_what_is_written_is_read_again(value: Any) -> None:
    assert json.dumps(decode_stored(encode(value))) == json.dumps(value)


@given(st.one_of(st.binary(), nearly_json, nearly_an_object))
def test_whatever_the_bytes_there_is_an_object_or_a_reason(raw: bytes) -> None:
    try:
        result: dict[str, Any] | None = decoded(raw)
    except UndecodablePayloadError:
        result = None
    assert json.dumps(result) == json.dumps(storable_object(raw))


@pytest.mark.parametrize("number", [2**63, 2**64, -(2**63) - 1, 10**18, 10**100, -(10**4299)])
def test_large_integers_stay_exact(number: int) -> None:
    assert decoded(b'{"n": %d}' % number) == {"n": number}
    assert decode_stored(encode({"n": number})) == {"n": number}


@pytest.mark.parametrize("digits", [18, 19, 20, 25])
@pytest.mark.parametrize("offset", range(20))
def test_large_integers_stay_exact_wherever_they_stand(digits: int, offset: int) -> None:
    value = {"a": "x" * offset, "n": 10**digits - 1, "ids": [1_700_000_000_000, -(10**17)]}
    raw = json.dumps(value)
    assert decoded(raw) == decode_stored(raw) == value
    assert json.dumps(decoded(raw)) == json.dumps(decode_stored(raw)) == raw


def test_of_a_name_that_stands_twice_the_last_value_counts() -> None:
    assert decoded(b'{"a": 1, "b": 2, "a": 3}') == {"a": 3, "b": 2}
    assert decoded(b'{"a": 1, "b": NaN, "a": 3}') == {"a": 3, "b": None}


def test_blanks_around_the_object_do_not_matter() -> None:
    assert decoded(b' \r\n\t{"a": 1} \n') == {"a": 1}


# What is replaced.


@pytest.mark.parametrize(
    ("escaped", "stored"),
    [
        (r"\u0000", "\ufffd"),
        (r"a\u0000b\u0000", "a\ufffdb\ufffd"),
        (r"\ud800", "\ufffd"),
        (r"\uDfFf", "\ufffd"),
        (r"\uddec\ud83e", "\ufffd\ufffd"),
        (r"\ud83e x", "\ufffd x"),
        (r"\ud83e\uddec", "\U0001f9ec"),
        (r"\\u0000", "\\u0000"),
        (r"\\ud800", "\\ud800"),
        (r"\\\u0000", "\\\ufffd"),
    ],
)
def test_what_text_cannot_hold_becomes_a_replacement_character(escaped: str, stored: str) -> None:
    assert decoded('{"a": ["%s"], "k%s": {"b": "%s"}}' % ((escaped,) * 3)) == {
        "a": [stored],
        f"k{stored}": {"b": stored},
    }
    assert mended('{"a": ["%s"], "k%s": {"b": "%s"}}' % ((escaped,) * 3)) == 3 * ("\ufffd" in stored)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1E+999", "1" * 400 + ".0"])
def test_numbers_that_are_none_become_null(number: str) -> None:
    assert decoded(f'{{"a": {number}, "b": [{{"c": {number}}}]}}') == {"a": None, "b": [{"c": None}]}
    assert mended(f'{{"a": {number}, "b": [{{"c": {number}}}]}}') == 2


@given(storable_objects, st.booleans())
def test_nothing_is_counted_where_nothing_is_replaced(value: dict[str, Any], ascii_only: bool) -> None:
    assert mended(json.dumps(value, ensure_ascii=ascii_only)) == 0


def test_numbers_too_small_to_tell_from_zero_are_zero() -> None:
    assert decoded(b'{"a": 1e-999}') == {"a": 0.0}


# What is refused.


@pytest.mark.parametrize(
    "raw",
    [
        *(b"", b" ", b"nonsense", b"{", b'{"a": 1', b'{"a"}', b'{"a": 1,}', b"{'a': 1}", b"{} {}", b"{}\0"),
        *(b'{"a": 01}', b'{"a": .5}', b'{"a": +1}', b'{"a": nan}', b'{"a": True}', b'{"a": "\t"}'),
        *(b'{"a": "\\x"}', b'{"a": "\\u00"}', b'\xc2\xa0{"a": 1}', b'{"a": "\0"}', b'\xef\xbb\xbf{"a": 1}'),
        *('{"a": 1}'.encode("utf-16"), b'{"a": "\xff"}', b'{"a": "\xed\xa0\x80"}', b'{"a": "\xc0\x80"}'),
    ],
)
def test_what_is_no_json_is_refused(raw: bytes) -> None:
    assert "not JSON" in refusal(raw)


@pytest.mark.parametrize("raw", [b"[]", b'"text"', b"7", b"null", b"true", b"NaN", b"1" * 30, b'"\\u0000"'])
def test_json_that_is_no_object_is_refused(raw: bytes) -> None:
    assert refusal(raw) == "the data are JSON, but no JSON object"


def test_a_number_of_too_many_digits_is_refused() -> None:
    assert "too many digits" in refusal(b'{"a": %s}' % (b"9" * 5000))


def test_the_limit_counts_bytes() -> None:
    raw = '{"a": "é"}'.encode()
    assert decoded(raw, len(raw)) == {"a": "é"}
    assert refusal(raw, len(raw) - 1) == f"the data are {len(raw)} bytes long, more than {len(raw) - 1}"


def test_the_reason_does_not_quote_the_data() -> None:
    for raw in (b'{"password": "secret', b"secret", b'{"a": secret}', b'{"a": "secret\xff"}', b'"secret"'):
        assert "secret" not in refusal(raw)


# What would take too much to be read again.


@pytest.mark.parametrize("number", [1e308, -1.5e-300])
def test_numbers_that_postgresql_writes_out_in_full_have_a_limit(number: float) -> None:
    few, many = [number] * 200_000, [number] * 230_000
    assert json.loads(encode({"a": few})) == {"a": few}
    with pytest.raises(UnreadableValueError, match="written out"):
        encode({"a": many})


def test_text_that_looks_like_such_numbers_has_no_such_limit() -> None:
    text = "1e308," * 2_000_000
    assert json.loads(encode({"a": text})) == {"a": text}


# Depth.


@pytest.mark.parametrize(("opening", "closing"), [(b'{"a":', b"}"), (b"[", b"]")])
@pytest.mark.parametrize("innermost", [b"1", b"NaN", b'"\\u0000"', b"9" * 30, b"[]"])
def test_up_to_500_levels_are_read(opening: bytes, closing: bytes, innermost: bytes) -> None:
    levels = MAX_DEPTH - (innermost == b"[]")
    raw = nested(levels, innermost, opening, closing)
    value: Any = decoded(raw)
    assert json.dumps(decode_stored(encode(value))) == json.dumps(value)
    for _ in range(levels):
        value = next(iter(value.values())) if isinstance(value, dict) else value[0]
    assert value in (1, None, "\ufffd", int(b"9" * 30), [])


@pytest.mark.parametrize(("opening", "closing"), [(b'{"a":', b"}"), (b"[", b"]")])
@pytest.mark.parametrize("levels", [MAX_DEPTH + 1, 1_100, 100_000])
def test_more_levels_are_refused(opening: bytes, closing: bytes, levels: int) -> None:
    assert "nested deeper than 500 levels" in refusal(nested(levels, b"1", opening, closing))


def test_brackets_in_text_are_no_levels() -> None:
    text = "[{" * 1000 + '\\"[' * 1000 + "\\\\"
    assert decoded(f'{{"a": "{text}"}}') == {"a": json.loads(f'"{text}"')}


def test_many_levels_side_by_side_are_no_depth() -> None:
    raw = b'{"a": [%s {}]}' % (b"{}, [[]]," * 2000)
    assert len(decoded(raw)["a"]) == 4001


texts_of_marks = st.text(st.sampled_from('[]{}"\\:, aé\n')).map(lambda text: json.dumps(text).encode())


@given(st.integers(MAX_DEPTH - 2, MAX_DEPTH + 2), st.lists(texts_of_marks, min_size=1, max_size=20))
def test_levels_are_counted_whatever_text_stands_between_them(levels: int, texts: list[bytes]) -> None:
    raw = b"1"
    for level, text in zip(range(levels), cycle(texts), strict=False):
        wrapping = b"{%s: %s}" if level % 2 or level == levels - 1 else b"[%s, %s]"
        raw = wrapping % (text, raw)
    if levels <= MAX_DEPTH:
        assert decoded(raw) == json.loads(raw)
    else:
        assert "nested deeper than 500 levels" in refusal(raw)


@pytest.mark.parametrize(
    "raw",
    [b"[" * 100_000, nested(100_000), b'{"a": ' * 100_000, b'"\\' * 100_000 + b"[" * 600, b'"' * 100_001],
    ids=["lists", "objects", "unclosed", "escapes", "quotes"],
)
def test_what_is_nested_without_end_is_refused_in_milliseconds(raw: bytes) -> None:
    started = time.perf_counter()
    refusal(raw)
    assert time.perf_counter() - started < 0.25


def test_a_plan_that_is_deeper_than_any_payload_can_be_written() -> None:
    value: Any = {"big": 10**30}
    for _ in range(700):
        value = {"primaryInput": value}
    assert json.dumps(decode_stored(encode(value))) == json.dumps(value)
