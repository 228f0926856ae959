"""The shipped projections and the example in one process: poison, a kill and a rebuild spoil no table."""

from __future__ import annotations

import asyncio
import json
import random
import signal
from functools import partial

import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from projections import strategies
from projections.simulation import simulate_conversation
from projections.stored_transcripts import transcripts
from tests.acceptance.commands import call, running, worker_environment
from tests.examples.orders import orders
from tests.servers import RunningServers
from tests.waiting import wait_until
from worker import Projection, emit
from worker.app import connect, make_log
from worker.comparison import compare_table
from worker.log import Log
from worker.settings import Settings

ALL = (strategies, transcripts, orders)
MODULES = "projections,projections.stored_transcripts,tests.examples.orders"
NUMBERS = range(20)
POISONED = range(5)
SETTLE_SECONDS = 30


class Shop:
    """Chats and orders on the servers, and the worker's three tables."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._redis = redis
        self._settings = settings
        rng = random.Random(3)
        self._chats = {f"chat-{n}": simulate_conversation(rng, [n], turns=50) for n in NUMBERS}

    async def go_on(self) -> None:
        """A few events more in every chat and every order, which must all be projected."""
        keys = self._settings.keys
        for chat, events in self._chats.items():
            for _ in range(8):
                event = next(events)
                await emit(self._redis, chat, event.operation_id, event.type, event.data, keys=keys)
        for number in NUMBERS:
            line = {"version": 2, "sku": f"tea-{number}", "price_cents": 420}
            await self.order(number, "line_added", line)
            await self.order(number, "order_paid", {})

    async def order(self, number: int, event_type: str, payload: dict[str, object]) -> None:
        keys = orders.keys(self._settings.keys)
        await emit(self._redis, f"order-{number}", "", event_type, payload, keys=keys)

    async def right(self, *projections: Projection) -> None:
        """Wait until every row is the fold of its log, as far as that can be folded, and there are all."""
        async with connect(self._settings) as servers:
            for projection in projections:
                logs = make_log(self._settings, servers.redis, projection)
                as_folded = partial(_as_folded, logs, servers.engine, projection)
                await wait_until(as_folded, f"{projection.name} to be what its logs say", SETTLE_SECONDS)


async def _as_folded(logs: Log, engine: AsyncEngine, projection: Projection) -> bool:
    found = await compare_table(logs, engine, projection)
    return found.rows == len(NUMBERS) and found.wrong_rows == 0


def done(*arguments: str, env: dict[str, str]) -> str:
    ended = call(*arguments, env=env)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.fixture
def env(servers: RunningServers, database_url: str, keys_prefix: str) -> dict[str, str]:
    env = worker_environment(servers.redis_url, database_url, keys_prefix)
    env |= {"WORKER_PROJECTIONS": MODULES}
    servers.guard(keys_prefix, logs=[orders.logs])
    done("migrate", env=env)
    return env


@pytest.fixture
def shop(producer: Redis, servers: RunningServers, database_url: str, keys_prefix: str) -> Shop:
    settings = Settings(redis_url=servers.redis_url, database_url=database_url, key_prefix=keys_prefix)
    return Shop(producer, settings)


async def test_all_three_tables_are_right_after_poison_a_kill_and_a_rebuild_of_one(
    shop: Shop, env: dict[str, str]
) -> None:
    with running("run", env=env) as worker:
        await shop.go_on()
        await shop.right(*ALL)
        for number in POISONED:
            await shop.order(number, "line_added", {"sku": "tea", "price": "free"})
        await shop.go_on()
        await shop.right(*ALL)
        listed = json.loads(done("dead-letters", "list", "--json", env=env))
        assert [letter["projection"] for letter in listed] == ["orders"] * len(POISONED)
        await shop.go_on()
        worker.stop(signal.SIGKILL)
    with running("run", env=env) as worker:
        async with asyncio.TaskGroup() as meanwhile:
            meanwhile.create_task(shop.go_on())
            await asyncio.to_thread(done, "rebuild", "--projection", "transcripts", env=env)
        done("dead-letters", "skip", "--all", "--yes", "--reason", "no price", env=env)
        await shop.go_on()
        await shop.right(*ALL)
        verified = json.loads(done("verify", "--json", env=env))
        assert len(verified) == len(ALL)
        assert worker.stop() == 0
