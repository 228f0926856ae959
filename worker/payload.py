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
from typing import Any

import orjson

from worker.errors import ProjectionWorkerError, RejectedEventError

MAX_DEPTH = 500
MAX_WRITTEN_OUT_BYTES = 64 * 1024 * 1024

# orjson is fast and right except for what these find: it turns integers beyond 64 bits into floats, and
# escapes that spell NUL or a surrogate need a second look.
_NEEDS_CARE = re.compile(rb"\d{19}|\\u0000|\\u[dD][89a-fA-F]")
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
# A string, closed or not, so that no input makes the search start over and over.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_EXPONENT = re.compile(rb"[eE][+-]?(\d{2,3})")
_GROWS_AT_MOST = 62  # times, when PostgreSQL writes it out: [1e308,1e308,...]
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


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
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH and _nested_too_deeply(raw):
        raise UndecodablePayloadError(f"the data are nested deeper than {MAX_DEPTH} levels")
    value, mended = _decode(raw)
    if not isinstance(value, dict):
        raise UndecodablePayloadError("the data are JSON, but no JSON object")
    return value, mended


def _decode(raw: bytes) -> tuple[Any, int]:
    if not _NEEDS_CARE.search(raw):
        try:
            return orjson.loads(raw), 0
        except orjson.JSONDecodeError:
            pass  # NaN, Infinity and a few more that json reads; or no JSON at all.
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
    return _UNSTORABLE.sub("\ufffd", text) if _UNSTORABLE.search(text) else text


def _nested_too_deeply(raw: bytes) -> bool:
    """Whether JSON has more than MAX_DEPTH levels. What is told of other bytes does not matter."""
    depth = 0
    for bracket in _STRING.sub(b"", raw).translate(None, _NOT_BRACKETS):
        if bracket not in b"[{":
            depth -= 1
        elif depth == MAX_DEPTH:
            return True
        else:
            depth += 1
    return False


def decode_stored(text: str) -> Any:
    """Decode what PostgreSQL gave back for a jsonb value, or what `encode` made."""
    return json.loads(text) if _NEEDS_CARE.search(text.encode()) else orjson.loads(text)


def encode(value: Any) -> str:
    """The JSON text of a decoded value, as jsonb takes it.

    Raises UnreadableValueError where PostgreSQL would write it out to more than 64 MiB.
    """
    try:
        raw = orjson.dumps(value)
    except orjson.JSONEncodeError:  # integers beyond 64 bits
        raw = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
    if len(raw) * _GROWS_AT_MOST > MAX_WRITTEN_OUT_BYTES:
        _check_written_out(raw)
    return raw.decode("utf-8", "surrogatepass")


def _check_written_out(raw: bytes) -> None:
    exponents = _EXPONENT.findall(_STRING.sub(b"", raw))
    written_out = len(raw) + sum(map(int, exponents))
    if written_out > MAX_WRITTEN_OUT_BYTES:
        raise UnreadableValueError(
            f"its numbers, written out, would take {written_out} bytes, more than {MAX_WRITTEN_OUT_BYTES}"
        )
