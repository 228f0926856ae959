"""The line once a minute: how far behind a projection is, also where nobody can ask over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine
from structlog.testing import capture_logs

from tests.servers import RunningServers
from tests.tallies import tallies
from tests.waiting import wait_until
from tests.writes import create_tallies
from worker import Keys, emit
from worker import insight as insight_of
from worker.health import Health
from worker.insight import Insight
from worker.running import work
from worker.settings import Settings

Lines = list[MutableMapping[str, Any]]


@pytest.fixture
def settings(servers: RunningServers, database_url: str, keys: Keys) -> Settings:
    return Settings(
        redis_url=servers.redis_url, database_url=database_url, key_prefix=keys.prefix, linger_ms=0
    )


@asynccontextmanager
async def worker(settings: Settings, engine: AsyncEngine) -> AsyncIterator[tuple[Insight, Lines]]:
    """A worker under way, what it knows and what it logs."""
    await create_tallies(engine)
    stop, insight = asyncio.Event(), Insight(Health(), [tallies()])
    with capture_logs() as lines:
        running = asyncio.create_task(work(settings, [tallies()], insight.health, stop, insight))
        try:
            yield insight, lines
        finally:
            stop.set()
            await running


def told(lines: Lines, **values: object) -> bool:
    """Whether a line of progress has these values."""
    return any(line["event"] == "progress" and values.items() <= line.items() for line in lines)


async def test_the_line_tells_lag_blocked_and_diverged_streams(
    settings: Settings, engine: AsyncEngine, redis: Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(insight_of, "LOOK_EVERY_SECONDS", 0.1)
    monkeypatch.setattr("worker.lag_line._EVERY_SECONDS", 0.0)
    async with worker(settings, engine) as (_, lines):
        idle = {"projection": "tallies", "lag_seconds": 0.0, "lag_hints": 0, "blocked": 0, "diverged": 0}
        await wait_until(lambda: told(lines, **idle), "the line of an idle worker")
        await emit(redis, "a", "", "fail", {}, keys=keys)
        await emit(redis, "b", "", "add", {"n": 1}, keys=keys)
        await wait_until(lambda: told(lines, blocked=1, rows_written=1), "a blocked stream to be told")
        await redis.delete(keys.log("b"))
        await redis.xadd(keys.log("b"), {"op": "", "type": "add", "data": '{"n": 1}'}, id="1-1")
        await emit(redis, "b", "", "add", {"n": 1}, keys=keys)
        await wait_until(lambda: told(lines, blocked=1, diverged=1), "a diverged stream to be told")
        async with engine.begin() as other:
            await other.exec_driver_sql("LOCK TABLE tallies IN ACCESS EXCLUSIVE MODE")
            await emit(redis, "c", "", "add", {"n": 1}, keys=keys)
            await wait_until(lambda: told(lines, lag_hints=1, pending_streams=1), "a hint to be told")
            await wait_until(
                lambda: (lines[-1].get("lag_seconds") or 0) > 0.3, "lag in seconds to be told and to grow"
            )


async def test_without_http_the_servers_are_looked_at_once_a_line(
    settings: Settings, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(insight_of, "LOOK_EVERY_SECONDS", 0.01)
    monkeypatch.setattr(insight_of, "_LOOK_SELDOM_SECONDS", 0.5)
    async with worker(settings.model_copy(update={"http_address": ""}), engine) as (insight, lines):
        await wait_until(lambda: told(lines, lag_hints=0, blocked=0), "the line")
        assert len(insight.observed["tallies"].history) <= 4  # one look every half a second, and not 50


async def test_the_line_comes_once_a_minute(
    settings: Settings, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(insight_of, "LOOK_EVERY_SECONDS", 0.01)
    async with worker(settings, engine) as (insight, lines):
        await wait_until(lambda: told(lines), "the first line")
        looks = len(insight.observed["tallies"].history)
        await wait_until(lambda: len(insight.observed["tallies"].history) > looks + 5, "more looks")
        assert sum(line["event"] == "progress" for line in lines) == 1
