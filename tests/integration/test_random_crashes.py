"""Two services that freeze, die and start again at random while producers run; in one process, so cheaply.

A service freezes before one of its first statements, whichever, while the rest of the world goes on. Then it
is cancelled and its connections are dropped; or it comes back from the frost, and all that happens a little
later, in the middle of whatever it does. In every other seed they have no leases: these save work, and
nothing that is right may depend on them.

``CRASH_SEEDS=200 pytest tests/integration/test_random_crashes.py`` plays so many seeds.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta

import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from projections import strategies
from tests.conversations import Universe, random_universe
from tests.feeds import pending_of
from tests.interleaving import HaltingReplica
from tests.leaseless import NoLeases
from tests.producers import Producer
from tests.reference.model import single_reader
from tests.servers import RunningServers
from tests.tables import differences, read_table
from tests.waiting import wait_until
from worker import Keys
from worker.app import Servers, make_service
from worker.leases import Leases
from worker.redis_client import make_client
from worker.settings import Settings
from worker.waiting import wait_for

SEEDS = int(os.environ.get("CRASH_SEEDS", "10"))
STREAMS = 8
EVENTS = 400
LIVES = 4
"""How often each of the two services is started before the last time."""
LAST_HALT = 60
LONGEST_LIFE_SECONDS = 0.5
LONGEST_FROST_SECONDS = 0.1
LONGEST_PAUSE = timedelta(seconds=0.2)
SETTLE_SECONDS = 90  # on a machine with much else to do; a second or two as a rule


class Lives:
    """One service after another in the place of a replica."""

    def __init__(
        self,
        name: str,
        servers: RunningServers,
        database_url: str,
        prefix: str,
        seed: float,
        make_leases: type[Leases],
    ) -> None:
        self._name = name
        self._redis_url = servers.redis_url
        self._database_url = database_url
        self._prefix = prefix
        self._rng = random.Random(seed)
        self._make_leases = make_leases

    async def live_and_die(self) -> None:
        for _ in range(LIVES):
            async with self.service(self._rng.randrange(LAST_HALT)) as replica:
                await wait_for(replica.halted, LONGEST_LIFE_SECONDS)
                await asyncio.sleep(self._rng.uniform(0, LONGEST_FROST_SECONDS))
                if self._rng.random() < 0.5:
                    replica.release()
                    await asyncio.sleep(self._rng.uniform(0, LONGEST_FROST_SECONDS))

    @asynccontextmanager
    async def service(self, halt_at: int | None = None) -> AsyncIterator[HaltingReplica]:
        """A new service, which is killed at the end, and must not have ended by itself."""
        settings = Settings(
            REDIS_URL=self._redis_url,
            DATABASE_URL=self._database_url,
            key_prefix=self._prefix,
            sweep_seconds=0.1,
            claim_after_seconds=0.1,
            batch_streams=self._rng.choice([2, 3, 200]),
            page_megabytes=self._rng.choice([0.001, 16]),
            cache_megabytes=self._rng.choice([0, 64]),
        )
        replica = HaltingReplica(self._name, self._database_url, connections=3)
        async with AsyncExitStack() as ending:
            redis = make_client(self._redis_url)
            ending.push_async_callback(redis.aclose)
            ending.push_async_callback(replica.close)
            service = make_service(
                settings, Servers(redis, replica.engine), strategies, asyncio.Event(), self._make_leases
            )
            replica.start(service.run, halt_at)
            yield replica
            if replica.finished:
                await replica.finish()
                pytest.fail("a service has ended by itself")


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_crashing_services_give_the_table_of_a_single_reader(
    servers: RunningServers,
    database_url: str,
    engine: AsyncEngine,
    keys: Keys,
    client: Redis,
    redis: Redis,
    seed: int,
) -> None:
    rng = random.Random(seed)
    universe = random_universe(rng, streams=STREAMS, events=EVENTS)
    expected = single_reader(universe)
    halves: list[Universe] = [dict(list(universe.items())[half::2]) for half in range(2)]
    producers = [
        Producer(client, keys, logs, random.Random(rng.random()), longest_pause=LONGEST_PAUSE)
        for logs in halves
    ]
    make_leases = Leases if seed % 2 == 0 else NoLeases
    places = [
        Lives(name, servers, database_url, keys.prefix, rng.random(), make_leases) for name in ("one", "two")
    ]

    async def all_is_right() -> bool:
        return differences(await read_table(engine), expected) == []

    async def nothing_is_pending() -> bool:
        return await pending_of(client, keys, strategies.name) == 0

    hurry = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        for producer in producers:
            tasks.create_task(producer.run(hurry))
        async with asyncio.TaskGroup() as lives:
            for place in places:
                lives.create_task(place.live_and_die())
        hurry.set()
    # Whoever died last may have held them; they would run out by themselves, but later.
    await redis.delete(keys.sweep_lease(strategies.name), keys.live_replicas(strategies.name))
    async with places[0].service(), places[1].service():
        try:
            await wait_until(all_is_right, f"the table of seed {seed}", timeout=SETTLE_SECONDS)
        except AssertionError:
            assert differences(await read_table(engine), expected) == [], f"seed {seed}"
            raise
        await wait_until(nothing_is_pending, "the last hints to be acknowledged", timeout=SETTLE_SECONDS)
        assert await all_is_right(), "what was right must stay so"
