"""The watchdog: a worker whose handler never returns ends, and no other."""

from __future__ import annotations

import asyncio
import json
import signal
import time

import asyncpg
import pytest

from tests.acceptance.commands import call, running, worker_environment
from tests.rights import OWNER, as_user
from tests.servers import RunningServers
from tests.stuck import WORK_SECONDS, Base
from tests.waiting import block_until
from worker.database import make_engine, parse_database_url

STUCK_SECONDS = 2


async def create_table(database_url: str) -> None:
    engine = make_engine(
        parse_database_url(as_user(database_url, OWNER)), pool_size=1, application_name="test"
    )
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    await engine.dispose()


async def count_worked(database_url: str) -> int:
    connection = await asyncpg.connect(database_url)
    try:
        return int(await connection.fetchval("SELECT coalesce(sum(worked), 0) FROM stuck"))
    finally:
        await connection.close()


@pytest.fixture
def env(servers: RunningServers, database_url: str, keys_prefix: str) -> dict[str, str]:
    asyncio.run(create_table(database_url))
    return {
        **worker_environment(servers.redis_url, database_url, keys_prefix),
        "WORKER_PROJECTIONS": "tests.stuck",
        "WORKER_STUCK_SECONDS": str(STUCK_SECONDS),
    }


@pytest.mark.parametrize(("event_type", "handler"), [("loop", "loop_for_ever"), ("match", "match_for_ever")])
def test_a_handler_that_never_returns_ends_the_process_with_a_traceback(
    env: dict[str, str], event_type: str, handler: str
) -> None:
    with running("run", env=env) as worker:
        block_until(lambda: worker.says("started"), "the worker to start")
        call("emit", "x", event_type, env=env)
        assert worker.process.wait(30) == -signal.SIGPROF
        assert "most recent call first" in worker.log
        assert f"in {handler}" in worker.log


def test_hard_work_is_not_mistaken_for_it(env: dict[str, str], database_url: str) -> None:
    events = int(2 * STUCK_SECONDS / WORK_SECONDS)
    lines = [json.dumps({"stream_id": f"s{number}", "type": "work"}) for number in range(events)]
    with running("run", env={**env, "WORKER_BATCH_STREAMS": "2"}) as worker:
        block_until(lambda: worker.says("started"), "the worker to start")
        call("emit", "--from-file", "-", env=env, stdin="\n".join(lines))
        block_until(lambda: asyncio.run(count_worked(database_url)) == events, "all to be projected", 60)
        assert worker.stop() == 0


def test_a_process_that_was_frozen_goes_on(env: dict[str, str], database_url: str) -> None:
    with running("run", env=env) as worker:
        block_until(lambda: worker.says("started"), "the worker to start")
        worker.process.send_signal(signal.SIGSTOP)
        thaw_at = time.monotonic() + 2 * STUCK_SECONDS
        block_until(lambda: time.monotonic() > thaw_at, "it to be frozen for long")
        worker.process.send_signal(signal.SIGCONT)
        call("emit", "x", "work", env=env)
        block_until(lambda: asyncio.run(count_worked(database_url)) == 1, "it to project")
        assert worker.stop() == 0
