"""Payloads: JSON objects on their way from a log's bytes to PostgreSQL's jsonb and back.

What jsonb and text cannot hold is replaced while decoding, so that nothing later has to think of it: NUL
characters and lone surrogates in text become U+FFFD; NaN and infinities become null. That is counted.
Integers of any size that Python reads stay exact.

PostgreSQL writes the numbers of jsonb out in full, 1e308 with all its 309 digits. A row full of them could be
written but hardly be read again, and is refused.
"""

from __future__ import annotations

import json
import re
from itertools import accumulate
from typing import Any

import orjson

from worker.errors import ProjectionWorkerError, RejectedEventError

MAX_DEPTH = 500
MAX_WRITTEN_OUT_BYTES = 64 * 1024 * 1024

# orjson is fast and right, but turns integers beyond 64 bits into floats; these have as many digits, or more.
_LONG_NUMBER = b"0" * 19
_AS_ZEROS = bytes(ord("0") if byte in b"0123456789" else 0 for byte in range(256))
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
# A string, closed or not, so that no input makes the search start over and over.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_EXPONENT = re.compile(rb"[eE][+-]?(\d{2,3})")
_GROWS_AT_MOST = 62  # times, when PostgreSQL writes it out: [1e308,1e308,...]
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_NOT_BRACKETS_OR_QUOTES = bytes(set(range(256)) - set(b'[]{}"'))
_UP_OR_DOWN = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")


class UndecodablePayloadError(ProjectionWorkerError):
    """The bytes are no JSON object that could be stored; the message is the reason."""


class UnreadableValueError(RejectedEventError, ValueError):
    """A value that PostgreSQL could store but would take too much to be read again."""


def decode_object(raw: bytes, max_bytes: int) -> tuple[dict[str, Any], int]:
    """Decode a payload, and tell how many values in it were replaced.

    Raises UndecodablePayloadError when it is no storable JSON object.
    """
    if len(raw) > max_bytes:
        raise UndecodablePayloadError(f"the data are {len(raw)} bytes long, more than {max_bytes}")
    value, mended = _decode(raw)
    if not isinstance(value, dict):
        raise UndecodablePayloadError("the data are JSON, but no JSON object")
    return value, mended


def _decode(raw: bytes) -> tuple[Any, int]:
    # orjson refuses NaN, infinities and lone surrogates, but takes NUL. A regex for it would cost more than
    # the decoding, and so would `in`, which tries whether bytes are a number first.
    if (raw.find(b"\\") < 0 or raw.find(b"\\u0000") < 0) and not _has_long_number(raw):
        try:
            value = orjson.loads(raw)
        except orjson.JSONDecodeError:
            pass
        else:
            if len(raw) > 2 * MAX_DEPTH:  # Nothing shorter opens and closes as many levels.
                _check_depth(raw)
            return value, 0
    return _decode_with_care(raw)


def _has_long_number(raw: bytes) -> bool:
    """Whether 19 digits stand in a row."""
    # If so, every sixth byte shows three of them in a row: most payloads need no second look.
    if raw[5::6].translate(_AS_ZEROS).find(b"000") < 0:
        return False
    return raw.translate(_AS_ZEROS).find(_LONG_NUMBER) >= 0


def _decode_with_care(raw: bytes) -> tuple[Any, int]:
    _check_depth(raw)
    mender = _Mender()
    try:
        value = json.loads(
            raw.decode("utf-8"), parse_constant=mender.no_number, parse_float=mender.finite_float
        )
    except (ValueError, RecursionError) as error:
        raise UndecodablePayloadError(f"the data are not JSON: {_reason(error)}") from None
    mender.make_storable(value)
    return value, mender.mended


def _reason(error: Exception) -> str:
    # The text of a decoding error may quote the data; only its kind and place are told.
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at character {error.pos}"
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 at byte {error.start}"
    return "a number has too many digits" if isinstance(error, ValueError) else "nested too deeply"


