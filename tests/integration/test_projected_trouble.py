"""Waiting for one's own write while servers, connections and waiters come and go."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from redis.asyncio import Redis
from sqlalchemy import NullPool, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from projections import strategies
from tests.integration.test_projected import LONG, SHORT, Waits, subscribed
from tests.projecting import Replica, run
from tests.proxy import TcpProxy
from tests.rights import ADMINISTRATOR, REDIS_READER, as_user, client_as
from tests.servers import RunningServers
from tests.waiting import wait_until
from worker import Keys, ProjectionTimeoutError, awaited, projected, watcher
from worker.database import make_engine, parse_database_url
from worker.whereabouts import Rows


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    yield
    assert not projected._watches


@pytest.fixture
def replica(client: Redis, keys: Keys, engine: AsyncEngine) -> Replica:
    return Replica(client, keys, engine)


@pytest.fixture
def waits(reading: AsyncEngine, reader: Redis, keys: Keys) -> Waits:
    return Waits(reading, reader, keys)


async def projected_with_message(replica: Replica, *stream_ids: str) -> None:
    """A pass, and what workers tell after it."""
    await replica.project(*stream_ids)
    await replica.admin.publish(replica.keys.moved(strategies.name), b"[]")


def tasks() -> set[asyncio.Task[Any]]:
    return asyncio.all_tasks() - {asyncio.current_task()}


# Connections.


@pytest.mark.parametrize("retries", [True, False])
async def test_a_subscription_that_is_cut_is_made_again(
    servers: RunningServers, replica: Replica, waits: Waits, monkeypatch: pytest.MonkeyPatch, retries: bool
) -> None:
    own = waits.redis = (
        Redis.from_url(as_user(servers.redis_url, REDIS_READER))
        if retries
        else client_as(replica.redis, REDIS_READER)
    )
    monkeypatch.setattr(awaited, "_FIRST_PAUSE_SECONDS", LONG)
    monkeypatch.setattr(watcher, "LONGEST_PAUSE_SECONDS", LONG)
    monkeypatch.setattr(watcher, "LONGEST_DEAF_PAUSE_SECONDS", LONG)
    waiting = waits.start("a", await replica.append("a", "user_message"))
    await subscribed(replica.redis, replica.keys)
    [cut] = [client["id"] for client in await replica.admin.client_list() if client["sub"] == "1"]
    await replica.admin.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    await wait_until(lambda: another(replica.redis, cut), "another subscription")
    assert not waiting.done()
    await projected_with_message(replica, "a")
    assert await waiting < LONG / 3
    await own.aclose()


async def another(redis: Redis, cut: str) -> bool:
    return any(
        client["sub"] == "1" and client["id"] != cut
        for client in await client_as(redis, ADMINISTRATOR).client_list()
    )


async def test_sessions_that_are_terminated_are_opened_again(
    replica: Replica, waits: Waits, database_url: str
) -> None:
    own = make_engine(parse_database_url(database_url), pool_size=1, application_name="waits")
    waits.engine = own
    waiting = waits.start("a", await replica.append("a", "user_message"))
    for _ in range(10):
        await run(
            replica.engine,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'waits'",
            role=ADMINISTRATOR,
        )
        await asyncio.wait({waiting}, timeout=0.05)
    await replica.project("a")
    await waiting
    await own.dispose()


async def test_a_silent_redis_holds_up_no_look_at_rows(
    servers: RunningServers, replica: Replica, waits: Waits
) -> None:
    proxy = TcpProxy(as_user(servers.redis_url, REDIS_READER))
    own = waits.redis = Redis.from_url(proxy.url)
    try:
        proxy.stall()
        waiting = waits.start("a", await replica.append("a", "user_message"))
        await asyncio.wait({waiting}, timeout=SHORT)
        await replica.project("a")
        assert await waiting < LONG / 3
    finally:
        proxy.close()
        await own.aclose()


async def test_a_redis_that_is_away_is_told_of_when_the_time_is_up(
    servers: RunningServers, replica: Replica, waits: Waits
) -> None:
    proxy = TcpProxy(as_user(servers.redis_url, REDIS_READER))
    proxy.refuse = True
    own = waits.redis = Redis.from_url(proxy.url, retry=None)
    try:
        with pytest.raises(ProjectionTimeoutError, match="Redis could not be asked lately: ConnectionError"):
            await waits("a", await replica.append("a", "user_message"), 1)
    finally:
        proxy.close()
        await own.aclose()


async def test_a_postgresql_that_is_away_is_waited_for_and_told_of(
    replica: Replica, waits: Waits, database_url: str
) -> None:
    proxy = TcpProxy(database_url, record=False)
    own = make_engine(parse_database_url(proxy.url), pool_size=1, application_name="waits")
    waits.engine = own
    try:
        proxy.refuse = True
        event_id = await replica.append("a", "user_message")
        with pytest.raises(ProjectionTimeoutError, match=r"not be looked at\..* PostgreSQL could"):
            await waits("a", event_id, SHORT)
        waiting = waits.start("a", event_id)
        await replica.project("a")
        await asyncio.wait({waiting}, timeout=SHORT)
        assert not waiting.done()
        proxy.refuse = False
        await waiting
    finally:
        await own.dispose()
        proxy.close()


async def test_a_silent_postgresql_ends_no_wait_much_too_late(
    replica: Replica, waits: Waits, database_url: str
) -> None:
    proxy = TcpProxy(database_url, record=False)
    own = make_engine(parse_database_url(proxy.url), pool_size=1, application_name="waits")
    waits.engine = own
    try:
        waiting = waits.start("a", await replica.append("a", "user_message"), SHORT)
        proxy.stall()
        with pytest.raises(ProjectionTimeoutError):
            await waiting
        await wait_until(lambda: not tasks(), "the watcher to end")
    finally:
        proxy.close()
        await own.dispose()


async def test_a_missing_right_is_told_of_when_the_time_is_up(replica: Replica, waits: Waits) -> None:
    event_id = await replica.append("a", "user_message")
    await run(replica.engine, "ALTER TABLE dead_letters RENAME TO elsewhere")
    with pytest.raises(ProjectionTimeoutError, match='relation "dead_letters" does not exist'):
        await waits("a", event_id, SHORT)


# Waiters, tasks and loops.


async def test_a_watcher_ends_with_its_last_waiter_and_leaves_nothing(
    replica: Replica, waits: Waits, redis: Redis
) -> None:
    before = tasks()
    event_ids = [await replica.append("a", "user_message") for _ in range(3)]
    waiting = [waits.start("a", event_id) for event_id in event_ids]
    await subscribed(redis, replica.keys)
    await replica.project("a")
    await asyncio.gather(*waiting)
    assert tasks() == before
    await subscribed(redis, replica.keys, subscribers=0)


async def test_who_started_the_watcher_may_be_cancelled(replica: Replica, waits: Waits, redis: Redis) -> None:
    event_id = await replica.append("a", "user_message")
    first, second = waits.start("a", event_id), waits.start("a", event_id)
    await subscribed(redis, replica.keys)
    first.cancel()
    await asyncio.wait({first})
    assert first.cancelled()
    await replica.project("a")
    await second


async def test_when_all_waiters_are_cancelled_nothing_is_left(
    replica: Replica, waits: Waits, redis: Redis
) -> None:
    before = tasks()
    event_id = await replica.append("a", "user_message")
    for seconds in (0, 0.001, 0.01, 0.05, 0.1):
        waiting = [waits.start("a", event_id) for _ in range(20)]
        await asyncio.wait(waiting, timeout=seconds)
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        assert all(task.cancelled() for task in waiting)
        await wait_until(lambda: tasks() == before, "the watcher to end")
    await subscribed(redis, replica.keys, subscribers=0)


async def test_a_timeout_around_it_is_heeded(replica: Replica, waits: Waits) -> None:
    event_id = await replica.append("a", "user_message")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(SHORT):
            await waits("a", event_id)


async def test_waits_without_time_end_at_once(replica: Replica, waits: Waits) -> None:
    for seconds in (0, -1):
        with pytest.raises(ProjectionTimeoutError, match="could not be looked at"):
            await waits("a", "1-0", seconds)


async def test_an_engine_that_is_disposed_meanwhile_is_used_on_and_left_without_connections(
    replica: Replica, waits: Waits, database_url: str
) -> None:
    own = make_engine(parse_database_url(database_url), pool_size=1, application_name="waits")
    waits.engine = own
    waiting = waits.start("a", await replica.append("a", "user_message"))
    await asyncio.wait({waiting}, timeout=SHORT)
    await own.dispose()
    await asyncio.wait({waiting}, timeout=SHORT)
    await replica.project("a")
    await waiting
    await wait_until(lambda: no_session(replica.engine), "all sessions to end")


async def no_session(engine: AsyncEngine) -> bool:
    sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'waits'"
    async with engine.connect() as connection:
        return bool((await connection.execute(text(sql))).scalar_one() == 0)


async def test_an_engine_is_left_as_it_was(replica: Replica, waits: Waits) -> None:
    event_id = await replica.append("a", "user_message")
    await replica.project("a")
    disposed = waits.engine.sync_engine.dispatch.engine_disposed
    before = len(list(disposed))
    await waits("a", event_id)
    assert len(list(disposed)) == before


async def test_a_bug_is_everybodys_answer_and_the_next_wait_starts_anew(
    replica: Replica, waits: Waits, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    event_id = await replica.append("a", "user_message")
    with monkeypatch.context() as patch:
        patch.setattr(Rows, "look", broken)
        waiting = [waits.start("a", event_id) for _ in range(3)]
        await asyncio.wait(waiting)
        assert [str(task.exception()) for task in waiting] == ["a bug"] * 3
    await replica.project("a")
    await waits("a", event_id)


def test_loops_that_run_one_after_the_other_have_watchers_of_their_own(
    servers: RunningServers, database_url: str, keys: Keys
) -> None:
    url = parse_database_url(database_url)
    engine = create_async_engine(url, poolclass=NullPool)

    async def one_loop(stream_id: str) -> None:
        redis = Redis.from_url(as_user(servers.redis_url, REDIS_READER))
        replica, waits = Replica(redis, keys, engine), Waits(engine, redis, keys)
        await replica.append(stream_id, "user_message", at="1-0")
        waiting = waits.start(stream_id, "1-0")
        await subscribed(redis, keys)
        table = text("INSERT INTO stream_projections (stream_id, last_event_id) VALUES (:stream, '1-0')")
        async with replica.engine.begin() as connection:
            await connection.execute(table, {"stream": stream_id})
        assert await waiting < LONG / 3
        await redis.aclose()

    for stream_id in "abc":
        asyncio.run(one_loop(stream_id))


def test_loops_in_several_threads_have_watchers_of_their_own(database_url: str, keys: Keys) -> None:
    async def one_loop() -> None:
        engine = create_async_engine(parse_database_url(database_url), poolclass=NullPool)
        for _ in range(10):
            with pytest.raises(ProjectionTimeoutError):
                await Waits(engine, None, keys)("a", "1-0", 0.02)

    with ThreadPoolExecutor() as threads:
        for run_ in [threads.submit(asyncio.run, one_loop()) for _ in range(4)]:
            run_.result()


def test_a_loop_that_ends_in_the_midst_of_waiting_leaves_nothing_for_the_next(
    servers: RunningServers, database_url: str, keys: Keys
) -> None:
    async def one_loop() -> None:
        redis = Redis.from_url(as_user(servers.redis_url, REDIS_READER))
        engine = make_engine(parse_database_url(database_url), pool_size=1, application_name="waits")
        waiting = Waits(engine, redis, keys).start("a", "1-0")
        await subscribed(redis, keys)
        assert not waiting.done()
        waiting.cancel()
        await asyncio.wait({waiting})
        await redis.aclose()
        await engine.dispose()

    async def one_that_leaves_it_to_run() -> None:
        engine = create_async_engine(parse_database_url(database_url), poolclass=NullPool)
        waiting = Waits(engine, None, keys).start("a", "1-0")
        await asyncio.wait({waiting}, timeout=SHORT)

    asyncio.run(one_loop())
    asyncio.run(one_that_leaves_it_to_run())
    gc.collect()


async def test_thousands_of_waits_that_come_and_go_get_their_answers(replica: Replica, waits: Waits) -> None:
    event_ids = {f"s{n}": await replica.append(f"s{n}", "user_message") for n in range(50)}
    started = time.monotonic()
    waiting = [waits.start(f"s{n % 50}", event_ids[f"s{n % 50}"]) for n in range(2_000)]
    for task in waiting[::7]:
        task.cancel()
    await projected_with_message(replica, *event_ids)
    await asyncio.wait(waiting)
    assert time.monotonic() - started < LONG / 3
    assert all(task.cancelled() for task in waiting[::7])
    assert sum(not task.cancelled() and task.exception() is None for task in waiting) == 1_714
