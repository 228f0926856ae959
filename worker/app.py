"""The one place where parts are wired together from settings."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta

import structlog
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from worker.cache import RowCache
from worker.database import make_engine, parse_database_url
from worker.errors import ProjectionWorkerError
from worker.feed import Feed
from worker.feed_upkeep import FeedUpkeep
from worker.handover import Handover
from worker.leases import Leases
from worker.loading import load_projections
from worker.log import Log
from worker.migrate import check_schema
from worker.pending import Pending
from worker.projection import Projection
from worker.projector import Projector
from worker.redis_client import make_client
from worker.replicas import Replicas
from worker.retry import Perseverance
from worker.service import Pace, Service
from worker.settings import Settings
from worker.store import Store
from worker.sweep import Sweep

log = structlog.get_logger(__name__)

_CLOSE_SECONDS = 2.0
_HINTS_A_READ = 1_000
_MAX_HINTS_IN_HAND = 20_000


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


@asynccontextmanager
async def connect(settings: Settings) -> AsyncIterator[Servers]:
    """Clients of both servers; nothing is sent before they are used."""
    url = parse_database_url(settings.database_url.get_secret_value())
    async with connect_redis(settings) as redis:
        engine = make_engine(url, pool_size=3, application_name="projection-worker")
        try:
            yield Servers(redis, engine)
        finally:
            # A frozen server must not hold up a stop: asyncpg would wait a minute for it.
            with suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await engine.dispose()


def make_log(settings: Settings, redis: Redis, projection: Projection) -> Log:
    """The logs as this projection reads them."""
    return Log(
        redis,
        settings.keys,
        projection.types,
        max_payload_bytes=settings.max_payload_bytes,
        page_bytes=int(settings.page_megabytes * 1024 * 1024),
    )


def make_service(
    settings: Settings,
    servers: Servers,
    projection: Projection,
    stop: asyncio.Event,
    make_leases: type[Leases] = Leases,
) -> Service:
    """One projection's loop with all its parts. Nothing but wasted work depends on the leases."""
    redis, keys, consumer = servers.redis, settings.keys, settings.consumer_name
    pending = Pending(
        batch_streams=settings.batch_streams, linger=settings.linger, max_hints=_MAX_HINTS_IN_HAND
    )
    logs = make_log(settings, redis, projection)
    store = Store(servers.engine, projection)
    cache = RowCache(int(settings.cache_megabytes * 1024 * 1024))
    sweep_period = timedelta(seconds=settings.sweep_seconds)
    feed = Feed(redis, keys, group=projection.name, consumer=consumer)
    leases = make_leases(redis, keys, projection=projection.name, consumer=consumer)
    handover = Handover(redis, feed, leases, pending)
    sweep = Sweep(
        redis,
        keys,
        logs,
        store,
        cache,
        pending,
        projection=projection.name,
        consumer=consumer,
        period=sweep_period,
        stop=stop,
        handover=handover,
    )
    feed.hints_lost = sweep.request
    return Service(
        projection,
        consumer,
        feed,
        FeedUpkeep(redis, feed, leases),
        handover,
        pending,
        Projector(projection, logs, store, cache),
        sweep,
        Replicas(redis, keys, projection.name),
        Pace(_HINTS_A_READ, sweep_period, timedelta(seconds=settings.claim_after_seconds)),
        stop,
    )


async def run_worker(settings: Settings) -> int:
    """Run until a signal; the exit code: 0 after a graceful stop, 1 when the rest had to be cancelled.

    The first SIGTERM or SIGINT stops gracefully; a second one, or the deadline, cancels.
    """
    projections = load_projections(settings.projections)
    stop = asyncio.Event()
    work = asyncio.create_task(_work(settings, projections, stop))
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if stop.is_set():
            work.cancel()
            return
        stop.set()
        loop.call_later(settings.shutdown_seconds, work.cancel)

    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, on_signal)
    try:
        await work
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


async def _work(settings: Settings, projections: list[Projection], stop: asyncio.Event) -> None:
    async with connect(settings) as servers:
        if not await _servers_ready(servers, stop):
            return
        log.info(
            "started",
            consumer=settings.consumer_name,
            projections=[f"{projection.name} v{projection.version}" for projection in projections],
        )
        async with asyncio.TaskGroup() as tasks:
            for projection in projections:
                tasks.create_task(make_service(settings, servers, projection, stop).run())


async def _servers_ready(servers: Servers, stop: asyncio.Event) -> bool:
    """Wait for both servers, however long; False when the worker is stopped before. Raises SchemaError."""
    persevere = Perseverance(stop)

    async def schema_checked() -> bool:
        await check_schema(servers.engine)
        return True

    async def redis_answers() -> bool:
        return bool(await servers.redis.ping())

    return bool(await persevere("connecting to Redis", redis_answers)) and bool(
        await persevere("connecting to PostgreSQL", schema_checked)
    )
