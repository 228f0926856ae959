"""What changed between two states of a row: columns as a whole, and JSON columns by path. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, TypeAlias


class Absence(Enum):
    """In place of a value: there is none, not even null."""

    ABSENT = "absent"


ABSENT: Final = Absence.ABSENT

Path: TypeAlias = tuple[str | int, ...]
"""Keys of objects and indexes of arrays, from the outside in."""


@dataclass(frozen=True, slots=True)
class Change:
    """One change of a row. JSON is told by the ``path`` within its column; else that is empty.

    ``before`` or ``after`` is ABSENT where a key or an element was added or removed. An array is compared
    index by index: what was put in at its beginning changes everything after it.
    """

    column: str
    path: Path
    before: Any
    after: Any

    @property
    def place(self) -> str:
        """Column and path as people write them: ``plan.root.parameters[0]``."""
        return self.column + "".join(map(_step_text, self.path))


def _step_text(step: str | int) -> str:
    if isinstance(step, int):
        return f"[{step}]"
    return f".{step}" if step.isidentifier() else f"[{step!r}]"


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Change]:
    """The changes that make the one row the other; both have the same columns, JSON decoded."""
    for column, old in before.items():
        yield from _changes_of_column(column, old, after[column])


def _changes_of_column(column: str, before: Any, after: Any) -> Iterator[Change]:
    """Walk through both values without recursion: JSON may be nested deeper than Python can recurse."""
    waiting: list[tuple[Path, Any, Any]] = [((), before, after)]
    while waiting:
        path, old, new = waiting.pop()
        if isinstance(old, dict) and isinstance(new, dict):
            keys = [*old, *(key for key in new if key not in old)]
            inside = [((*path, key), old.get(key, ABSENT), new.get(key, ABSENT)) for key in keys]
        elif isinstance(old, list) and isinstance(new, list):
            inside = [((*path, at), _element(old, at), _element(new, at)) for at in range(_longer(old, new))]
        else:
            if not _same(old, new):
                yield Change(column, path, old, new)
            continue
        waiting += reversed(inside)


def _element(array: list[Any], at: int) -> Any:
    return array[at] if at < len(array) else ABSENT


def _longer(old: list[Any], new: list[Any]) -> int:
    return max(len(old), len(new))


def _same(old: Any, new: Any) -> bool:
    """Whether two values, not both objects or both arrays, are one: true is not 1, though Python says so."""
    return isinstance(old, bool) == isinstance(new, bool) and bool(old == new)
