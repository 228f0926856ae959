"""What is answered over HTTP, path by path."""

from __future__ import annotations

from datetime import timedelta

from worker.health import Health
from worker.http import Answer, Routes

_STUCK_TIMES = 10
"""By how much what a stuck handler may take is exceeded by what waits for slow servers again and again."""


def make_routes(health: Health, stuck: timedelta) -> Routes:
    """All paths; ``stuck`` is what WORKER_STUCK_SECONDS says."""
    return {
        "/livez": lambda: _livez(health, stuck * _STUCK_TIMES),
        "/readyz": lambda: _readyz(health),
    }


def _livez(health: Health, limit: timedelta) -> Answer:
    """Whether the process should be left alone: a server that is away is no reason to start another one.

    That this is answered at all says that the loop turns, and that no task has died: one that does ends the
    worker.
    """
    stuck = health.stuck(limit)
    return Answer.text(503, *stuck) if stuck else Answer.text(200, "The worker is alive.")


def _readyz(health: Health) -> Answer:
    """Whether everything works that the worker is there for; and what does not, and since when."""
    if health.ready:
        return Answer.text(200, "The worker is ready.")
    return Answer.text(503, *map(str, health.problems()))
