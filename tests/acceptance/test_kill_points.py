"""A worker killed by SIGKILL at each step between reading a hint and acknowledging it."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from projections import strategies
from tests.acceptance.commands import DEADLINE_SECONDS, running, worker_environment
from tests.conversations import random_universe
from tests.feeds import pending_of
from tests.producers import Producer
from tests.reference.model import single_reader
from tests.servers import RunningServers
from tests.tables import differences, read_table
from tests.waiting import wait_until
from worker import Keys
from worker.database import make_engine, parse_database_url
from worker.fault_points import Point

STREAMS = 12
EVENTS = 2_000  # enough to go on for longer than the victims live; the rest is appended in a hurry
PASSES = (1, 3)
LONGEST_PAUSE = timedelta(seconds=0.2)


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = make_engine(parse_database_url(database_url), pool_size=1, application_name="test")
    yield engine
    await engine.dispose()


@pytest.mark.parametrize("point", Point)
async def test_a_worker_killed_at_any_point_loses_and_doubles_nothing(
    servers: RunningServers,
    database_url: str,
    engine: AsyncEngine,
    keys_prefix: str,
    redis: Redis,
    point: Point,
) -> None:
    keys, universe = Keys(keys_prefix), random_universe(random.Random(point), streams=STREAMS, events=EVENTS)
    expected = single_reader(universe)
    producer = Producer(redis, keys, universe, random.Random(point), longest_pause=LONGEST_PAUSE)
    env = worker_environment(servers.redis_url, database_url, keys_prefix) | {
        "WORKER_BATCH_STREAMS": "4",
        "WORKER_CLAIM_AFTER_SECONDS": "1",
    }
    hurry = asyncio.Event()
    producing = asyncio.create_task(producer.run(hurry))
    for passes in PASSES:
        with running("SIGKILL", point, str(passes), env=env, module="tests.faulty_worker") as victim:
            code = await asyncio.to_thread(victim.process.wait, DEADLINE_SECONDS)
            assert code == -signal.SIGKILL, victim.log
    hurry.set()
    await producing

    async def all_is_right() -> bool:
        return differences(await read_table(engine), expected) == []

    async def nothing_is_pending() -> bool:
        return await pending_of(redis, keys, strategies.name) == 0

    with running("run", env=env, module="tests.brief_leases") as worker:
        await wait_until(all_is_right, f"the table after deaths at {point}", timeout=30)
        await wait_until(nothing_is_pending, "the last hints to be acknowledged", timeout=30)
        assert await asyncio.to_thread(worker.stop) == 0
        assert await all_is_right(), "what was right must stay so"
