"""A line a minute for each projection: what this replica has done, and how far behind the projection is."""

from __future__ import annotations

from time import monotonic

import structlog

from worker.insight import Insight, Observed
from worker.service import Service

log = structlog.get_logger("worker")

_EVERY_SECONDS = 60.0


class LagLine:
    """Tells what the last look at the servers has found: the line costs them nothing."""

    def __init__(self, insight: Insight) -> None:
        self._insight = insight
        self._tell_at = 0.0

    def tell(self) -> None:
        """To be called after each look; says something once a minute."""
        if not self._insight.services or monotonic() < self._tell_at:
            return
        self._tell_at = monotonic() + _EVERY_SECONDS
        for name, service in self._insight.services.items():
            _tell(service, self._insight.observed[name])


def _tell(service: Service, observed: Observed) -> None:
    """None is what a server that is away did not tell."""
    seconds = observed.lag_seconds
    log.info(
        "progress",
        projection=observed.projection.name,
        lag_seconds=None if seconds is None else round(seconds, 3),
        lag_hints=observed.lag_hints,
        blocked=observed.in_database.letters.blocked if observed.in_database else None,
        diverged=observed.in_redis.diverged if observed.in_redis else None,
        **service.progress,
    )
