"""Everything that a fault can get hold of: servers, network, replicas, producers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.acceptance.commands import worker_environment
from tests.chaos.fleet import Fleet
from tests.chaos.ledger import Ledger
from tests.chaos.producers import Producers
from tests.chaos.servers import PostgresqlServer, RedisServer
from worker import Keys
from worker.embedded.folder import locked_folder
from worker.migrate import migrate

REPLICAS = 4
_SETTINGS = {
    "WORKER_SWEEP_SECONDS": "1",
    "WORKER_CLAIM_AFTER_SECONDS": "2",
    "WORKER_SHUTDOWN_SECONDS": "5",
}


@dataclass(frozen=True, slots=True)
class World:
    """One run's world."""

    redis: RedisServer
    postgresql: PostgresqlServer
    env: dict[str, str]
    fleet: Fleet
    producers: Producers
    ledger: Ledger
    keys: Keys


@asynccontextmanager
async def a_world(rng: random.Random, rate: float, logs: Path | None) -> AsyncIterator[World]:
    """Start everything but the producers' work: ``rate`` is theirs, in events a second.

    The logs of the replicas go to the folder ``logs``, if there is one.
    """
    keys, ledger = Keys("chaos:"), Ledger()
    with ExitStack() as stack:
        folder = stack.enter_context(locked_folder(None, durable=False))
        redis = await asyncio.to_thread(RedisServer, folder)
        stack.callback(redis.close)
        postgresql = await asyncio.to_thread(PostgresqlServer, folder)
        stack.callback(postgresql.close)
        await asyncio.to_thread(migrate, await postgresql.make_database())
        env = worker_environment(redis.proxy.url, postgresql.workers_url, keys.prefix) | _SETTINGS
        fleet = Fleet(env, random.Random(rng.random()), stack, REPLICAS, logs)
        client = redis.make_client()
        try:
            producers = Producers(client, keys, ledger, random.Random(rng.random()), rate)
            yield World(redis, postgresql, env, fleet, producers, ledger, keys)
        finally:
            await client.aclose()
