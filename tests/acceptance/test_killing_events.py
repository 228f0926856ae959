"""An event that kills the worker ends as a dead letter, and not as a crash loop."""

from __future__ import annotations

import asyncio
import signal

import asyncpg
import pytest
from redis.asyncio import Redis

from tests.acceptance.commands import DEADLINE_SECONDS, call, running, worker_environment
from tests.servers import RunningServers
from tests.waiting import wait_until
from worker import Keys, emit

DEATHS = 6


@pytest.mark.parametrize("hinted", [True, False], ids=["hinted", "found by the sweep"])
async def test_an_event_that_kills_every_worker_is_given_up_and_everything_else_goes_on(
    servers: RunningServers, database_url: str, keys_prefix: str, producer: Redis, hinted: bool
) -> None:
    keys = Keys(keys_prefix)
    # With the same name after every start, as in a StatefulSet, a death is known at once.
    env = worker_environment(servers.redis_url, database_url, keys_prefix) | {
        "WORKER_PROJECTIONS": "tests.bombs",
        "WORKER_CONSUMER_NAME": "only",
    }
    types = None if hinted else ()
    ends = {
        stream_id: await emit(producer, stream_id, "", "user_message", {}, keys=keys) for stream_id in "ac"
    }
    await emit(producer, "b", "", "user_message", {}, keys=keys)
    bomb = await emit(producer, "b", "", "bomb", {}, keys=keys, projected_types=types)
    after = await emit(producer, "b", "", "user_message", {}, keys=keys, projected_types=types)
    for _ in range(DEATHS):
        with running("run", env=env) as victim:
            code = await asyncio.to_thread(victim.process.wait, DEADLINE_SECONDS)
            assert code == -signal.SIGKILL, victim.log
    connection = await asyncpg.connect(database_url)

    async def letter() -> tuple[str, str, str] | None:
        row = await connection.fetchrow("SELECT stream_id, event_id, reason FROM dead_letters")
        return tuple(row) if row else None

    async def position(stream_id: str) -> str | None:
        sql = "SELECT last_event_id FROM stream_projections WHERE stream_id = $1"
        found: str | None = await connection.fetchval(sql, stream_id)
        return found

    try:
        with running("run", env=env) as worker:
            assert await wait_until(letter, "the dead letter", 30) == ("b", bomb, "kills_the_worker")
            assert [await position(stream_id) for stream_id in "ac"] == list(ends.values())
            ends["a"] = await emit(producer, "a", "", "user_message", {}, keys=keys)

            async def goes_on() -> bool:
                return await position("a") == ends["a"]

            await wait_until(goes_on, "another stream to go on")
            skip = ("dead-letters", "skip", "b", bomb, "--reason", "it kills", "--by", "me")
            done = await asyncio.to_thread(call, *skip, env=env)
            assert done.returncode == 0, done.stderr

            async def skipped() -> bool:
                return await position("b") == after

            await wait_until(skipped, "the stream to go on after the skip")
            assert await asyncio.to_thread(worker.stop) == 0
    finally:
        await connection.close()
