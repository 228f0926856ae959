"""Metrics of a real worker: what happened is what they say."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from prometheus_client.parser import text_string_to_metric_families
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.servers import RunningServers
from tests.tallies import tallies
from tests.waiting import wait_until
from tests.writes import create_tallies
from worker import Keys, emit
from worker import insight as insight_of
from worker.exposition import Metrics
from worker.health import Health
from worker.insight import Insight
from worker.measures import Distribution
from worker.metrics import METRICS
from worker.running import work
from worker.settings import Settings

SECRET_STREAM = "stream-whose-name-is-nobodys-business"


class Watched:
    """A worker, and its metrics as Prometheus would have them after the next scrape."""

    def __init__(self, insight: Insight, redis: Redis, keys: Keys) -> None:
        self.insight, self.redis, self.keys = insight, redis, keys
        self._metrics = Metrics(insight)

    @property
    def text(self) -> str:
        return self._metrics.text().decode()

    def value(self, name: str, **labels: str) -> float | None:
        wanted = {"projection": "tallies", **labels}
        for family in text_string_to_metric_families(self.text):
            for sample in family.samples:
                if sample.name == f"projection_worker_{name}" and sample.labels == wanted:
                    return sample.value
        return None

    async def emit(self, stream_id: str, event_type: str, data: dict[str, int] | None = None) -> None:
        await emit(self.redis, stream_id, "", event_type, data or {}, keys=self.keys)

    async def reach(self, name: str, value: float, **labels: str) -> None:
        await wait_until(lambda: self.value(name, **labels) == value, f"{name} {labels} to be {value}")


@pytest.fixture
async def watched(
    servers: RunningServers, database_url: str, keys: Keys, engine: AsyncEngine, redis: Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Watched]:  # fmt: skip
    monkeypatch.setattr(insight_of, "LOOK_EVERY_SECONDS", 0.1)
    await create_tallies(engine)
    settings = Settings(
        redis_url=servers.redis_url, database_url=database_url, key_prefix=keys.prefix, linger_ms=0
    )
    stop, insight = asyncio.Event(), Insight(Health(), [tallies()])
    running = asyncio.create_task(work(settings, [tallies()], insight.health, stop, insight))
    watched = Watched(insight, redis, keys)
    try:
        await watched.reach("ready", 1)
        await watched.reach("leases_held", 8)
        yield watched
    finally:
        stop.set()
        await running


async def test_what_happens_to_events_is_counted_and_measured(watched: Watched) -> None:
    for number in range(3):
        await watched.emit("a", "add", {"n": number})
    await watched.emit("b", "add", {"n": 1})
    await watched.reach("events_projected_total", 4)
    await watched.emit(SECRET_STREAM, "fail")
    await watched.reach("streams_blocked", 1)
    await watched.reach("dead_letters", 1, reason="handler_failed")
    assert (watched.value("events_read_total") or 0) >= 5
    assert watched.value("handler_failures_total") == 1
    assert watched.value("latency_seconds_count") == watched.value("rows_written_total")
    assert watched.value("latency_seconds_bucket", le="+Inf") == watched.value("latency_seconds_count")
    sum_ = watched.value("latency_seconds_sum")
    assert sum_ is not None
    assert 0 < sum_ < 10
    assert watched.value("batch_streams_count") == watched.value("batch_seconds_count")
    assert watched.value("commit_seconds_count")
    await watched.reach("replicas", 1)
    assert SECRET_STREAM not in watched.text


async def test_lag_is_told_while_nobody_projects(watched: Watched, engine: AsyncEngine) -> None:
    await watched.reach("lag_hints", 0)
    async with engine.begin() as other:
        await other.exec_driver_sql("LOCK TABLE tallies IN ACCESS EXCLUSIVE MODE")
        await watched.emit("a", "add", {"n": 1})
        await watched.reach("lag_hints", 1)
        await wait_until(lambda: (watched.value("lag_seconds") or 0) > 0.5, "lag to grow")
        assert watched.value("streams_pending") == 1
    await watched.reach("lag_hints", 0)


async def test_when_the_last_sweep_ended_is_told_until_nobody_knows(watched: Watched) -> None:
    before = time.time()
    await wait_until(
        lambda: (watched.value("sweep_finished_timestamp_seconds") or 0) > before - 60,
        "a sweep to be told of",
    )
    report = watched.keys.sweep_report("tallies")

    async def forgotten() -> bool:
        await watched.redis.delete(report)  # as when it is too old
        return watched.value("sweep_finished_timestamp_seconds") == 0

    await wait_until(forgotten, "the sweep to be forgotten")


async def test_every_metric_is_there_with_its_help(watched: Watched) -> None:
    await watched.reach("streams_diverged", 0)
    await watched.reach("streams_blocked", 0)
    for metric in METRICS:
        assert f"# HELP {metric.full_name} {metric.help}\n" in watched.text
    for family in text_string_to_metric_families(watched.text):
        if family.name.startswith("projection_worker_"):
            assert all(sample.labels["projection"] == "tallies" for sample in family.samples)


async def test_two_workers_in_one_process_have_metrics_of_their_own(watched: Watched) -> None:
    await watched.emit("a", "add", {"n": 1})
    await watched.reach("events_projected_total", 1)
    other = Watched(Insight(Health(), [tallies()]), watched.redis, watched.keys)
    assert other.value("events_projected_total") is None
    assert other.value("ready") == 1


def test_a_value_falls_into_the_first_class_that_holds_it() -> None:
    distribution = Distribution((1, 5))
    for value in (0, 1, 1.5, 5, 6):
        distribution.add(value)
    assert (distribution.counts, distribution.total) == ([2, 2, 1], 13.5)