class _Mender:
    """Replaces what jsonb cannot hold, and counts the values."""

    def __init__(self) -> None:
        self.mended = 0

    def no_number(self, name: str) -> None:
        """Stand in for NaN and the infinities."""
        self.mended += 1

    def finite_float(self, text: str) -> float | None:
        """Read a number; 1e999 reads as infinity, and is none."""
        number = float(text)
        if number - number == 0:
            return number
        self.no_number(text)
        return None

    def make_storable(self, value: Any) -> None:
        """Mend all text, in place. A loop, since 500 levels would be too deep for recursion."""
        waiting = [value]
        while waiting:
            container = waiting.pop()
            if isinstance(container, dict):
                items = {self._mend(key): self._mend(item) for key, item in container.items()}
                container.clear()
                container.update(items)
                waiting += items.values()
            elif isinstance(container, list):
                container[:] = map(self._mend, container)
                waiting += container

    def _mend(self, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        storable = as_storable_text(value)
        self.mended += storable is not value
        return storable


def as_storable_text(text: str) -> str:
    """The text with U+FFFD in place of what PostgreSQL cannot hold; itself where that is nothing."""
    if text.isascii() and "\0" not in text:
        return text
    return _UNSTORABLE.sub("\ufffd", text) if _UNSTORABLE.search(text) else text


def copy_of(payload: dict[str, Any]) -> dict[str, Any]:
    """The same payload in objects of its own. A loop, since 500 levels would be too deep for recursion."""
    whole = payload.copy()
    waiting: list[Any] = [whole]
    while waiting:
        container = waiting.pop()
        for key, value in container.items() if isinstance(container, dict) else enumerate(container):
            if isinstance(value, dict | list):
                container[key] = copied = value.copy()
                waiting.append(copied)
    return whole


def _check_depth(raw: bytes) -> None:
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH and _nested_too_deeply(raw):
        raise UndecodablePayloadError(f"the data are nested deeper than {MAX_DEPTH} levels")


def _nested_too_deeply(raw: bytes) -> bool:
    """Whether JSON has more than MAX_DEPTH levels. What is told of other bytes does not matter."""
    without_escapes = raw.replace(b"\\\\", b"").replace(b'\\"', b"") if raw.find(b"\\") >= 0 else raw
    brackets = without_escapes.translate(None, _NOT_BRACKETS_OR_QUOTES).replace(b'""', b"")
    if brackets.find(b'"') >= 0:  # Some text holds brackets; to tell which, a regex is needed.
        brackets = _STRING.sub(b"", raw).translate(None, _NOT_BRACKETS)
    steps = memoryview(brackets.translate(_UP_OR_DOWN)).cast("b")
    return max(accumulate(steps), default=0) > MAX_DEPTH


def decode_stored(text: str) -> Any:
    """Decode what PostgreSQL gave back for a jsonb value, or what `encode` made."""
    raw = text.encode()
    if not _has_long_number(raw):
        try:
            return orjson.loads(raw)
        except orjson.JSONDecodeError:  # nested deeper than orjson goes
            pass
    return json.loads(text)


def encode(value: Any) -> str:
    """The JSON text of a decoded value, as jsonb takes it.

    What jsonb cannot hold, as handlers may find it in text that holds JSON, is replaced as in payloads.
    Raises UnreadableValueError where PostgreSQL would write it out to more than 64 MiB.
    """
    try:
        raw = orjson.dumps(value)
    except orjson.JSONEncodeError:  # integers beyond 64 bits, lone surrogates
        raw = _encode_with_care(value)
    else:
        if raw.find(b"\\u0000") >= 0:
            raw = _encode_with_care(value)
    if len(raw) * _GROWS_AT_MOST > MAX_WRITTEN_OUT_BYTES:
        _check_written_out(raw)
    return raw.decode()


def _encode_with_care(value: Any) -> bytes:
    mender = _Mender()
    plain = json.loads(json.dumps(value), parse_constant=mender.no_number)
    mender.make_storable(plain)
    return json.dumps(plain, ensure_ascii=False, separators=(",", ":")).encode()


def _check_written_out(raw: bytes) -> None:
    exponents = _EXPONENT.findall(_STRING.sub(b"", raw))
    written_out = len(raw) + sum(map(int, exponents))
    if written_out > MAX_WRITTEN_OUT_BYTES:
        raise UnreadableValueError(
            f"its numbers, written out, would take {written_out} bytes, more than {MAX_WRITTEN_OUT_BYTES}"
        )
