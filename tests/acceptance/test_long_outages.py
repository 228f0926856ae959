"""Ten minutes without PostgreSQL, in a worker for whom time goes thirty times as fast."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import asyncpg
import psutil
import pytest
from redis.asyncio import Redis

from tests.acceptance.commands import RunningCommand, running, worker_environment
from tests.acceptance.hurried import SPEED
from tests.own_servers import OwnServer
from tests.servers import RunningServers
from tests.waiting import wait_until
from worker import Keys, emit

OUTAGE_SECONDS = 600 / SPEED
MOST_LINES = 100
MOST_OF_A_CORE = 0.25
"""Of the worker's fast time. Of real time that is less than one hundredth."""


def cpu_seconds(worker: RunningCommand) -> float:
    times = psutil.Process(worker.process.pid).cpu_times()
    return float(times.user + times.system)


async def emit_for(seconds: float, producer: Redis, keys: Keys) -> dict[str, str]:
    """Emit all the time; the last event of each stream."""
    last: dict[str, str] = {}
    until = time.monotonic() + seconds
    number = 0
    while time.monotonic() < until:
        number += 1
        stream_id = f"s{number % 20}"
        last[stream_id] = await emit(producer, stream_id, "", "user_message", {}, keys=keys)
        await asyncio.sleep(0.05)
    return last


async def positions(url: str) -> dict[str, str]:
    connection = await asyncpg.connect(url)
    try:
        return dict(await connection.fetch("SELECT stream_id, last_event_id FROM stream_projections"))
    finally:
        await connection.close()


@pytest.mark.parametrize(
    ("fault", "mend"),
    [(OwnServer.stop, OwnServer.start), (OwnServer.freeze, OwnServer.thaw)],
    ids=["refuses connections", "takes connections and never answers"],
)
async def test_a_worker_without_postgresql_rests_and_says_little(
    servers: RunningServers,
    redis: Redis,
    postgresql: OwnServer,
    keys_prefix: str,
    fault: Callable[[OwnServer], None],
    mend: Callable[[OwnServer], None],
) -> None:
    env = worker_environment(servers.redis_url, postgresql.url, keys_prefix)
    with running("run", env=env, module="tests.acceptance.hurried") as worker:
        await wait_until(lambda: worker.says("started"), "the worker to start", 30)
        await asyncio.to_thread(fault, postgresql)
        lines, used = worker.log.count("\n"), cpu_seconds(worker)
        last = await emit_for(OUTAGE_SECONDS, redis, Keys(keys_prefix))
        lines, used = worker.log.count("\n") - lines, cpu_seconds(worker) - used
        assert worker.says("retrying")
        assert lines < MOST_LINES
        assert used < MOST_OF_A_CORE * OUTAGE_SECONDS
        await asyncio.to_thread(mend, postgresql)

        async def all_projected() -> bool:
            return await positions(postgresql.url) == last

        await wait_until(all_projected, "everything to be projected", 30)
        assert worker.stop() == 0
