"""Nodes of a Redis Cluster are replaced under load: no row is ever wrong, and what was lost is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from functools import partial

import pytest
from redis.asyncio.cluster import RedisCluster
from redis.crc import key_slot
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.clusters import OwnCluster
from tests.failing_over import START_SECONDS, STARTED, STREAMS, Deployment, Load, check_the_end
from tests.waiting import wait_until
from worker import Keys
from worker.database import make_engine, parse_database_url
from worker.redis_client import make_client

KEYS = Keys("app:", on_cluster=True)


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = make_engine(parse_database_url(database_url), pool_size=1, application_name="test")
    yield engine
    await engine.dispose()


@pytest.fixture
async def deployment(
    cluster: OwnCluster, engine: AsyncEngine, database_url: str
) -> AsyncIterator[Deployment]:
    redis = make_client(cluster.url, KEYS)
    with ExitStack() as stack:
        deployment = Deployment(cluster.url, redis, KEYS, engine, database_url, stack)
        for worker in deployment.workers:
            await wait_until(partial(worker.says, STARTED), "a worker to start", START_SECONDS)
        yield deployment
    await redis.aclose()


def load_on(cluster: OwnCluster) -> Load:
    @asynccontextmanager
    async def connect() -> AsyncIterator[RedisCluster]:
        async with RedisCluster.from_url(cluster.nodes[0].url, socket_timeout=2) as redis:
            yield redis

    return Load(connect, KEYS)


async def test_failovers_and_moving_slots_under_load_end_with_the_reference_table(
    cluster: OwnCluster, deployment: Deployment
) -> None:
    load = load_on(cluster)
    async with load.running():
        await load.goes_on()
        await asyncio.to_thread(lambda: cluster.fail_over(cluster.primary_of(KEYS.feed(0))))
        await load.goes_on()
        for key in (KEYS.feed(0), *map(KEYS.log, STREAMS[:5])):
            target = cluster.other_than(cluster.primary_of(key))
            await asyncio.to_thread(cluster.move_slot, key_slot(key.encode()), target)
        await load.goes_on()
        await asyncio.to_thread(lambda: cluster.kill(cluster.primary_of(KEYS.feed(0))))
        await load.goes_on()
    await check_the_end(deployment, [cluster.password])


async def test_what_no_replica_has_when_nodes_are_killed_leaves_no_row_wrong(
    cluster: OwnCluster, deployment: Deployment
) -> None:
    load = load_on(cluster)
    async with load.running():
        await load.goes_on()
        home = cluster.primary_of(KEYS.feed(0))
        victim = cluster.other_than(home)
        await asyncio.to_thread(cluster.cut_off_replica, victim)
        await load.goes_on()
        await asyncio.to_thread(cluster.kill, victim)
        await load.goes_on()
    assert len(await check_the_end(deployment, [cluster.password])) >= 3
