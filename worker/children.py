"""Child rows: a projection's other tables, in which a stream has many rows, each under a key of its own.

Handlers write them and never read them: a conversation may have a hundred thousand messages, and a fold
must not need them all. What a handler has to know of them it keeps in the row's own columns. Nothing here
does I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Table

from worker.payload import encode
from worker.row import RawJson

Key = str | int
"""What a child row is told by among those of its stream."""

_ROW_BYTES = 100  # A row without its text, measured roughly.


@dataclass(frozen=True)
class ChildTable:
    """A table of child rows as its author declares it.

    ``columns`` are those that handlers write, without stream id and key; ``defaults`` are their values in a
    new row. Those that are in neither ``defaults`` nor nullable must be given.
    """

    name: str
    table: Table
    key: str
    key_type: type[str] | type[int]
    columns: tuple[str, ...]
    json_columns: frozenset[str]
    defaults: Mapping[str, Any]

    def whole(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """All columns of a new row. Raises TypeError for columns that there are not, or that lack."""
        values = {**self.defaults, **self.stored(given)}
        if missing := [column for column in self.columns if column not in values]:
            raise TypeError(f"{self.name}.put() needs {', '.join(missing)}")
        return values

    def stored(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Values as they are stored: JSON as text, so that what a handler changes later stays out of it."""
        if unknown := given.keys() - set(self.columns):
            raise TypeError(f"{self.table.name} has no column {', '.join(sorted(unknown))} to write")
        return {
            column: RawJson(encode(value)) if column in self.json_columns and value is not None else value
            for column, value in given.items()
        }


@dataclass(frozen=True, slots=True)
class ChildWrite:
    """What is to become of one child row: ``whole`` says that ``values`` are all its columns.

    Otherwise they are those that change, and there is nothing to do where there is no such row.
    """

    values: Mapping[str, Any]
    whole: bool


DELETED: Final = None
"""In place of a write: the row is to go."""


@dataclass(slots=True)
class ChildRows:
    """What a handler does to the child rows of its stream, and what it comes to in the end.

    ``cleared`` says that all rows that there were are to go; ``writes`` then hold all rows that there are.
    The same events in other batches come to the same: what is kept is the effect of the calls, in order.
    """

    table: ChildTable
    cleared: bool = False
    writes: dict[Key, ChildWrite | None] = field(default_factory=dict)

    def put(self, key: Key, /, **columns: Any) -> None:
        """Insert a row, or replace the one of this key: columns that are not given get their default."""
        self._check_key(key)
        self.writes[key] = ChildWrite(self.table.whole(columns), whole=True)

    def change(self, key: Key, /, **columns: Any) -> None:
        """Change columns of a row; where there is no row of this key, nothing happens."""
        self._check_key(key)
        self._change(key, self.table.stored(columns))

    def delete(self, key: Key) -> None:
        """Delete a row, if there is one of this key."""
        self._check_key(key)
        self._delete(key)

    def clear(self) -> None:
        """Delete all rows of the stream."""
        self.cleared = True
        self.writes.clear()

    def _check_key(self, key: Key) -> None:
        if type(key) is not self.table.key_type:
            wanted = self.table.key_type.__name__
            raise TypeError(f"keys of {self.table.table.name} are {wanted}, not {type(key).__name__}")

    def _change(self, key: Key, values: Mapping[str, Any]) -> None:
        if key in self.writes:
            before = self.writes[key]
            if before is not DELETED:
                self.writes[key] = ChildWrite({**before.values, **values}, before.whole)
        elif not self.cleared and values:
            self.writes[key] = ChildWrite(values, whole=False)

    def _delete(self, key: Key) -> None:
        if self.cleared:
            self.writes.pop(key, None)
        else:
            self.writes[key] = DELETED

    def follow(self, later: ChildRows) -> None:
        """Take in what later events did."""
        if later.cleared:
            self.clear()
        for key, write in later.writes.items():
            if write is DELETED:
                self._delete(key)
            elif write.whole:
                self.writes[key] = write
            else:
                self._change(key, write.values)

    def copy(self) -> ChildRows:
        """One that goes its own way from now on."""
        return ChildRows(self.table, self.cleared, dict(self.writes))

    @property
    def rows(self) -> dict[Key, Mapping[str, Any]]:
        """All rows of the stream, given that there were none before."""
        return {
            key: write.values for key, write in self.writes.items() if write is not DELETED and write.whole
        }

    @property
    def bytes(self) -> int:
        """About how many bytes of text are to be written."""
        return sum(
            bytes_of(write.values) if write is not DELETED else _ROW_BYTES for write in self.writes.values()
        )

    def __bool__(self) -> bool:
        return self.cleared or bool(self.writes)


AllChildRows = Mapping[str, ChildRows]
"""By the name that the projection gives them; those to which nothing was done are left out."""


def followed(earlier: AllChildRows, later: AllChildRows) -> AllChildRows:
    """What both come to, one after the other. Changes neither."""
    if not later:
        return earlier
    both = {name: rows.copy() for name, rows in earlier.items()}
    for name, rows in later.items():
        if name in both:
            both[name].follow(rows)
        else:
            both[name] = rows
    return both


def bytes_of(values: Mapping[str, Any]) -> int:
    """About how many bytes of text a row with these values is."""
    return _ROW_BYTES + sum(map(_bytes, values.values()))


def _bytes(value: Any) -> int:
    return (
        len(value.text) if isinstance(value, RawJson) else len(value) if isinstance(value, str | bytes) else 8
    )
