"""Changes of a row applied again, as whoever reads a history would."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from typing import Any

from worker.changes import ABSENT, Change


def applied(row: Mapping[str, Any], changes: Iterable[Change]) -> dict[str, Any]:
    """The row after these changes, each of which must find what it says was there before."""
    result = deepcopy(dict(row))
    told = list(changes)
    # What is cut from the end of an array is told from its first element on.
    kept = [change for change in told if change.after is not ABSENT]
    for change in kept + [change for change in reversed(told) if change.after is ABSENT]:
        place: Any = result
        *way, last = (change.column, *change.path)
        for step in way:
            place = place[step]
        if change.before is ABSENT:
            assert last not in place if isinstance(place, dict) else last == len(place)
        else:
            assert place[last] == change.before
        if change.after is ABSENT:
            del place[last]
        elif isinstance(place, list) and last == len(place):
            place.append(deepcopy(change.after))
        else:
            place[last] = deepcopy(change.after)
    return result
