"""What the status page shows, as data: a verdict, and how each projection stands and stood.

Nobody's payloads, no credentials, and no stream ids: these stay with whoever may ask the servers. A rebuild
is told of without its scope, since that may name streams, and conditions on rows hold values.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import astuple
from typing import Any

from worker.insight import Insight, Observed
from worker.replicas import ReplicaReport
from worker.status import as_dict

_LATE_SECONDS = 30.0


def overview(insight: Insight) -> dict[str, Any]:
    """All of it. Times are Unix seconds; ``history`` has `Moment`s as lists, the oldest first."""
    concerns = {name: list(_concerns(observed)) for name, observed in insight.observed.items()}
    problems = [str(problem) for problem in insight.health.problems()]
    return {
        "taken_at": time.time(),
        "ready": insight.health.ready,
        "problems": problems,
        "fine": not problems and not any(concerns.values()),
        "projections": [
            {
                "name": name,
                "version": observed.projection.version,
                "concerns": concerns[name],
                "lag_hints": observed.lag_hints,
                "status": _status(observed),
                "slowest": _slowest(observed),
                "history": [astuple(moment) for moment in observed.history],
            }
            for name, observed in insight.observed.items()
        ],
    }


def _slowest(observed: Observed) -> list[dict[str, Any]] | None:
    """How far behind the slowest streams are, of which none is named; None where that is not known."""
    if observed.slowest is None:
        return None
    return [
        {
            "standing": stream.standing,
            "lag_seconds": None if stream.lag_seconds is None else round(stream.lag_seconds, 1),
            "events": stream.waiting.events if stream.waiting else None,
            "counted": stream.waiting.counted if stream.waiting else None,
        }
        for stream in observed.slowest
    ]


def _status(observed: Observed) -> dict[str, Any] | None:
    """What both servers tell: None without Redis; without PostgreSQL its ``letters`` are None."""
    status = observed.status
    if status is None:
        return None
    told = as_dict(status, observed.history[-1].events_per_second if observed.history else None)
    told["lag_seconds"] = observed.lag_seconds
    if observed.in_database is None:
        told["letters"] = None
    if told["rebuild"]:
        del told["rebuild"]["scope"]
    return told


def _concerns(observed: Observed) -> Iterator[str]:
    """What somebody should look after, a sentence each; nothing where all is well."""
    yield from observed.trouble
    status = observed.status
    if status is None:
        if not observed.trouble:
            yield "Nothing is known yet."
        return
    if not status.replicas:
        yield "No replica is alive."
    yield from _not_ready(status.replicas)
    if status.letters.blocked:
        yield f"Blocked streams: {status.letters.blocked}. See `projection-worker dead-letters list`."
    if status.diverged:
        yield f"Diverged streams: {status.diverged}. See `projection-worker status --slowest 10`."
    if status.rows_drifted:
        yield f"Rows that drifted: {status.rows_drifted}. See `projection-worker verify`."
    late = observed.lag_seconds
    if late is not None and late > _LATE_SECONDS:
        yield f"The oldest event that waits is {late:,.0f} s old."


def _not_ready(replicas: Sequence[ReplicaReport]) -> Iterator[str]:
    """What replicas cannot do, each reason once: most of the time all suffer from the same."""
    suffering: dict[str, dict[str, None]] = {}
    for replica in replicas:
        for trouble in replica.troubles:
            _, _, why = trouble.partition(" UTC: ")  # after what is being done, and since when
            suffering.setdefault(why or trouble, {})[replica.consumer] = None
    for why, consumers in suffering.items():
        yield f"Not ready: {', '.join(consumers)}. {why}"
