"""How two rows differ, column by column. Pure."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, NamedTuple

from worker.row import RawJson

Columns = Mapping[str, Any]
"""Values by column, JSON columns as RawJson."""

_MOST_CHILD_ROWS = 20


class ChildPlace(NamedTuple):
    """A column of a child row, None for all of it.

    ``rows`` is the name that the projection gives the rows of this table.
    """

    rows: str
    key: str | int
    column: str | None


@dataclass(frozen=True, slots=True)
class Difference:
    """One wrong value: what the log says and what the table says.

    ``column`` may also name facts that a cross-stream rule keeps elsewhere, such as ``claims``.
    ``first_event`` is the event after which they differ, None where that cannot be told. ``child`` is the
    place among child rows, if it is there that they differ; ``column`` then spells it.
    """

    stream_id: str
    column: str
    expected: Any
    stored: Any
    first_event: str | None = None
    child: ChildPlace | None = None


def differences(stream_id: str, expected: Columns, stored: Columns) -> Iterator[Difference]:
    """The columns in which two rows differ; of ``stored`` those that ``expected`` has are looked at."""
    for column, value in expected.items():
        if not equal(value, stored[column]):
            yield Difference(stream_id, column, value, stored[column])


def child_differences(
    stream_id: str,
    rows: str,
    expected: Mapping[str | int, Columns],
    stored: Mapping[str | int, Columns],
) -> Iterator[Difference]:
    """How child rows of one table differ. A row that lacks is None."""
    for key in {**expected, **stored}:
        name = f"{rows}[{key}]"
        if key in expected and key in stored:
            for found in differences(stream_id, expected[key], stored[key]):
                place = ChildPlace(rows, key, found.column)
                yield replace(found, column=f"{name}.{found.column}", child=place)
        else:
            place = ChildPlace(rows, key, None)
            yield Difference(stream_id, name, _plain(expected.get(key)), _plain(stored.get(key)), child=place)


def few_child_rows(found: Iterable[Difference]) -> Iterator[Difference]:
    """The same without those of further child rows of a table, where many of its rows differ."""
    told: dict[str, set[str | int]] = defaultdict(set)
    for difference in found:
        if difference.child:
            keys = told[difference.child.rows]
            if difference.child.key not in keys and len(keys) == _MOST_CHILD_ROWS:
                continue
            keys.add(difference.child.key)
        yield difference


def _plain(row: Columns | None) -> dict[str, Any] | None:
    """A whole row as one value for people to read."""
    if row is None:
        return None
    return {c: json.loads(v.text) if isinstance(v, RawJson) else v for c, v in row.items()}


def equal(one: Any, other: Any) -> bool:
    """Whether two values of a column are the same to PostgreSQL: JSON by its value, and NaN is NaN."""
    if one == other or bool(_comparable(one) == _comparable(other)):
        return True
    return bool(one != one and other != other)


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
    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)
