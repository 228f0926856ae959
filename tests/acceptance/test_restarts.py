"""Two workers on one feed, restarted at random while producers run, give the table of a single reader.

``RESTART_SEEDS=50 pytest tests/acceptance/test_restarts.py`` plays fifty seeds in a row.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Awaitable
from contextlib import ExitStack
from functools import partial
from typing import cast

import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from projections import strategies
from tests.acceptance.commands import RunningCommand, running, worker_environment
from tests.conversations import Universe, random_universe
from tests.integration.test_law import differences
from tests.reference.model import single_reader
from tests.reference.wire import numerically
from tests.servers import RunningServers
from tests.tables import read_table
from tests.waiting import wait_until
from worker import Keys
from worker.database import make_engine, parse_database_url

SEEDS = int(os.environ.get("RESTART_SEEDS", "3"))
STREAMS = 12
EVENTS = 600
RESTARTS = 5


class Producer:
    """Appends a universe in the order of its event ids, with hints for some events, and a few wrong ones."""

    def __init__(self, redis: Redis, keys: Keys, universe: Universe, rng: random.Random) -> None:
        self._redis = redis
        self._keys = keys
        self._rng = rng
        entries = [(event_id, s, fields) for s, log in universe.items() for event_id, fields in log]
        self._left = sorted(entries, key=lambda entry: (numerically(entry[0]), entry[1].encode()))

    async def produce(self, share: float) -> None:
        """Append about this share of all events."""
        for _ in range(min(len(self._left), round(share * EVENTS))):
            event_id, stream_id, fields = self._left.pop(0)
            pairs = [part for pair in fields.items() for part in pair]
            await self._send("XADD", self._keys.log(stream_id), event_id, *pairs)
            event_type = fields.get(b"type", b"").decode("utf-8", "replace")
            if event_type in strategies.types and self._rng.random() < 0.7:
                await self._hint(stream_id, event_type)
            if self._rng.random() < 0.1:
                await self._hint(self._rng.choice([stream_id, "nobody"]), "user_message")
            if self._rng.random() < 0.02:
                await self._send("XADD", self._keys.feed(0), "*", "nonsense", b"\xff")

    async def _hint(self, stream_id: str, event_type: str) -> None:
        feed = self._keys.feed(self._keys.partition(stream_id))
        await self._send("XADD", feed, "*", "stream", stream_id, "type", event_type)

    async def _send(self, *command: str | bytes) -> None:
        await cast("Awaitable[bytes]", self._redis.execute_command(*command))


class Replicas:
    """Two workers, of which now and then one is killed or stopped, and started again."""

    def __init__(self, env: dict[str, str], stack: ExitStack) -> None:
        self._env = env
        self._stack = stack
        self.workers = [self._start() for _ in range(2)]

    def _start(self) -> RunningCommand:
        return self._stack.enter_context(running("run", env=self._env))

    async def restart(self, number: int, signum: signal.Signals) -> None:
        code = await asyncio.to_thread(self.workers[number].stop, signum)
        if signum is signal.SIGTERM:
            assert code in (0, -signal.SIGTERM), self.workers[number].log  # stopped while it was starting
        self.workers[number] = self._start()

    async def stop(self) -> None:
        """Stop both. One that has not started yet ends by the signal itself."""
        for worker in self.workers:
            await wait_until(partial(worker.says, "started"), "a worker to start")
            assert await asyncio.to_thread(worker.stop) == 0, worker.log


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = make_engine(parse_database_url(database_url), pool_size=1, application_name="test")
    yield engine
    await engine.dispose()


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_restarted_workers_give_the_table_of_a_single_reader(
    servers: RunningServers, database_url: str, engine: AsyncEngine, keys_prefix: str, redis: Redis, seed: int
) -> None:
    rng = random.Random(seed)
    keys = Keys(keys_prefix)
    universe = random_universe(rng, streams=STREAMS, events=EVENTS)
    expected = single_reader(universe)
    producer = Producer(redis, keys, universe, rng)
    env = worker_environment(servers.redis_url, database_url, keys_prefix) | {
        "WORKER_CLAIM_AFTER_SECONDS": "1",
        "WORKER_BATCH_STREAMS": str(rng.choice([1, 3, 200])),
        "WORKER_CACHE_MEGABYTES": rng.choice(["0", "64"]),
    }

    async def all_is_right() -> bool:
        return differences(await read_table(engine), expected) == []

    async def nothing_is_pending() -> bool:
        pending = [await redis.xpending(keys.feed(p), strategies.name) for p in range(keys.partitions)]
        return all(summary["pending"] == 0 for summary in pending)

    with ExitStack() as stack:
        replicas = Replicas(env, stack)
        for _ in range(RESTARTS):
            await asyncio.sleep(rng.random())  # The moment of the restart is what is random here.
            await producer.produce(rng.random() * 2 / RESTARTS)
            await replicas.restart(rng.randrange(2), rng.choice([signal.SIGKILL, signal.SIGTERM]))
        await producer.produce(1)
        try:
            await wait_until(all_is_right, f"the table of seed {seed}", timeout=30)
        except AssertionError:
            assert differences(await read_table(engine), expected) == []
            raise
        await wait_until(nothing_is_pending, "the last hints to be acknowledged", timeout=30)
        await replicas.stop()
