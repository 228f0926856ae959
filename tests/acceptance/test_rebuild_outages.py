"""A rebuild while its servers go away and come back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial

import pytest
import redis as redis_py
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from tests.acceptance.commands import RunningCommand, running, worker_environment
from tests.own_servers import OwnServer, own_redis
from tests.waiting import wait_until
from worker.database import parse_database_url

STREAMS = 60
DONE = text("SELECT count(*) FROM stream_projections")
WAIT_SECONDS = 60


@pytest.fixture
def redis_server() -> Iterator[OwnServer]:
    with own_redis() as server:
        with redis_py.Redis.from_url(server.url) as client:
            for number in range(STREAMS):
                client.xadd(f"stream:s{number}", {"op": "", "type": "user_message", "data": "{}"})
        yield server


async def _stands_at(engine: AsyncEngine, rows: int) -> bool:
    async with engine.connect() as connection:
        return int((await connection.execute(DONE)).scalar_one()) >= rows


async def _come_to(engine: AsyncEngine, rows: int) -> None:
    await wait_until(partial(_stands_at, engine, rows), f"{rows} rows", WAIT_SECONDS)


def _tells(command: RunningCommand, after: int) -> bool:
    """Whether it has told of trouble after so much."""
    return "retrying" in command.log[after:]


async def test_servers_that_go_away_are_waited_for(postgresql: OwnServer, redis_server: OwnServer) -> None:
    env = worker_environment(redis_server.url, postgresql.url, "")
    engine = create_async_engine(parse_database_url(postgresql.url), poolclass=NullPool)
    with running("rebuild", "--json", "--rate", "5", env=env) as command:
        for server, rows in ((postgresql, 5), (redis_server, 15)):
            await _come_to(engine, rows)
            before = len(command.log)
            server.stop()
            await wait_until(partial(_tells, command, before), "trouble to be told", WAIT_SECONDS)
            server.start()
        await wait_until(lambda: command.process.poll() is not None, "the rebuild to end", WAIT_SECONDS)
        assert command.process.returncode == 0, command.log
        report = json.loads(command.log.splitlines()[-1])
    assert (report["event"], report["rebuilt"], report["refused"]) == ("report", STREAMS, 0)
    await engine.dispose()
