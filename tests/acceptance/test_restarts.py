"""Two workers on one feed, restarted at random while producers run, give the table of a single reader.

In every other seed they have no leases: these save work, and nothing that is right may depend on them.

``RESTART_SEEDS=50 pytest tests/acceptance/test_restarts.py`` plays fifty seeds in a row.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator
from contextlib import ExitStack
from datetime import timedelta
from functools import partial

import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from projections import strategies
from tests.acceptance.commands import RunningCommand, running, worker_environment
from tests.conversations import Universe, random_universe
from tests.feeds import pending_of
from tests.producers import Producer
from tests.reference.model import single_reader
from tests.servers import RunningServers
from tests.tables import differences, read_table
from tests.waiting import wait_until
from worker import Keys
from worker.database import make_engine, parse_database_url

SEEDS = int(os.environ.get("RESTART_SEEDS", "3"))
STREAMS = 12
EVENTS = 800
RESTARTS = 4
LONGEST_PAUSE = timedelta(seconds=0.4)
START_SECONDS = 30
STARTED = '"event": "started"'


class Replicas:
    """Two workers, of which now and then one is killed or stopped, and started again."""

    def __init__(self, env: dict[str, str], stack: ExitStack, *, leases: bool) -> None:
        self._env = env
        self._module = "worker" if leases else "tests.leaseless"
        self._stack = stack
        self.workers = [self._start() for _ in range(2)]

    def _start(self) -> RunningCommand:
        return self._stack.enter_context(running("run", env=self._env, module=self._module))

    async def restart_at_random(self, rng: random.Random) -> None:
        """Kill or stop one of them, as a rule while it works, now and then while it is still starting."""
        number = rng.randrange(2)
        worker = self.workers[number]
        if rng.random() < 0.8:
            await wait_until(partial(worker.says, STARTED), "a worker to start", START_SECONDS)
        await asyncio.sleep(rng.uniform(0, 0.5))  # The moment of the restart is what is random here.
        had_started = worker.says(STARTED)
        signum = rng.choice([signal.SIGKILL, signal.SIGTERM])
        code = await asyncio.to_thread(worker.stop, signum)
        # One that has not started may not listen to signals yet.
        allowed = {-signum} if signum is signal.SIGKILL else {0} if had_started else {0, -signum}
        assert code in allowed, f"{signum.name}: exit code {code}\n{worker.log}"
        self.workers[number] = self._start()

    async def stop(self) -> None:
        """Stop both, once they have started, as a service manager does."""
        for worker in self.workers:
            await wait_until(partial(worker.says, STARTED), "a worker to start", START_SECONDS)
        codes = await asyncio.gather(*(asyncio.to_thread(worker.stop) for worker in self.workers))
        assert codes == [0, 0], "\n".join(worker.log for worker in self.workers)


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
    halves: list[Universe] = [dict(list(universe.items())[half::2]) for half in range(2)]
    producers = [
        Producer(redis, keys, logs, random.Random(rng.random()), longest_pause=LONGEST_PAUSE)
        for logs in halves
    ]
    env = worker_environment(servers.redis_url, database_url, keys_prefix) | {
        "WORKER_CLAIM_AFTER_SECONDS": "1",
        "WORKER_BATCH_STREAMS": str(rng.choice([2, 3, 200])),
        "WORKER_CACHE_MEGABYTES": rng.choice(["0", "64"]),
        "WORKER_PAGE_MEGABYTES": rng.choice(["0.001", "16"]),
    }

    async def all_is_right() -> bool:
        return differences(await read_table(engine), expected) == []

    async def nothing_is_pending() -> bool:
        return await pending_of(redis, keys, strategies.name) == 0

    hurry = asyncio.Event()
    with ExitStack() as stack:
        replicas = Replicas(env, stack, leases=seed % 2 == 0)
        async with asyncio.TaskGroup() as tasks:
            for producer in producers:
                tasks.create_task(producer.run(hurry))
            for _ in range(RESTARTS):
                await replicas.restart_at_random(rng)
            hurry.set()
        try:
            await wait_until(all_is_right, f"the table of seed {seed}", timeout=30)
        except AssertionError:
            assert differences(await read_table(engine), expected) == [], f"seed {seed}"
            raise
        await wait_until(nothing_is_pending, "the last hints to be acknowledged", timeout=30)
        await replicas.stop()
        assert await all_is_right(), "what was right must stay so"
