"""How the reference reads an entry of a log: its order, its time, its type and its payload."""

import json
import math
import re
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

Entry: TypeAlias = tuple[str, dict[bytes, bytes]]
"""An entry as Redis keeps it: the event id as text, and the raw fields."""

PAYLOAD_LIMIT = 16 * 1024 * 1024
NESTING_LIMIT = 500

_UNSTORABLE_CHARACTER = re.compile("[\x00\ud800-\udfff]")


def numerically(event_id: str) -> tuple[int, int]:
    """The two numbers of an event id; they compare as numbers, where text would not (5-10 is after 5-9)."""
    milliseconds, sequence = event_id.split("-")
    return int(milliseconds), int(sequence)


def time_of(event_id: str) -> datetime | None:
    """The time in an event id, or None if it lies after the year 9999."""
    milliseconds, _ = numerically(event_id)
    try:
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds)
    except OverflowError:
        return None


def type_of(fields: dict[bytes, bytes]) -> str | None:
    """The event type, or None if it is missing or not UTF-8."""
    try:
        return fields[b"type"].decode("utf-8")
    except (KeyError, UnicodeDecodeError):
        return None


def json_object(data: bytes | str | None) -> dict[str, Any] | None:
    """The JSON object that some data holds, exactly as the log has it, or None if there is none in it."""
    try:
        text = data.decode("utf-8") if isinstance(data, bytes) else data
        value = json.loads(text) if text is not None else None
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def storable_object(data: bytes | None, payload_limit: int = PAYLOAD_LIMIT) -> dict[str, Any] | None:
    """The payload of a projected event as it is stored, or None if the event can never be applied.

    NaN and infinite numbers have become null, NUL characters and lone surrogates U+FFFD.
    """
    if data is None or len(data) > payload_limit:
        return None
    try:
        text = data.decode("utf-8")
        payload = json.loads(text, parse_constant=lambda _: None, parse_float=_finite_or_null)
    except (ValueError, RecursionError):
        return None
    if not isinstance(payload, dict) or nesting(payload) > NESTING_LIMIT:
        return None
    _replace_unstorable_characters(payload)
    return payload


def nesting(payload: dict[str, Any]) -> int:
    """How many objects and lists lie inside one another at the deepest place, the payload being the first."""
    levels = 0
    containers: list[Any] = [payload]
    while containers:
        levels += 1
        values = [value for container in containers for value in _values(container)]
        containers = [value for value in values if isinstance(value, dict | list)]
    return levels


def _values(container: Any) -> list[Any]:
    return list(container.values()) if isinstance(container, dict) else container


def _finite_or_null(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


def _replace_unstorable_characters(payload: dict[str, Any]) -> None:
    """Clean all text of a payload in place, keys included, without recursion."""
    containers: list[Any] = [payload]
    while containers:
        container = containers.pop()
        if isinstance(container, dict):
            cleaned = {_clean(key): _clean(value) for key, value in container.items()}
            container.clear()
            container.update(cleaned)
        else:
            container[:] = [_clean(value) for value in container]
        containers += [value for value in _values(container) if isinstance(value, dict | list)]


def _clean(value: Any) -> Any:
    return _UNSTORABLE_CHARACTER.sub("\ufffd", value) if isinstance(value, str) else value
