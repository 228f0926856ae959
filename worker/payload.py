"""Payloads: JSON objects on their way from a log's bytes to PostgreSQL's jsonb and back.

What jsonb and text cannot hold is replaced while decoding, so that nothing later has to think of it: NUL
characters and lone surrogates in text become U+FFFD; NaN and infinities become null. Integers of any size
that Python reads stay exact.
"""

from __future__ import annotations

import json
import re
from typing import Any

import orjson

from worker.errors import ProjectionWorkerError

MAX_DEPTH = 500

# orjson is fast and right except for what these find: it turns integers beyond 64 bits into floats, and
# escapes that spell NUL or a surrogate need a second look.
_NEEDS_CARE = re.compile(rb"\d{19}|\\u0000|\\u[dD][89a-fA-F]")
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
# A string, closed or not, so that no input makes the search start over and over.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


class UndecodablePayloadError(ProjectionWorkerError):
    """The bytes are no JSON object that could be stored; the message is the reason."""


def decode_object(raw: bytes, max_bytes: int) -> dict[str, Any]:
    """Decode a payload. Raises UndecodablePayloadError when it is no storable JSON object."""
    if len(raw) > max_bytes:
        raise UndecodablePayloadError(f"the data are {len(raw)} bytes long, more than {max_bytes}")
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH and _nested_too_deeply(raw):
        raise UndecodablePayloadError(f"the data are nested deeper than {MAX_DEPTH} levels")
    value = _decode(raw)
    if not isinstance(value, dict):
        raise UndecodablePayloadError("the data are JSON, but no JSON object")
    return value


def _decode(raw: bytes) -> Any:
    if not _NEEDS_CARE.search(raw):
        try:
            return orjson.loads(raw)
        except orjson.JSONDecodeError:
            pass  # NaN, Infinity and a few more that json reads; or no JSON at all.
    try:
        value = json.loads(raw.decode("utf-8"), parse_constant=lambda name: None, parse_float=_finite_float)
    except (ValueError, RecursionError) as error:
        raise UndecodablePayloadError(f"the data are not JSON: {_reason(error)}") from None
    _make_storable(value)
    return value


def _reason(error: Exception) -> str:
    # The text of a decoding error may quote the data; only its kind and place are told.
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at character {error.pos}"
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 at byte {error.start}"
    return "a number has too many digits" if isinstance(error, ValueError) else "nested too deeply"


def _finite_float(text: str) -> float | None:
    number = float(text)
    return number if number - number == 0 else None  # 1e999 reads as infinity


def _make_storable(value: Any) -> None:
    """Replace, in place, what jsonb cannot hold. A loop, since 500 levels would be too deep for recursion."""
    waiting = [value]
    while waiting:
        container = waiting.pop()
        if isinstance(container, dict):
            items = {_replaced(key): _replaced(item) for key, item in container.items()}
            container.clear()
            container.update(items)
            waiting += items.values()
        elif isinstance(container, list):
            container[:] = map(_replaced, container)
            waiting += container


def _replaced(value: Any) -> Any:
    return _UNSTORABLE.sub("\ufffd", value) if isinstance(value, str) else value


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
    """The JSON text of a decoded value, as jsonb takes it."""
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError:  # integers beyond 64 bits
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
