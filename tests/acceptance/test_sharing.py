"""Two workers as processes: when one is killed or frozen, the other takes over its partitions and hints."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import pytest
from redis.asyncio import Redis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from projections import strategies
from tests.acceptance.commands import RunningCommand, running, worker_environment
from tests.servers import RunningServers
from tests.waiting import wait_until
from worker import Keys, emit
from worker.database import make_engine, parse_database_url

START_SECONDS = 30
TAKEOVER_SECONDS = 10
JOIN_SECONDS = 2
STREAMS = [f"s{number}" for number in range(40)]
PROJECTION = strategies.name


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = make_engine(parse_database_url(database_url), pool_size=2, application_name="test")
    yield engine
    await engine.dispose()


class Workers:
    """Two workers that share the feed. Neither sweeps nor the age of a hint help them."""

    def __init__(
        self, redis: Redis, engine: AsyncEngine, keys: Keys, commands: dict[str, RunningCommand]
    ) -> None:
        self.redis = redis
        self.engine = engine
        self.keys = keys
        self.commands = commands

    async def shares(self) -> dict[str, int]:
        """How many partitions each of them holds."""
        held = await self.redis.execute_command("HVALS", self.keys.leases(PROJECTION))
        return Counter(holder.decode() for holder in held)

    async def share(self, **expected: int) -> bool:
        return await self.shares() == expected

    async def emit_to_all(self) -> dict[str, str]:
        """An event in each stream, and so some in each partition."""
        return {s: await emit(self.redis, s, "", "user_message", {}, keys=self.keys) for s in STREAMS}

    async def have_projected(self, events: dict[str, str]) -> bool:
        async with self.engine.connect() as connection:
            rows = await connection.execute(text("SELECT stream_id, last_event_id FROM stream_projections"))
            return {row.stream_id: row.last_event_id for row in rows} == events

    async def have_in_hand(self, name: str) -> int:
        """How many hints are pending for one of them."""
        consumers = [
            info
            for partition in range(self.keys.partitions)
            for info in await self.redis.xinfo_consumers(self.keys.feed(partition), PROJECTION)
        ]
        return sum(info["pending"] for info in consumers if info["name"] == name.encode())


@contextmanager
def two_workers(env: dict[str, str]) -> Iterator[dict[str, RunningCommand]]:
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(running("run", env=env | {"WORKER_CONSUMER_NAME": name}))
            for name in ("one", "two")
        }


@pytest.fixture
async def workers(
    servers: RunningServers, database_url: str, engine: AsyncEngine, keys_prefix: str, redis: Redis
) -> AsyncIterator[Workers]:
    env = worker_environment(servers.redis_url, database_url, keys_prefix) | {
        "WORKER_SWEEP_SECONDS": "3600",
        "WORKER_CLAIM_AFTER_SECONDS": "3600",
    }
    with two_workers(env) as commands:
        workers = Workers(redis, engine, Keys(keys_prefix), commands)
        await wait_until(partial(workers.share, one=4, two=4), "fair shares", START_SECONDS)
        events = await workers.emit_to_all()
        await wait_until(partial(workers.have_projected, events), "both to work")
        yield workers


async def test_when_a_replica_is_killed_the_others_project_what_it_had_in_hand(workers: Workers) -> None:
    async with workers.engine.begin() as connection:
        await connection.execute(text("LOCK TABLE stream_projections"))
        events = await workers.emit_to_all()
        await wait_until(partial(workers.have_in_hand, "one"), "a worker to have hints in hand")
        workers.commands["one"].process.kill()
        killed = time.monotonic()
    await wait_until(partial(workers.have_projected, events), "the takeover", TAKEOVER_SECONDS)
    assert await workers.share(two=8)
    assert time.monotonic() - killed < TAKEOVER_SECONDS

    async def nothing_is_left() -> bool:
        groups = [
            await workers.redis.xinfo_consumers(workers.keys.feed(partition), PROJECTION)
            for partition in range(workers.keys.partitions)
        ]
        return all(
            info["name"] == b"two" and info["pending"] == 0 for consumers in groups for info in consumers
        )

    await wait_until(nothing_is_left, "the dead consumer to be removed")


async def test_a_frozen_replica_loses_its_partitions_and_has_them_back_when_it_thaws(
    workers: Workers,
) -> None:
    frozen = workers.commands["one"].process.pid
    os.kill(frozen, signal.SIGSTOP)
    await wait_until(partial(workers.share, two=8), "the takeover", TAKEOVER_SECONDS)
    events = await workers.emit_to_all()
    await wait_until(partial(workers.have_projected, events), "the other to work alone", TAKEOVER_SECONDS)
    os.kill(frozen, signal.SIGCONT)
    await wait_until(partial(workers.share, one=4, two=4), "fair shares", JOIN_SECONDS)
    events = await workers.emit_to_all()
    await wait_until(partial(workers.have_projected, events), "both to work")
    codes = [worker.stop() for worker in workers.commands.values()]
    assert codes == [0, 0]
    assert await workers.shares() == {}
