"""How two rows differ, column by column. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from worker.row import RawJson

Columns = Mapping[str, Any]
"""Values by column, JSON columns as RawJson."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One wrong value: what the log says and what the table says.

    ``column`` may also name facts that a cross-stream rule keeps elsewhere, such as ``claims``.
    ``first_event`` is the event after which they differ, None where that cannot be told.
    """

    stream_id: str
    column: str
    expected: Any
    stored: Any
    first_event: str | None = None


def differences(stream_id: str, expected: Columns, stored: Columns) -> Iterator[Difference]:
    """The columns in which two rows differ; of ``stored`` those that ``expected`` has are looked at."""
    for column, value in expected.items():
        if not equal(value, stored[column]):
            yield Difference(stream_id, column, value, stored[column])


def equal(one: Any, other: Any) -> bool:
    """Whether two values of a column are the same to PostgreSQL; JSON is compared by value."""
    return one == other or bool(_comparable(one) == _comparable(other))


@dataclass(frozen=True, slots=True)
class _Number:
    """A number in a JSON value as jsonb holds it: a decimal of any size; never equal to true or false."""

    value: Decimal


def _comparable(value: Any) -> Any:
    """JSON decoded, with numbers as decimals: 1e23 and 100000000000000000000000 are one number to jsonb."""
    if not isinstance(value, RawJson):
        return value
    return json.loads(
        value.text,
        parse_int=lambda text: _Number(Decimal(text)),
        parse_float=lambda text: _Number(Decimal(text)),
    )


def excerpts(difference: Difference, length: int) -> tuple[str, str]:
    """Both values as text of at most ``length`` characters, beginning shortly before they differ."""
    texts = [_text(difference.expected), _text(difference.stored)]
    same = next((at for at, (a, b) in enumerate(zip(*texts, strict=False)) if a != b), min(map(len, texts)))
    start = max(0, same - length // 3) if max(map(len, texts)) > length else 0
    cut = [text[start:] for text in texts]
    shortened = [text if len(text) <= length else f"{text[: length - 1]}…" for text in cut]
    first, second = (f"…{text[1:]}" if start and text else text for text in shortened)
    return first, second


def _text(value: Any) -> str:
    """A value for people to read; objects in one order, so that two of them can be told apart."""
    if isinstance(value, RawJson):
        value = json.loads(value.text)
    elif not isinstance(value, list | dict):
        return "null" if value is None else str(value)
    return json.dumps(value, ensure_ascii=False, sort_keys=True)
