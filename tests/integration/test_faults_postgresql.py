"""PostgreSQL in trouble of every kind: the worker says so, loses nothing, and goes on by itself."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any

import asyncpg
import pytest
from redis.asyncio import Redis

from tests.own_servers import OwnServer, own_postgresql
from tests.postgresql_faults import FAULTS, PASSWORD, Fault, Site
from tests.servers import RunningServers
from tests.waiting import wait_until
from tests.working import Working, working
from worker import Keys, database, emit, readiness, retry, running
from worker.testing.servers import Databases
from worker.transaction import LIMITS

Start = Callable[[], AbstractAsyncContextManager[Working]]


@pytest.fixture(scope="module")
def postgresql() -> Iterator[OwnServer]:
    """A server that the tests of this module break, one after the other."""
    with own_postgresql() as server:
        yield server


@pytest.fixture(scope="module")
def own_databases(postgresql: OwnServer) -> Databases:
    return Databases(postgresql.url)


@pytest.fixture
async def site(postgresql: OwnServer, own_databases: Databases) -> AsyncIterator[Site]:
    postgresql.start()
    url = await asyncio.to_thread(own_databases.create_migrated)
    site = Site(postgresql, url, f"worker_{secrets.token_hex(4)}")
    await site.run(
        f"CREATE ROLE {{user}} LOGIN PASSWORD '{PASSWORD}'",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {user}",
    )
    yield site
    postgresql.start()
    await asyncio.to_thread(own_databases.drop, url)
    await site.run("DROP ROLE {user}", inside=False)


@pytest.fixture(autouse=True)
def _impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "_LONGEST_PAUSE_SECONDS", 0.2)
    monkeypatch.setattr(running, "_WATCH_SECONDS", 0.1)
    monkeypatch.setattr(readiness, "_ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(database, "_COMMAND_TIMEOUT_SECONDS", 1)
    monkeypatch.setattr(database, "_CONNECT_TIMEOUT_SECONDS", 1)


AT_WORK = [name for name in FAULTS if name != "not migrated"]
AT_REST = [name for name in FAULTS if name != "rows refused"]
AT_THE_START = ("stopped", "frozen", "right revoked", "not migrated", "wrong password", "database missing")


@pytest.fixture
def start(redis: Redis, servers: RunningServers, site: Site, keys: Keys) -> Start:
    return lambda: working(redis, servers.redis_url, site.worker_url, site.url, keys)


@pytest.mark.parametrize("fault", [FAULTS[name] for name in AT_WORK], ids=AT_WORK)
async def test_a_worker_says_what_is_wrong_and_goes_on_by_itself_once_it_is_mended(
    site: Site, start: Start, fault: Fault
) -> None:
    async with start() as worker:
        await worker.ready()
        await worker.reached("a", await worker.emit("a"))
        await fault.cause(site)
        event_id = await worker.emit("a")
        await worker.not_ready(fault.doing, *fault.words)
        other_id = await worker.emit("b")
        await fault.mend(site)
        await worker.reached("a", event_id)
        await worker.reached("b", other_id)
        await worker.acknowledged()
        await worker.ready()
        assert await worker.message_count("a") == 2
        assert await worker.dead_letters() == 0


@pytest.mark.parametrize("fault", [FAULTS[name] for name in AT_REST], ids=AT_REST)
async def test_a_worker_with_nothing_to_do_notices_too(site: Site, start: Start, fault: Fault) -> None:
    async with start() as worker:
        await worker.ready()
        await fault.cause(site)
        await worker.not_ready("checking PostgreSQL", *fault.words)
        await fault.mend(site)
        await worker.ready()


@pytest.mark.parametrize("fault", [FAULTS[name] for name in AT_THE_START], ids=AT_THE_START)
async def test_a_worker_that_cannot_start_yet_says_why_and_starts_once_it_can(
    site: Site, start: Start, fault: Fault
) -> None:
    await fault.cause(site)
    async with start() as worker:
        await worker.not_ready("connecting to PostgreSQL", *fault.words)
        event_id = await worker.emit("a")
        await fault.mend(site)
        await worker.ready()
        await worker.reached("a", event_id)
        await worker.acknowledged()
        assert await worker.dead_letters() == 0


async def test_a_restart_between_two_events_costs_nothing(site: Site, start: Start) -> None:
    async with start() as worker:
        await worker.reached("a", await worker.emit("a"))
        await asyncio.to_thread(site.server.stop)
        await asyncio.to_thread(site.server.start)
        await worker.reached("a", await worker.emit("a"))
        await worker.acknowledged()
        assert await worker.message_count("a") == 2


async def test_sessions_that_are_cut_off_again_and_again_lose_nothing(site: Site, start: Start) -> None:
    async with start() as worker:
        for _ in range(20):
            event_id = await worker.emit("a")
            await site.cut_off()
        await worker.reached("a", event_id)
        await worker.acknowledged()
        await worker.ready()
        assert await worker.message_count("a") == 20
        assert await worker.dead_letters() == 0


async def test_a_deadlock_is_a_reason_to_run_the_transaction_again(
    site: Site, start: Start, keys: Keys
) -> None:
    async with start() as worker, blocker(site) as other:

        async def claim(stream_id: str) -> str:
            data = {"wdkStrategyId": 7}
            return await emit(worker.producer, stream_id, "", "strategy_link", data, keys=keys)

        for stream_id in "ab":
            await worker.reached(stream_id, await claim(stream_id))
        lock = "SELECT FROM stream_projections WHERE stream_id = $1 FOR UPDATE"
        await other.execute(lock, "b")
        event_id = await claim("a")  # and so takes the strategy from b, whose row it must lock
        await wait_until(partial(waits_for_a_lock, site), "the worker to wait for the second row")
        await other.execute(lock, "a")
        await other.execute("COMMIT")
        await worker.reached("a", event_id)
        await worker.acknowledged()
        deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        await wait_until(partial(worker.fetch, deadlocks), "the server to tell of the deadlock")
        assert await worker.dead_letters() == 0


async def test_a_table_that_is_locked_for_longer_than_the_lock_timeout_is_waited_for(
    site: Site, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LIMITS, "lock_timeout", "200ms")
    async with start() as worker, blocker(site) as other:
        await worker.reached("a", await worker.emit("a"))
        await other.execute("LOCK TABLE stream_projections IN SHARE MODE")
        event_id = await worker.emit("a")
        await worker.not_ready("projecting", "55P03")
        await other.execute("COMMIT")
        await worker.reached("a", event_id)
        await worker.ready()
        assert await worker.dead_letters() == 0


@asynccontextmanager
async def blocker(site: Site) -> AsyncIterator[Any]:
    """A transaction of somebody else."""
    connection = await asyncpg.connect(site.url)
    try:
        await connection.execute("BEGIN")
        yield connection
    finally:
        await connection.close()


async def waits_for_a_lock(site: Site) -> bool:
    connection = await asyncpg.connect(site.url)
    try:
        sql = "SELECT true FROM pg_stat_activity WHERE usename = $1 AND wait_event_type = 'Lock'"
        return bool(await connection.fetchval(sql, site.user))
    finally:
        await connection.close()
