"""Another server becomes the master under load: no row is ever wrong, and what was lost is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from functools import partial

import pytest
from redis.asyncio import Redis
from redis.asyncio.sentinel import Sentinel
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.failing_over import START_SECONDS, STARTED, Deployment, Load, check_the_end
from tests.sentinels import PASSWORD, SENTINEL_PASSWORD, SERVICE, Watched, watched_servers
from tests.waiting import wait_until
from worker import EventId, Keys
from worker.database import make_engine, parse_database_url
from worker.redis_client import make_client

KEYS = Keys()
SECRETS = (PASSWORD, SENTINEL_PASSWORD)


@pytest.fixture
def watched() -> Iterator[Watched]:
    with watched_servers() as watched:
        yield watched


@pytest.fixture
async def redis(watched: Watched) -> AsyncIterator[Redis]:
    """A client that finds the master at once."""
    client = make_client(watched.url())
    yield client
    await client.aclose()


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = make_engine(parse_database_url(database_url), pool_size=1, application_name="test")
    yield engine
    await engine.dispose()


def load_on(watched: Watched) -> Load:
    @asynccontextmanager
    async def connect() -> AsyncIterator[Redis]:
        """With sentinels of its own: redis-py loses some where it asks for several connections at once."""
        options = {"password": SENTINEL_PASSWORD, "socket_timeout": 1}
        async with (
            Sentinel(watched.addresses, sentinel_kwargs=options) as sentinel,
            sentinel.master_for(SERVICE, password=PASSWORD, socket_timeout=2) as redis,
        ):
            yield redis

    return Load(connect, KEYS)


@pytest.fixture
async def deployment(
    watched: Watched, redis: Redis, engine: AsyncEngine, database_url: str
) -> AsyncIterator[Deployment]:
    with ExitStack() as stack:
        deployment = Deployment(watched.url(), redis, KEYS, engine, database_url, stack)
        for worker in deployment.workers:
            await wait_until(partial(worker.says, STARTED), "a worker to start", START_SECONDS)
        yield deployment


async def test_a_failover_under_load_ends_with_the_reference_table(
    watched: Watched, deployment: Deployment
) -> None:
    load = load_on(watched)
    async with load.running():
        await load.goes_on()
        await asyncio.to_thread(watched.fail_over)
        await load.goes_on()
    await check_the_end(deployment, SECRETS)


async def test_a_master_that_is_killed_with_what_no_replica_has_leaves_no_row_wrong(
    watched: Watched, deployment: Deployment, redis: Redis
) -> None:
    load = load_on(watched)
    async with load.running():
        await load.goes_on()
        await asyncio.to_thread(watched.cut_replication)
        seconds, microseconds = await redis.time()
        cut = EventId(seconds * 1000 + microseconds // 1000 + 1, 0)

        async def some_rows_are_beyond() -> bool:
            return await deployment.rows_beyond(cut) >= 3

        await wait_until(some_rows_are_beyond, "rows that no replica has the events of", START_SECONDS)
        await asyncio.to_thread(watched.kill_master)
        await load.goes_on()
    assert len(await check_the_end(deployment, SECRETS)) >= 3
