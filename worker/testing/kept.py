"""What PostgreSQL would hold of one stream, in memory, and how two of these differ."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any

from worker.children import DELETED, ChildRows, Key
from worker.difference import Columns, child_differences, differences
from worker.fold import Folded
from worker.payload import decode_stored, encode
from worker.projection import Projection
from worker.row import RawJson, RowState

_TEXTS = 4_096


@dataclass(frozen=True, slots=True)
class Kept:
    """A row, all its child rows, and what its handlers told the projection's rule."""

    state: RowState
    children: Mapping[str, Mapping[Key, Columns]]
    facts: tuple[Any, ...] = ()

    def followed_by(self, folded: Folded, *, stored: bool = True) -> Kept:
        """What is held after a fold that began with this state.

        ``stored`` says that all JSON goes to the database and comes back; it else stays as handlers left it.
        """
        state = folded.state
        if stored:
            state = tuple(map(_as_stored, state))
        children = dict(self.children)
        for name, rows in folded.children.items():
            children[name] = _written(children.get(name, {}), rows, stored=stored)
        return Kept(state, {name: rows for name, rows in children.items() if rows}, self.facts + folded.facts)

    def columns(self, projection: Projection) -> dict[str, Any]:
        """The row as readers see it, with the columns that the rule computes, were there no other stream."""
        seen = {column: _plain(value) for column, value in zip(projection.columns, self.state, strict=True)}
        if projection.rule:
            seen.update(projection.rule.settle({"stream": self.facts}).get("stream", {}))
        return seen

    def rows(self, projection: Projection, name: str) -> dict[Key, dict[str, Any]]:
        """All child rows of that name as readers see them."""
        columns = projection.children[name].columns
        return {
            key: {column: _plain(row[column]) for column in columns}
            for key, row in self.children.get(name, {}).items()
        }


def nothing_kept(projection: Projection) -> Kept:
    """What is held before any event."""
    return Kept(projection.new_state, {})


def told_differences(projection: Projection, expected: Kept, found: Kept) -> Iterator[str]:
    """Every value in which they differ, in words."""
    if expected == found:
        return
    rows = [dict(zip(projection.columns, kept.state, strict=True)) for kept in (expected, found)]
    for difference in differences("", rows[0], rows[1]):
        yield told(difference.column, _plain(difference.expected), _plain(difference.stored))
    for name in projection.children:
        of_both = [kept.children.get(name, {}) for kept in (expected, found)]
        for difference in child_differences("", name, of_both[0], of_both[1]):
            yield told(difference.column, _plain(difference.expected), _plain(difference.stored))
    if expected.facts != found.facts:
        yield told("facts", expected.facts, found.facts)


def told(what: str, expected: object, found: object) -> str:
    """A line that says how a value differs."""
    return f"{what}: expected {expected!r}, found {found!r}"


def _written(before: Mapping[Key, Columns], done: ChildRows, *, stored: bool) -> dict[Key, Columns]:
    rows: dict[Key, Columns] = {} if done.cleared else dict(before)
    for key, write in done.writes.items():
        if write is DELETED:
            rows.pop(key, None)
            continue
        values = {c: _as_stored(v) if stored else v for c, v in write.values.items()}
        if write.whole:
            rows[key] = values
        elif key in rows:
            rows[key] = {**rows[key], **values}
    return rows


def _plain(value: Any) -> Any:
    return decode_stored(value.text) if isinstance(value, RawJson) else value


def _as_stored(value: Any) -> Any:
    return RawJson(_text_as_stored(value.text)) if isinstance(value, RawJson) else value


@lru_cache(_TEXTS)
def _text_as_stored(text: str) -> str:
    """JSON as jsonb gives it back: keys in its own order, and no exponents."""
    return encode(_in_order(json.loads(text, parse_float=_number)))


def _number(text: str) -> int | float:
    number = Decimal(text)
    return int(number) if "e" in text.lower() and number == number.to_integral_value() else float(text)


def _in_order(value: Any) -> Any:
    if isinstance(value, dict):
        keys = sorted(value, key=lambda key: (len(key.encode()), key.encode()))
        return {key: _in_order(value[key]) for key in keys}
    return [_in_order(item) for item in value] if isinstance(value, list) else value
