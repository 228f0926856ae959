"""The shipped projection with one handler more, which always fails."""

from __future__ import annotations

from projections import strategies
from worker import Event, ProjectedRow


@strategies.on("poison")
def poison(row: ProjectedRow, event: Event) -> None:
    """Fail."""
    raise ZeroDivisionError
