"""Which metrics there are, what each means, and where its value is known already when somebody asks.

Counters and histograms are this replica's since it started; what both servers were asked for every few
seconds is of the whole projection, and every replica tells the same of it. While a server is away, what only
it knows is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from worker.insight import Insight, Observed
from worker.measures import Distribution, Measures
from worker.replicas import ReplicaReport
from worker.service import Service
from worker.status import InDatabase, InRedis

PREFIX = "projection_worker_"
Value = float | Mapping[str, int] | Distribution | None


@dataclass(frozen=True, slots=True)
class Meaning:
    """A metric: what it is called after the prefix, what it is, and where its value comes from.

    A value of None is left out. With ``label`` the value is a number for each of that label.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    value: Callable[[Source], Value]
    label: str = ""

    @property
    def full_name(self) -> str:
        """As Prometheus knows it."""
        return PREFIX + self.name


@dataclass(frozen=True, slots=True)
class Source:
    """Where values of one projection come from. The service is None until its database is right."""

    insight: Insight
    observed: Observed
    service: Service | None
    report: ReplicaReport | None

    @property
    def name(self) -> str:
        return self.observed.projection.name

    @property
    def retries(self) -> dict[str, int]:
        """By cause, of this projection."""
        return {cause: n for (of, cause), n in self.insight.health.retries.items() if of == self.name}


def _counter(
    name: str,
    help_: str,
    value: Callable[[ReplicaReport], float],
    kind: Literal["counter", "gauge"] = "counter",
) -> Meaning:
    """What the replica's report has."""
    return Meaning(name, kind, help_, lambda of: value(of.report) if of.report else None)


def _measured(
    name: str,
    kind: Literal["counter", "histogram"],
    help_: str,
    value: Callable[[Measures], Value],
    label: str = "",
) -> Meaning:
    """What the projector has measured."""
    return Meaning(name, kind, help_, lambda of: value(of.service.measures) if of.service else None, label)


def _in_redis(name: str, help_: str, value: Callable[[InRedis], Value]) -> Meaning:
    return Meaning(
        name, "gauge", help_, lambda of: value(of.observed.in_redis) if of.observed.in_redis else None
    )


def _in_database(name: str, help_: str, value: Callable[[InDatabase], Value], label: str = "") -> Meaning:
    def known(of: Source) -> Value:
        return value(of.observed.in_database) if of.observed.in_database else None

    return Meaning(name, "gauge", help_, known, label)


METRICS = (
    Meaning(
        "ready",
        "gauge",
        "1 while everything works that this replica is there for, else 0.",
        lambda of: float(not of.insight.health.problems(of.name)),
    ),
    _measured(
        "events_read_total", "counter", "Events of projected types read from logs.", lambda m: m.events_read
    ),
    _counter("events_projected_total", "Events applied to rows and committed.", lambda r: r.events_applied),
    _measured(
        "events_skipped_total",
        "counter",
        "Events that moved their row's position and nothing else, by event type.",
        lambda m: m.events_skipped,
        label="type",
    ),
    _counter("events_redone_total", "Events applied by passes whose write lost.", lambda r: r.events_redone),
    _counter("handler_failures_total", "Times that a handler raised.", lambda r: r.handler_failures),
    _counter("rows_written_total", "Rows written and committed.", lambda r: r.rows_written),
    _counter(
        "comparisons_lost_total",
        "Writes that found their row moved, and were dropped.",
        lambda r: r.comparisons_lost,
    ),
    _measured("batch_streams", "histogram", "Streams in a batch.", lambda m: m.batch_streams),
    _measured(
        "batch_seconds",
        "histogram",
        "Duration of a batch, from loading to commit.",
        lambda m: m.batch_seconds,
    ),
    _measured(
        "commit_seconds",
        "histogram",
        "Duration of the writes of a part of a batch.",
        lambda m: m.commit_seconds,
    ),
    _measured(
        "latency_seconds",
        "histogram",
        "For each row written, from the id of the oldest event in the write to its commit.",
        lambda m: m.latency_seconds,
    ),
    _measured("cache_hits_total", "counter", "Streams whose row was in memory.", lambda m: m.cache_hits),
    _measured(
        "cache_misses_total", "counter", "Streams whose row had to be loaded.", lambda m: m.cache_misses
    ),
    Meaning(
        "retries_total",
        "counter",
        "Actions that failed and were tried again, by cause.",
        lambda of: of.retries,
        "cause",
    ),
    _counter("leases_held", "Feed partitions that this replica reads.", lambda r: len(r.partitions), "gauge"),
    _counter(
        "streams_pending", "Streams that wait or are in flight here.", lambda r: r.pending_streams, "gauge"
    ),
    Meaning(
        "sweep_streams_found_total",
        "counter",
        "Streams that this replica's sweeps found behind their log, without a hint in hand.",
        lambda of: of.service.sweep_streams_found if of.service else None,
    ),
    _counter(
        "rows_verified_total", "Rows that chance chose and that were verified.", lambda r: r.rows_verified
    ),
    _counter(
        "rows_drifted_total", "Those of them that were not what their log says.", lambda r: r.rows_drifted
    ),
    Meaning(
        "lag_hints", "gauge", "Hints that no replica has acknowledged yet.", lambda of: of.observed.lag_hints
    ),
    Meaning(
        "lag_seconds",
        "gauge",
        "Age of the oldest event that waits to be projected.",
        lambda of: of.observed.lag_seconds,
    ),
    _in_redis("replicas", "Live replicas.", lambda seen: len(seen.replicas)),
    _in_redis(
        "sweep_finished_timestamp_seconds",
        "When the last sweep ended, in Unix seconds; 0 if none did within ten minutes.",
        lambda seen: seen.sweep.finished_at if seen.sweep else 0,
    ),
    _in_redis(
        "streams_diverged",
        "Streams whose log no longer holds their row's position.",
        lambda seen: seen.diverged,
    ),
    _in_database(
        "streams_blocked", "Streams that stand before a dead letter.", lambda seen: seen.letters.blocked
    ),
    _in_database(
        "dead_letters",
        "Events that stop their stream or were passed over, by reason.",
        lambda seen: seen.letters.by_reason,
        label="reason",
    ),
    _in_database(
        "rebuild_rows_done",
        "Rows that the rebuild under way is done with.",
        lambda s: s.rebuild.done if s.rebuild else 0,
    ),
    _in_database(
        "rebuild_rows",
        "Rows of the rebuild under way; 0 while there is none.",
        lambda seen: seen.rebuild.streams if seen.rebuild else 0,
    ),
)
"""Every metric that is ours."""
