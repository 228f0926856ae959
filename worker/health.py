"""What is wrong with this worker at present."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that the worker cannot do now, and why. ``projection`` is None for the worker as a whole."""

    doing: str
    what: str
    since: datetime
    projection: str | None = None

    def __str__(self) -> str:
        return f"{self.doing}, since {self.since:%Y-%m-%d %H:%M:%S} UTC: {self.what}"


class Health:
    """The problems of a worker. It is ready while it has none; it is alive all the same.

    What is being done names a problem: reported twice it is the same one, with the newer reason.
    """

    def __init__(self) -> None:
        self._problems: dict[tuple[str | None, str], Problem] = {}

    @property
    def ready(self) -> bool:
        """Whether everything works that the worker is there for."""
        return not self._problems

    def report(self, doing: str, what: str, projection: str | None = None) -> None:
        """Something fails."""
        known = self._problems.get((projection, doing))
        since = known.since if known else datetime.now(UTC)
        self._problems[projection, doing] = Problem(doing, what, since, projection)

    def over(self, doing: str, projection: str | None = None) -> None:
        """It works; harmless if it did all the time."""
        self._problems.pop((projection, doing), None)

    def problems(self, projection: str | None = None) -> list[Problem]:
        """All problems, or those of the worker as a whole and of one projection; the oldest first."""
        problems = sorted(self._problems.values(), key=lambda problem: problem.since)
        return [p for p in problems if projection is None or p.projection in (None, projection)]
