"""Several projections in one worker: what is wrong with one keeps none of the others waiting."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest
from redis.asyncio import Redis

from projections import strategies
from tests.rights import ADMINISTRATOR
from tests.servers import RunningServers
from tests.tallies import MAKE_TABLE, tallies
from tests.waiting import wait_until
from tests.working import Working, working
from worker import Keys, emit, running

_EVENTS = 300
_CONNECTIONS = 4
"""Of each projection."""
_ROUNDS = 3
_LATENCY_SECONDS = 1.0
"""More than enough for an event that nothing holds up, less than any time that the other would wait."""


@pytest.fixture
async def worker(
    servers: RunningServers, database_url: str, redis: Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Working]:
    """Strategies, and tallies whose table is missing at first."""
    monkeypatch.setattr(running, "_WATCH_SECONDS", 0.1)
    both = [strategies, tallies(logs="orders:")]
    servers.guard(keys.prefix, logs=["orders:"])
    async with working(redis, servers.redis_url, database_url, database_url, keys, both) as under_way:
        yield under_way


async def add(worker: Working, stream_id: str, event_type: str = "add") -> str:
    keys = Keys(worker.keys.prefix, logs="orders:")
    return await emit(worker.producer, stream_id, "", event_type, {"n": 1}, keys=keys)


async def all_add_up_to(worker: Working, expected: int, streams: int = _EVENTS) -> None:
    async def there() -> bool:
        found = await worker.fetch("SELECT count(*) FROM tallies WHERE total = $1", expected)
        return bool(found == streams)

    await wait_until(there, f"{streams} streams to add up to {expected}", 20)


async def chats_go_on(worker: Working) -> None:
    """Project some events of the other projection, each within the time that any would take."""
    for number in range(10):
        began = time.monotonic()
        await worker.reached(f"chat-{number}", await worker.emit(f"chat-{number}"))
        assert time.monotonic() - began < _LATENCY_SECONDS


async def test_a_missing_table_stops_its_own_projection_alone(worker: Working) -> None:
    await worker.not_ready("tallies")
    waiting = await add(worker, "order")
    await wait_until(lambda: not worker.health.problems("strategies"), "strategies to be ready")
    await chats_go_on(worker)
    assert worker.health.problems("tallies")
    await worker.fetch(MAKE_TABLE)
    await all_add_up_to(worker, 1, streams=1)
    await worker.ready()
    assert await worker.fetch("SELECT last_event_id FROM tallies") == waiting
    # Gone again while both run.
    await worker.fetch("DROP TABLE tallies")
    await add(worker, "order")
    await worker.not_ready("tallies")
    assert not worker.health.problems("strategies")
    await chats_go_on(worker)


async def test_poison_stops_streams_of_its_own_projection_alone(worker: Working) -> None:
    await worker.fetch(MAKE_TABLE)
    await worker.ready()
    for number in range(_EVENTS):
        await add(worker, f"order-{number}", "fail")
    await chats_go_on(worker)

    async def all_told() -> bool:
        return bool(await worker.dead_letters() == _EVENTS)

    await wait_until(all_told, "a letter for each stream", 20)
    assert await worker.fetch("SELECT count(*) FROM dead_letters WHERE projection = 'strategies'") == 0


@asynccontextmanager
async def locked(database_url: str, statement: str) -> AsyncIterator[None]:
    """Hold the locks that a statement takes."""
    connection = await asyncpg.connect(database_url)
    try:
        async with asyncio.timeout(60), connection.transaction():
            await connection.execute(statement)
            yield
    finally:
        await connection.close()


@pytest.mark.parametrize("statement", ["SELECT 1 FROM tallies FOR UPDATE", "LOCK TABLE tallies"])
async def test_locks_hold_up_their_own_projection_alone(worker: Working, statement: str) -> None:
    await worker.fetch(MAKE_TABLE)
    for number in range(_EVENTS):
        await add(worker, f"order-{number}")
    await all_add_up_to(worker, 1)
    async with locked(worker.database_url, statement):
        for number in range(_EVENTS):
            await add(worker, f"order-{number}")
        await chats_go_on(worker)
        assert not worker.health.problems("strategies")
    await all_add_up_to(worker, 2)


async def test_many_that_wait_for_locks_leave_another_its_connections(
    servers: RunningServers,
    database_url: str,
    redis: Redis,
    producer: Redis,
    keys: Keys,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(running, "_WATCH_SECONDS", 0.1)
    waiting = [tallies(f"tallies-{number}", logs=f"t{number}:") for number in range(4)]
    servers.guard(keys.prefix, logs=[projection.logs for projection in waiting])
    async with working(
        redis, servers.redis_url, database_url, database_url, keys, [strategies, *waiting], sweep_seconds=0.2
    ) as worker:
        await worker.fetch(MAKE_TABLE)
        await worker.ready()
        async with locked(database_url, "LOCK TABLE tallies"):
            for projection in waiting:
                for number in range(_EVENTS // 4):
                    stream_id = f"{projection.name}-{number}"
                    await emit(producer, stream_id, "", "add", {"n": 1}, keys=projection.keys(keys))

            async def all_wait() -> bool:
                found = await worker.fetch(
                    "SELECT count(*) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND wait_event_type = 'Lock'",
                    role=ADMINISTRATOR,
                )
                return bool(found >= _CONNECTIONS * len(waiting))

            await wait_until(all_wait, "all connections of those that wait to be in use", 20)
            for _ in range(_ROUNDS):
                await chats_go_on(worker)
            assert not worker.health.problems("strategies")
        await all_add_up_to(worker, 1)
