"""Rebuilds of a thousand streams by processes that are killed, and by two at once."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import ExitStack

import pytest
from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.acceptance.commands import RunningCommand, running, worker_environment
from tests.rebuilding import RebuildingReplica
from tests.servers import RunningServers
from tests.waiting import wait_until
from worker import Keys
from worker.database import make_engine, parse_database_url
from worker.redis_client import make_client

STREAMS = [f"s{number}" for number in range(1_000)]
DEADLINE_SECONDS = 60
KILLS = 5
DONE = text("SELECT coalesce(sum(streams), 0) FROM rebuild_chunks WHERE done_at IS NOT NULL")
WORKERS = text("SELECT count(DISTINCT taken_by) FROM rebuild_chunks")
ROWS = text("SELECT stream_id, generation, message_count FROM stream_projections")


class Table:
    """What is committed."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def done(self) -> int:
        """How many streams the rebuild has done."""
        return await self._number(DONE)

    async def workers(self) -> int:
        """How many processes have had a part in it."""
        return await self._number(WORKERS)

    async def _number(self, query: TextClause) -> int:
        async with self._engine.connect() as connection:
            return int((await connection.execute(query)).scalar_one())

    async def times_rebuilt(self) -> Counter[int]:
        """How many rows were rebuilt how often; every one of them must be right."""
        async with self._engine.connect() as connection:
            rows = (await connection.execute(ROWS)).all()
        assert {row.stream_id for row in rows} == set(STREAMS)
        assert {row.message_count for row in rows} == {3}
        return Counter(row.generation for row in rows)


@pytest.fixture
def env(servers: RunningServers, database_url: str, keys_prefix: str) -> dict[str, str]:
    return worker_environment(servers.redis_url, database_url, keys_prefix)


@pytest.fixture
async def table(env: dict[str, str]) -> AsyncIterator[Table]:
    """A thousand streams with rows that were damaged."""
    redis = make_client(env["REDIS_URL"])
    engine = make_engine(parse_database_url(env["DATABASE_URL"]), pool_size=2, application_name="test")
    replica = RebuildingReplica(redis, Keys(env["WORKER_KEY_PREFIX"]), engine)
    types = ("user_message", "assistant_message", "assistant_delta", "user_message")
    for stream_id in STREAMS:
        await replica.append_many(stream_id, *types)
    for at in range(0, len(STREAMS), 200):
        await replica.project(*STREAMS[at : at + 200])
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE stream_projections SET message_count = 0"))
    yield Table(engine)
    await engine.dispose()
    await redis.aclose()


async def test_killed_five_times_it_finishes_and_does_little_twice(env: dict[str, str], table: Table) -> None:
    for kill in range(1, KILLS + 1):
        with running("rebuild", "--rate", "400", env=env) as process:
            enough = len(STREAMS) * kill / (KILLS + 1)

            async def has_come_so_far(enough: float = enough) -> bool:
                return await table.done() >= enough

            await wait_until(has_come_so_far, f"{enough:.0f} streams", DEADLINE_SECONDS)
            assert process.stop(signal.SIGKILL) == -signal.SIGKILL
    assert await table.done() < len(STREAMS)
    with running("rebuild", "--json", env=env) as last:
        await _ended(last)
        assert last.process.returncode == 0, last.log
        report = json.loads(last.log.splitlines()[-1])
    assert (report["streams"], report["rebuilt"]) == (len(STREAMS), len(STREAMS))
    times = await table.times_rebuilt()
    assert set(times) <= {1, 2}
    assert times[2] <= len(STREAMS) / 10


async def test_two_processes_share_a_rebuild_and_tell_the_same(env: dict[str, str], table: Table) -> None:
    with ExitStack() as stack:
        both = [stack.enter_context(running("rebuild", "--json", "--rate", "400", env=env)) for _ in "ab"]
        for process in both:
            await _ended(process)
        assert [process.process.returncode for process in both] == [0, 0], [p.log for p in both]
        one, other = [json.loads(process.log.splitlines()[-1]) for process in both]
    assert one == other
    assert one["rebuilt"] == len(STREAMS)
    assert await table.workers() == 2
    assert await table.times_rebuilt() == {1: len(STREAMS)}


async def _ended(command: RunningCommand) -> None:
    await wait_until(lambda: command.process.poll() is not None, "the rebuild to end", DEADLINE_SECONDS)
