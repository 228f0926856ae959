"""Places in the way of an event at which a test can make something happen, such as the process's death.

Nothing is armed in production; passing a point then costs a look into an empty dictionary.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum


class Point(StrEnum):
    """The points, in the order in which a batch passes them."""

    HINTS_READ = "hints_read"
    """Hints were delivered to this replica, and nothing was done yet."""
    ROWS_LOADED = "rows_loaded"
    LOGS_READ = "logs_read"
    FOLDED = "folded"
    """Everything is computed and nothing written."""
    ROWS_WRITTEN = "rows_written"
    """The statements of a transaction were executed, and it is not committed."""
    COMMITTED = "committed"
    """Rows and positions are committed; dead letters of streams that stop are not recorded yet."""
    PROJECTED = "projected"
    """The pass is over, and no hint acknowledged."""
    ACKNOWLEDGED = "acknowledged"


_armed: dict[Point, Callable[[], None]] = {}


def arm(point: Point, action: Callable[[], None]) -> None:
    """From now on do this whenever the point is passed. For tests."""
    _armed[point] = action


def disarm() -> None:
    """Let all points be passed again."""
    _armed.clear()


def reach(point: Point) -> None:
    """Pass a point."""
    if point in _armed:
        _armed[point]()
