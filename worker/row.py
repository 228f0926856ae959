"""Rows as handlers see them: one attribute for each folded column, and lists for facts and remarks.

A row's state between folds is a plain tuple, JSON columns as text, so that it can be cached, compared and
written without being decoded: most events touch no JSON column, and plans are large.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from worker.events import EventId
from worker.payload import decode_stored, encode

RowState = tuple[Any, ...]
"""Values in the order of the projection's columns; JSON columns as RawJson or None."""


class RawJson(NamedTuple):
    """A JSON value as text, not decoded yet."""

    text: str


class _Assigned(NamedTuple):
    """What a handler put into a JSON column: perhaps part of an event, which must not change with the row."""

    value: Any


@dataclass(frozen=True, slots=True)
class Remark:
    """Something about an event that operators should know of although it was applied: counted and logged."""

    event_id: EventId
    what: str
    reason: str


class Row:
    """Base of the row classes that `row_class` makes."""

    __slots__ = ("child_rows", "facts", "remarks")

    stored_in: ClassVar[Mapping[str, str]] = {}
    """Column to slot, in column order; a JSON column has a slot of another name behind its property."""

    children: ClassVar[Mapping[str, Callable[[], Any]]] = {}
    """What makes the attributes by which handlers write child rows, by their names."""

    def __init__(self, state: RowState) -> None:
        self.facts: list[Any] = []
        self.remarks: list[Remark] = []
        for slot, value in zip(self.stored_in.values(), state, strict=True):
            setattr(self, slot, value)
        self.child_rows = {name: make() for name, make in self.children.items()}

    def state(self) -> RowState:
        """The state to keep: what a handler assigned to or changed in a JSON column is encoded again."""
        return tuple(
            getattr(self, slot) if slot == column else _as_text(getattr(self, slot))
            for column, slot in self.stored_in.items()
        )


RESERVED_NAMES = frozenset(name for name in dir(Row) if not name.startswith("_"))
"""What no column can be named: ``row.facts`` and the like mean something else."""


def _as_text(value: Any) -> RawJson | None:
    if value is None or isinstance(value, RawJson):
        return value
    return RawJson(encode(value.value if isinstance(value, _Assigned) else value))


def _json_property(slot: str) -> property:
    """A column that is decoded when a handler first reads it; the row then owns the decoded value.

    So it is with a value that was assigned: who reads it, perhaps to change it, gets the row's own copy.
    """

    def read(row: Row) -> Any:
        value = getattr(row, slot)
        if isinstance(value, _Assigned):
            value = _as_text(value)
        if isinstance(value, RawJson):
            value = decode_stored(value.text)
            setattr(row, slot, value)
        return value

    def write(row: Row, value: Any) -> None:
        setattr(row, slot, value if value is None else _Assigned(value))

    return property(read, write)


def _children_property(name: str) -> property:
    """Child rows are written by their methods: what is assigned to them would be no child rows."""

    def read(row: Row) -> Any:
        return row.child_rows[name]

    def refuse(row: Row, value: Any) -> None:
        raise AttributeError(
            f"row.{name} are child rows, which cannot be assigned; write them with put, change, delete and "
            "clear"
        )

    return property(read, refuse)


def row_class(
    columns: Sequence[str],
    json_columns: Collection[str],
    children: Mapping[str, Callable[[], Any]] | None = None,
) -> type[Row]:
    """A class with exactly these columns and child rows: a handler that misspells one gets an
    AttributeError."""
    children = children or {}
    stored_in = {column: f"_{column}" if column in json_columns else column for column in columns}
    namespace: dict[str, Any] = {
        "__slots__": (*stored_in.values(),),
        "stored_in": stored_in,
        "children": children,
    }
    namespace.update({column: _json_property(stored_in[column]) for column in json_columns})
    namespace.update({name: _children_property(name) for name in children})
    return type("Row", (Row,), namespace)
