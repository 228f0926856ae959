"""The one place where parts are wired together from settings."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from worker.aftermath import Aftermath
from worker.batch_spans import MOST_LINKS, BatchSpans, SpanSource
from worker.blocked import BlockedStreams
from worker.cache import RowCache
from worker.database import make_engine, parse_database_url
from worker.deaths import Deaths
from worker.diverged import DivergedStreams
from worker.feed import Feed
from worker.feed_upkeep import FeedUpkeep
from worker.handover import Handover
from worker.health import Health
from worker.isolation import Isolation
from worker.leases import Leases
from worker.log import Log
from worker.pending import Pending
from worker.projection import Projection
from worker.projector import Projector
from worker.redis_client import make_client, renew
from worker.replicas import Replicas
from worker.retry import Perseverance
from worker.sample import Sample
from worker.service import Pace, Service
from worker.settings import Settings
from worker.skim import Skims
from worker.store import Store
from worker.suspects import Suspects
from worker.sweep import Sweep
from worker.traceparent import Traceparents
from worker.tracing import tell_of_failure
from worker.verify import Verifier

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

CLOSE_SECONDS = 2.0
"""How long a server that does not answer may hold up the end."""
_CONNECTIONS = 4
"""To PostgreSQL: two that read and one that writes, and one for all that is done beside."""
_HINTS_A_READ = 200
_MAX_HINTS_IN_HAND = 20_000
_SAMPLE_PAGE_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Servers:
    """The two connections that everything else needs."""

    redis: Redis
    engine: AsyncEngine


@asynccontextmanager
async def connect_redis(settings: Settings) -> AsyncIterator[Redis]:
    """A client of the Redis server alone."""
    redis = make_client(settings.redis_url.get_secret_value(), settings.keys)
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
            async with asyncio.timeout(CLOSE_SECONDS):
                await engine.dispose()


@asynccontextmanager
async def connect(settings: Settings, connections: int = _CONNECTIONS) -> AsyncIterator[Servers]:
    """Clients of both servers, with so many connections to PostgreSQL; unused, they send nothing."""
    async with connect_redis(settings) as redis, connect_postgresql(settings, connections) as engine:
        yield Servers(redis, engine)


def make_log(
    settings: Settings, redis: Redis, projection: Projection, *, page_bytes: int | None = None,
    traceparents: Traceparents | None = None,
) -> Log:  # fmt: skip
    """The logs as this projection reads them, in pages as large as the settings say, or as these."""
    return Log(
        redis,
        projection.keys(settings.keys),
        projection.types,
        max_payload_bytes=settings.max_payload_bytes,
        page_bytes=page_bytes or int(settings.page_megabytes * 1024 * 1024),
        streams=projection.streams,
        traceparents=traceparents,
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
    tracer: Tracer | None = None,
) -> Service:
    """One projection's loop with all its parts; what it cannot do is reported to ``health``.

    Nothing but wasted work depends on the leases. With a ``tracer`` each batch has a span.
    """
    health = health or Health()
    redis, keys, consumer = servers.redis, projection.keys(settings.keys), settings.consumer_name
    pending = Pending(
        batch_streams=settings.batch_streams, linger=settings.linger, max_hints=_MAX_HINTS_IN_HAND
    )
    traceparents = Traceparents(MOST_LINKS) if tracer else None
    logs = make_log(settings, redis, projection, traceparents=traceparents)
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
    project_batch = isolation.project_batch
    if tracer and traceparents:
        source = SpanSource(tracer, f"{keys.log_prefix}{{stream_id}}", traceparents, tell_of_failure)
        project_batch = BatchSpans(source, projection, projector, project_batch).project_batch
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
        project_batch,
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
