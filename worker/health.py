"""What is wrong with this worker at present."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from time import monotonic


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that the worker cannot do now, and why. ``projection`` is None for the worker as a whole."""

    doing: str
    what: str
    since: datetime
    projection: str | None = None

    def __str__(self) -> str:
        return f"{self.doing}, since {self.since:%Y-%m-%d %H:%M:%S} UTC: {self.what}"


@dataclass(frozen=True, slots=True)
class Attempt:
    """Something under way, of a projection or, with None, of the worker as a whole."""

    doing: str
    projection: str | None
    since: float


class Health:
    """The problems of a worker. It is ready while it has none; it is alive all the same.

    What is being done names a problem: reported twice it is the same one, with the newer reason.
    ``retries`` counts what failed and was tried again, by projection and cause.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self.retries: Counter[tuple[str | None, str]] = Counter()
        self._problems: dict[tuple[str | None, str], Problem] = {}
        self._attempts: dict[int, Attempt] = {}
        self._clock = clock

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

    def begin(self, doing: str, projection: str | None = None) -> int:
        """Something is being tried that ends, well or not, before long; `end` takes what this gives."""
        attempt = Attempt(doing, projection, self._clock())
        self._attempts[id(attempt)] = attempt
        return id(attempt)

    def end(self, attempt: int) -> None:
        """It has ended."""
        del self._attempts[attempt]

    def stuck(self, limit: timedelta) -> list[str]:
        """What has been under way for longer than that, in a sentence each.

        A server that is away makes attempts fail, each within its timeouts, and so nothing stuck.
        """
        too_old = self._clock() - limit.total_seconds()
        return [
            f"{attempt.doing}{f' of {attempt.projection}' if attempt.projection else ''} has taken"
            f" {self._clock() - attempt.since:.0f} s and does not end."
            for attempt in self._attempts.values()
            if attempt.since < too_old
        ]
