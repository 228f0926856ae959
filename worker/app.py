"""The one place where parts are wired together from settings."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import structlog
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from worker.aftermath import Aftermath
from worker.blocked import BlockedStreams
from worker.cache import RowCache
from worker.database import make_engine, parse_database_url
from worker.deaths import Deaths
from worker.diverged import DivergedStreams
from worker.errors import ProjectionWorkerError
from worker.feed import Feed
from worker.feed_upkeep import FeedUpkeep
from worker.handover import Handover
from worker.health import Health
from worker.insight import Insight
from worker.isolation import Isolation
from worker.leases import Leases
from worker.log import Log
from worker.pending import Pending
from worker.projection import Projection
from worker.projector import Projector
from worker.readiness import check_database
from worker.redis_client import make_client, renew
from worker.replicas import Replicas
from worker.retry import Perseverance
from worker.sample import Sample
from worker.service import Pace, Service
from worker.service_manager import telling_service_manager
from worker.settings import Settings
from worker.skim import Skims
from worker.store import Store
from worker.suspects import Suspects
from worker.sweep import Sweep
from worker.verify import Verifier
from worker.waiting import unless, wait_for
from worker.watchdog import watchdog

log = structlog.get_logger(__name__)

_CLOSE_SECONDS = 2.0
_EXIT_SECONDS = 5.0
_CONNECTIONS = 4
"""To PostgreSQL: two that read and one that writes, and one for all that is done beside."""
_HINTS_A_READ = 200
_MAX_HINTS_IN_HAND = 20_000
_WATCH_SECONDS = 2.0
_NOT_REACHED = "The servers have not been reached yet."
_SAMPLE_PAGE_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Servers:
    """The two connections that everything else needs."""

    redis: Redis
    engine: AsyncEngine


@asynccontextmanager
async def connect_redis(settings: Settings) -> AsyncIterator[Redis]:
    """A client of the Redis server alone."""
    redis = make_client(settings.redis_url.get_secret_value())
    try:
        yield redis
    finally:
        await redis.aclose()


def connections_of_worker(projections: int) -> int:
    """How many connections to PostgreSQL a worker opens at most, for so many projections."""
    return _CONNECTIONS * projections + 1


@asynccontextmanager
async def connect_postgresql(
    settings: Settings, connections: int = _CONNECTIONS
) -> AsyncIterator[AsyncEngine]:
    """Connections to PostgreSQL, so many at most."""
    url = parse_database_url(settings.database_url.get_secret_value())
    engine = make_engine(url, pool_size=connections, application_name="projection-worker")
    try:
        yield engine
    finally:
        # A frozen server must not hold up a stop: asyncpg would wait a minute for it.
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await engine.dispose()


@asynccontextmanager
async def connect(settings: Settings, connections: int = _CONNECTIONS) -> AsyncIterator[Servers]:
    """Clients of both servers, with so many connections to PostgreSQL; unused, they send nothing."""
    async with connect_redis(settings) as redis, connect_postgresql(settings, connections) as engine:
        yield Servers(redis, engine)


def make_log(
    settings: Settings, redis: Redis, projection: Projection, *, page_bytes: int | None = None
) -> Log:
    """The logs as this projection reads them, in pages as large as the settings say, or as these."""
    return Log(
        redis,
        projection.keys(settings.keys),
        projection.types,
        max_payload_bytes=settings.max_payload_bytes,
        page_bytes=page_bytes or int(settings.page_megabytes * 1024 * 1024),
        streams=projection.streams,
    )


def make_sample(settings: Settings, servers: Servers, projection: Projection, store: Store) -> Sample:
    """What verifies rows beside the projecting: in small pages, so that it never has the loop for long."""
    logs = make_log(settings, servers.redis, projection, page_bytes=_SAMPLE_PAGE_BYTES)
    verifier = Verifier(logs, servers.engine, projection, patience=settings.patience)
    return Sample(verifier, store, per_minute=settings.verify_per_minute)


def make_service(
    settings: Settings,
    servers: Servers,
    projection: Projection,
    stop: asyncio.Event,
    make_leases: type[Leases] = Leases,
    health: Health | None = None,
) -> Service:
    """One projection's loop with all its parts; what it cannot do is reported to ``health``.

    Nothing but wasted work depends on the leases.
    """
    health = health or Health()
    redis, keys, consumer = servers.redis, projection.keys(settings.keys), settings.consumer_name
    pending = Pending(
        batch_streams=settings.batch_streams, linger=settings.linger, max_hints=_MAX_HINTS_IN_HAND
    )
    logs = make_log(settings, redis, projection)
    store = Store(servers.engine, projection)
    blocked = BlockedStreams(servers.engine, projection)
    suspects = Suspects(redis, keys, projection=projection.name, consumer=consumer)
    diverged = DivergedStreams(redis, keys, projection.name)
    cache = RowCache(int(settings.cache_megabytes * 1024 * 1024))
    sweep_period = timedelta(seconds=settings.sweep_seconds)
    feed = Feed(redis, keys, group=projection.name, consumer=consumer)
    leases = make_leases(
        redis, keys, projection=projection.name, consumer=consumer, version=projection.version
    )
    handover = Handover(redis, feed, leases, pending)
    sweep = Sweep(
        redis,
        keys,
        logs,
        store,
        cache,
        pending,
        diverged,
        handover,
        projection=projection,
        consumer=consumer,
        period=sweep_period,
        stop=stop,
    )
    feed.hints_lost = sweep.request
    persevere = Perseverance(
        stop, health, projection=projection.name, races=projection.races, renew=partial(renew, redis)
    )
    projector = Projector(projection, logs, store, blocked, cache)
    isolation = Isolation(projection, projector, suspects, store, blocked, logs)
    return Service(
        projection,
        consumer,
        feed,
        Skims(redis, feed, projection.types),
        FeedUpkeep(redis, feed, leases),
        handover,
        Deaths(leases, suspects, consumer),
        pending,
        projector,
        isolation,
        blocked,
        Aftermath(
            projection.name,
            keys.moved(projection.name),
            isolation,
            suspects,
            diverged,
            sweep,
            handover,
            health,
        ),
        sweep,
        make_sample(settings, servers, projection, store),
        Replicas(redis, keys, projection.name),
        Pace(_HINTS_A_READ, sweep_period, timedelta(seconds=settings.claim_after_seconds)),
        persevere,
        health,
        stop,
    )


async def run_worker(settings: Settings, projections: list[Projection]) -> int:
    """Run these projections until a signal.

    The exit code is 0 after a graceful stop, 1 when the rest had to be cancelled.
    The first SIGTERM or SIGINT stops gracefully; a second one, or the deadline, cancels.
    """
    from worker.site import serve_site  # here, since no command but `run` should load so much

    insight = Insight(Health(), projections)
    async with serve_site(settings, insight):
        return await _run(settings, projections, insight)


async def _run(settings: Settings, projections: list[Projection], insight: Insight) -> int:
    stop = asyncio.Event()
    working = asyncio.create_task(work(settings, projections, insight.health, stop, insight))
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if stop.is_set():
            working.cancel()
            return
        stop.set()
        loop.call_later(settings.shutdown_seconds, working.cancel)

    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, on_signal)
    stop_takes = timedelta(seconds=settings.shutdown_seconds + _CLOSE_SECONDS + _EXIT_SECONDS)
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
        if settings.http is not None:
            tasks.create_task(unless(stop, _observe(settings, redis, insight, stop)))
        if await unless(stop, _reach_redis(redis, health, stop)):
            for projection in projections:
                tasks.create_task(_work_at(settings, redis, projection, insight, stop))


async def _observe(settings: Settings, redis: Redis, insight: Insight, stop: asyncio.Event) -> None:
    """Look at how all stands, over a connection of its own, which waits for none of those that project."""
    async with connect_postgresql(settings, 1) as engine:
        await insight.observe(redis, engine, settings.keys, stop)


async def _work_at(
    settings: Settings, redis: Redis, projection: Projection, insight: Insight, stop: asyncio.Event
) -> None:
    """Run one projection over connections of its own: one that waits for locks holds several for long."""
    async with connect_postgresql(settings) as engine:
        await _project(settings, Servers(redis, engine), projection, insight, stop)


async def _reach_redis(redis: Redis, health: Health, stop: asyncio.Event) -> bool:
    """Wait for Redis; False when stopped before."""
    persevere = Perseverance(stop, health, renew=partial(renew, redis))

    async def redis_answers() -> bool:
        return bool(await redis.ping())

    return bool(await persevere("connecting to Redis", redis_answers))


async def _project(
    settings: Settings, servers: Servers, projection: Projection, insight: Insight, stop: asyncio.Event
) -> None:
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
        service = insight.services[name] = make_service(settings, servers, projection, stop, health=health)
        tasks.create_task(service.run())
        tasks.create_task(unless(stop, watch_database()))
