"""Running: a worker from its start to its stop, with all projections that it was given."""

from __future__ import annotations

import asyncio
import os
import signal
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

import structlog
from redis.asyncio import Redis

from worker.app import CLOSE_SECONDS, Servers, connect_postgresql, connect_redis, make_service
from worker.errors import ProjectionWorkerError
from worker.health import Health
from worker.insight import Insight
from worker.lag_line import LagLine
from worker.projection import Projection
from worker.readiness import check_database
from worker.redis_client import renew
from worker.retry import Perseverance
from worker.service_manager import telling_service_manager
from worker.settings import Settings
from worker.site import serve_site
from worker.tracing import tracing
from worker.waiting import unless, wait_for
from worker.watchdog import watchdog

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

log = structlog.get_logger("worker")

_EXIT_SECONDS = 5.0
_WATCH_SECONDS = 2.0
_NOT_REACHED = "The servers have not been reached yet."


async def run_worker(settings: Settings, projections: list[Projection]) -> int:
    """Run these projections until a signal.

    The exit code is 0 after a graceful stop, 1 when the rest had to be cancelled.
    The first SIGTERM or SIGINT stops gracefully; a second one, or the deadline, cancels.
    """
    insight = Insight(Health(), projections)
    async with (
        tracing(settings.consumer_name, os.environ, CLOSE_SECONDS) as tracer,
        serve_site(settings, insight),
    ):
        return await _run(settings, projections, insight, tracer)


async def _run(
    settings: Settings, projections: list[Projection], insight: Insight, tracer: Tracer | None
) -> int:
    stop = asyncio.Event()
    working = asyncio.create_task(work(settings, projections, insight.health, stop, insight, tracer))
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if stop.is_set():
            working.cancel()
            return
        stop.set()
        loop.call_later(settings.shutdown_seconds, working.cancel)

    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, on_signal)
    stop_takes = timedelta(seconds=settings.shutdown_seconds + CLOSE_SECONDS + _EXIT_SECONDS)
    telling = telling_service_manager(insight.health, stop, stop_takes=stop_takes, environ=os.environ)
    try:
        async with watchdog(settings.stuck), telling:
            await working
    except asyncio.CancelledError:
        log.warning("stop_cancelled")
        return 1
    except ExceptionGroup as group:
        # Tasks of a group fail together; what the operator can mend is told as plainly as everywhere else.
        told, rest = group.split(ProjectionWorkerError)
        if told is not None and rest is None:
            raise _first(told) from None
        raise
    log.info("stopped")
    return 0


def _first(group: ExceptionGroup[ProjectionWorkerError]) -> ProjectionWorkerError:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, ExceptionGroup) else first


async def work(
    settings: Settings,
    projections: list[Projection],
    health: Health,
    stop: asyncio.Event,
    insight: Insight | None = None,
    tracer: Tracer | None = None,
) -> None:
    """Reach the servers and run all projections until ``stop`` is set; ``insight`` gets to know all of it.

    A server that is away, and a database that is not as it should be, are waited for; ``health`` tells what
    is wrong meanwhile. A projection whose tables are not as they should be waits for itself, and keeps no
    other from going on. Raises FeedPartitionsError, which only another setting can mend.
    """
    insight = insight or Insight(health, projections)
    for projection in projections:  # Before anybody asks: there is no moment at which it seems to be ready.
        health.report("starting", _NOT_REACHED, projection.name)
    async with connect_redis(settings) as redis, asyncio.TaskGroup() as tasks:
        tasks.create_task(_observe(settings, redis, insight, stop))
        if await unless(stop, _reach_redis(redis, health, stop)):
            for projection in projections:
                tasks.create_task(_work_at(settings, redis, projection, insight, stop, tracer))


async def _observe(settings: Settings, redis: Redis, insight: Insight, stop: asyncio.Event) -> None:
    """Look at how all stands, over a connection of its own, which waits for none of those that project."""
    tell, often = LagLine(insight).tell, settings.http is not None
    async with connect_postgresql(settings, 1) as engine:
        await unless(stop, insight.observe(redis, engine, settings.keys, stop, then=tell, often=often))


async def _work_at(
    settings: Settings, redis: Redis, projection: Projection, insight: Insight, stop: asyncio.Event,
    tracer: Tracer | None,
) -> None:  # fmt: skip
    """Run one projection over connections of its own: one that waits for locks holds several for long."""
    async with connect_postgresql(settings) as engine:
        await _project(settings, Servers(redis, engine), projection, insight, stop, tracer)


async def _reach_redis(redis: Redis, health: Health, stop: asyncio.Event) -> bool:
    """Wait for Redis; False when stopped before."""
    persevere = Perseverance(stop, health, renew=partial(renew, redis))

    async def redis_answers() -> bool:
        return bool(await redis.ping())

    return bool(await persevere("connecting to Redis", redis_answers))


async def _project(
    settings: Settings, servers: Servers, projection: Projection, insight: Insight, stop: asyncio.Event,
    tracer: Tracer | None,
) -> None:  # fmt: skip
    """Run one projection as soon as the database is as it should be for it, and watch that it stays so.

    Redis needs no such watch: reading hints notices.
    """
    name, health = projection.name, insight.health
    persevere = Perseverance(stop, health, projection=name, renew=partial(renew, servers.redis))

    async def database_is_right() -> bool:
        await check_database(servers.engine, settings.projections, projection)
        return True

    if not await unless(stop, persevere("connecting to PostgreSQL", database_is_right)):
        return
    health.over("starting", name)
    log.info("started", consumer=settings.consumer_name, projections=[f"{name} v{projection.version}"])

    async def watch_database() -> None:
        """Notice that the database is away or was changed also while there is nothing to project."""
        while not await wait_for(stop, _WATCH_SECONDS):
            await persevere("checking PostgreSQL", database_is_right)

    async with asyncio.TaskGroup() as tasks:
        service = make_service(settings, servers, projection, stop, health=health, tracer=tracer)
        insight.services[name] = service
        tasks.create_task(service.run())
        tasks.create_task(unless(stop, watch_database()))
