"""A worker frozen by SIGSTOP in the middle of its work, for longer than every timeout, and then let go."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator

import asyncpg
import psutil
import pytest
from redis.asyncio import Redis

from tests.acceptance.commands import running, worker_environment
from tests.servers import RunningServers
from tests.waiting import wait_until
from worker import Keys, emit
from worker.fault_points import Point


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


@pytest.mark.parametrize("point", [Point.LOGS_READ, Point.ROWS_WRITTEN, Point.COMMITTED])
async def test_what_a_frozen_worker_held_is_taken_over_and_it_does_no_harm_when_it_is_back(
    servers: RunningServers,
    database_url: str,
    database: asyncpg.Connection,
    keys_prefix: str,
    producer: Redis,
    point: Point,
) -> None:
    keys = Keys(keys_prefix)
    env = worker_environment(servers.redis_url, database_url, keys_prefix)

    async def message() -> str:
        return await emit(producer, "a", "", "user_message", {}, keys=keys)

    async def stands_at(event_id: str) -> bool:
        sql = "SELECT last_event_id FROM stream_projections WHERE stream_id = 'a'"
        return bool(await database.fetchval(sql) == event_id)

    with running("SIGSTOP", point, "1", env=env, module="tests.faulty_worker") as frozen:
        await message()
        process = psutil.Process(frozen.process.pid)
        await wait_until(lambda: process.status() == psutil.STATUS_STOPPED, "the worker to freeze", 30)
        with running("run", env=env, module="tests.brief_leases") as other:
            # It may hold the row's lock, until PostgreSQL ends its transaction.
            second = await message()
            await wait_until(lambda: stands_at(second), "the other worker to take over", 40)
            frozen.process.send_signal(signal.SIGCONT)
            third = await message()
            await wait_until(lambda: stands_at(third), "the stream to go on", 30)
            for worker in (frozen, other):
                assert await asyncio.to_thread(worker.stop) == 0, worker.log
    count = await database.fetchval("SELECT message_count FROM stream_projections WHERE stream_id = 'a'")
    assert count == 3
    assert await database.fetchval("SELECT count(*) FROM dead_letters") == 0
