"""Real sentinels: the worker finds the master, and says what is wrong where it finds none."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.asyncio.sentinel import Sentinel
from redis.exceptions import ConnectionError, ResponseError

from tests.acceptance.commands import call_here, worker_environment
from tests.sentinels import (
    PASSWORD,
    SENTINEL_PASSWORD,
    SERVICE,
    Watched,
    client,
    port_of,
    watched_servers,
)
from tests.tls import Authority, behind_tls, server_context
from tests.waiting import wait_until
from tests.working import Working, working
from worker import EmitError, Keys, OutcomeUnknownError, emit, retry, wait_until_projected
from worker.database import make_engine, parse_database_url
from worker.redis_client import make_client, renew
from worker.sentinel import ASK_AGAIN_SECONDS, SENTINEL_SECONDS

Start = Callable[[str], AbstractAsyncContextManager[Working]]


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    """Servers that the tests of this module break in turns, and leave whole."""
    with watched_servers() as watched:
        yield watched


@pytest.fixture
def fresh() -> Iterator[Watched]:
    """Servers of a test's own, for what takes sentinels long to recover from."""
    with watched_servers() as watched:
        yield watched


@pytest.fixture
def keys() -> Keys:
    return Keys(f"t{secrets.token_hex(4)}:")


@pytest.fixture
async def redis(watched: Watched) -> AsyncIterator[Redis]:
    """The worker's client."""
    client = make_client(watched.url())
    yield client
    await client.aclose()


@pytest.fixture
async def application(watched: Watched) -> AsyncIterator[Redis]:
    """A client such as applications have, made by redis-py alone."""
    sentinel = Sentinel(watched.addresses, sentinel_kwargs={"password": SENTINEL_PASSWORD}, password=PASSWORD)
    client = sentinel.master_for(SERVICE)
    yield client
    await client.aclose()
    await sentinel.aclose()


@pytest.fixture
def start(application: Redis, database_url: str, keys: Keys, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Starts a worker whose REDIS_URL is this one."""
    monkeypatch.setattr(retry, "_LONGEST_PAUSE_SECONDS", 0.2)

    def started(url: str) -> AbstractAsyncContextManager[Working]:
        return working(application, url, database_url, database_url, keys, sweep_seconds=0.5)

    return started


async def port_of_client(redis: Redis) -> int:
    """Of the server that it talks to."""
    return int((await redis.info("server"))["tcp_port"])


# The client.


async def is_written(redis: Redis, key: str) -> bool:
    """Whether a master takes a write; it does not before it has a replica."""
    try:
        return bool(await redis.set(key, "1"))
    except ResponseError as error:
        if str(error).startswith("NOREPLICAS"):
            return False
        raise


async def test_the_client_follows_the_master(fresh: Watched, keys: Keys) -> None:
    """Though the old one goes on as a master for a while, and cuts nobody off."""
    redis = make_client(fresh.url())
    async with redis.client() as in_use:
        await in_use.ping()
        before = await port_of_client(redis)
        assert before == port_of(fresh.master())
        await asyncio.to_thread(fresh.fail_over)

        async def moved() -> bool:
            return await port_of_client(redis) == port_of(fresh.master())

        await wait_until(moved, "the client to talk to the new master", 2 * ASK_AGAIN_SECONDS)
        await wait_until(partial(is_written, redis, keys.log("x")), "the new master to have a replica", 10)
    assert await port_of_client(redis) != before
    pool: Any = redis.connection_pool
    led_to = {at.port for at in (*pool._available_connections, *pool._in_use_connections) if at.is_connected}
    assert led_to == {port_of(fresh.master())}, "no connection that was in use is kept"
    await redis.aclose()


async def test_without_sentinels_the_master_is_still_the_master(fresh: Watched, keys: Keys) -> None:
    redis = make_client(fresh.url())
    await redis.ping()
    for sentinel in fresh.sentinels:
        sentinel.freeze()
    pool: Any = redis.connection_pool
    pool._to_ask = 0
    began = time.monotonic()
    for number in range(50):
        await redis.set(keys.log("x"), number)
    assert time.monotonic() - began < SENTINEL_SECONDS + 2, "only the first one has waited"
    await redis.aclose()


async def test_a_server_that_is_no_master_is_not_believed_to_be_one(watched: Watched, redis: Redis) -> None:
    with (
        watched.demoted(),
        pytest.raises(ConnectionError, match="which a sentinel names the master, is none"),
    ):
        await redis.ping()
    assert await redis.ping()


async def test_connections_to_a_master_that_is_none_any_more_are_given_up(
    watched: Watched, redis: Redis, keys: Keys
) -> None:
    await redis.ping()
    with watched.demoted():
        with pytest.raises(ConnectionError) as refused:
            await redis.set(keys.log("x"), "1")
        await renew(redis, refused.value)
        with pytest.raises(ConnectionError, match="is none"):
            await redis.ping()
    assert await redis.ping()


async def test_sentinels_that_are_away_or_silent_cost_no_more_than_a_moment(fresh: Watched) -> None:
    away, silent, _ = fresh.sentinels
    away.stop()
    silent.freeze()
    redis = make_client(fresh.url())
    pool: Any = redis.connection_pool
    pool._to_ask = time.monotonic() + 3600
    began = time.monotonic()
    assert await redis.ping()
    assert SENTINEL_SECONDS <= time.monotonic() - began < SENTINEL_SECONDS + 2
    await pool.disconnect()
    began = time.monotonic()
    assert await redis.ping()
    assert time.monotonic() - began < SENTINEL_SECONDS, "the one that answered is asked first"
    await redis.aclose()


async def test_a_sentinel_that_was_left_behind_does_not_lead_astray(watched: Watched) -> None:
    """It alone still names a server that is gone; the others know better, and are asked next."""
    behind = watched.sentinels[0]
    with client(behind) as asked:
        asked.execute_command("SENTINEL", "MONITOR", "other", "127.0.0.1", "1", "2")
    with client(watched.sentinels[1]) as asked:
        asked.execute_command(
            "SENTINEL", "MONITOR", "other", "127.0.0.1", str(port_of(watched.master())), "2"
        )
    redis = make_client(watched.url("other"))
    try:
        with pytest.raises(ConnectionError):
            await redis.ping()
        assert await redis.ping()
    finally:
        await redis.aclose()
        for sentinel in watched.sentinels[:2]:
            with client(sentinel) as asked:
                asked.execute_command("SENTINEL", "REMOVE", "other")


async def test_several_connections_that_one_sentinel_leads_astray_blame_it_once(watched: Watched) -> None:
    """Each blame would go to another sentinel, and with three of them the first would be asked for ever."""
    for sentinel, port in zip(watched.sentinels, (1, port_of(watched.master())), strict=False):
        with client(sentinel) as asked:
            asked.execute_command("SENTINEL", "MONITOR", "other", "127.0.0.1", str(port), "2")
    redis = make_client(watched.url("other"))
    pool: Any = redis.connection_pool
    try:
        for master in [await pool.sentinel_manager.discover_master("other") for _ in range(3)]:
            pool.sentinel_manager.doubt(master)
        assert await redis.ping()
    finally:
        await redis.aclose()
        for sentinel in watched.sentinels[:2]:
            with client(sentinel) as asked:
                asked.execute_command("SENTINEL", "REMOVE", "other")


async def test_a_sentinel_that_falls_silent_does_not_hide_who_is_the_master(fresh: Watched) -> None:
    """Though no connection is made anew: the next time another one is asked."""
    redis = make_client(fresh.url())
    pool: Any = redis.connection_pool
    assert await redis.ping()
    fresh.sentinels[0].freeze()
    pool._to_ask = 0
    assert await redis.ping()
    pool._to_ask = 0
    began = time.monotonic()
    assert await redis.ping()
    assert time.monotonic() - began < SENTINEL_SECONDS
    assert pool._to_ask < time.monotonic() + ASK_AGAIN_SECONDS, "one has answered"
    await redis.aclose()


async def test_a_connection_whose_return_is_cancelled_is_given_back(redis: Redis) -> None:
    pool: Any = redis.connection_pool
    connection = await pool.get_connection()
    pool.master_address = ("127.0.0.1", 1)
    returning = asyncio.create_task(pool.release(connection))
    await asyncio.sleep(0)
    returning.cancel()
    await asyncio.wait([returning])
    assert returning.cancelled()
    assert not pool._in_use_connections


async def test_sentinels_and_servers_behind_tls(watched: Watched, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ours")
    context = server_context(authority.issue("127.0.0.1"))
    sentinel, master = (f"redis://127.0.0.1:{port_of(at)}" for at in (watched.sentinels[0], watched.master()))
    async with behind_tls(sentinel, context) as sentinel_front, behind_tls(master, context) as master_front:
        with client(watched.sentinels[0]) as asked:
            port = master_front.rpartition(":")[2]
            asked.execute_command("SENTINEL", "MONITOR", "secure", "127.0.0.1", port, "1")
        _, _, rest = watched.url("secure", ssl_ca_certs=str(authority.file)).rpartition("/secure")
        account = watched.url().split("@")[0].replace("redis+", "rediss+")
        redis = make_client(f"{account}@127.0.0.1:{sentinel_front.rpartition(':')[2]}/secure{rest}")
        try:
            assert await port_of_client(redis) == port_of(watched.master())
        finally:
            await redis.aclose()
            with client(watched.sentinels[0]) as asked:
                asked.execute_command("SENTINEL", "REMOVE", "secure")


# The worker.


async def test_a_worker_waits_while_no_sentinel_answers(watched: Watched, start: Start) -> None:
    for sentinel in watched.sentinels:
        sentinel.stop()
    try:
        async with start(watched.url()) as worker:
            await worker.not_ready("connecting to Redis", "None of 3 sentinels answers")
            for sentinel in watched.sentinels:
                await asyncio.to_thread(sentinel.start)
            await worker.ready()
            await worker.reached("a", await worker.emit("a"))
    finally:
        await asyncio.to_thread(watched.whole)


async def test_a_worker_waits_for_a_service_that_no_sentinel_knows_yet(
    watched: Watched, start: Start
) -> None:
    async with start(watched.url("orders")) as worker:
        await worker.not_ready("No sentinel knows a service 'orders'", "Mend the service's name")
        with client(watched.sentinels[1]) as asked:
            master = str(port_of(watched.master()))
            asked.execute_command("SENTINEL", "MONITOR", "orders", "127.0.0.1", master, "2")
        try:
            await worker.ready()
        finally:
            with client(watched.sentinels[1]) as asked:
                asked.execute_command("SENTINEL", "REMOVE", "orders")


async def test_a_worker_waits_for_sentinels_to_let_it_ask(watched: Watched, start: Start) -> None:
    url = watched.url(sentinel_username="worker", sentinel_password="hunter2")
    async with start(url) as worker:
        await worker.not_ready("A sentinel refuses us", "Mend sentinel_username and sentinel_password")
        assert "hunter2" not in str(worker.health.problems())
        with client(watched.sentinels[2]) as asked:
            rights = ("-@all", "+sentinel|get-master-addr-by-name")
            asked.execute_command("ACL", "SETUSER", "worker", "on", ">hunter2", *rights)
        try:
            await worker.ready()
        finally:
            with client(watched.sentinels[2]) as asked:
                asked.execute_command("ACL", "DELUSER", "worker")


async def test_commands_say_in_a_sentence_why_there_is_no_master(
    watched: Watched, database_url: str, keys: Keys
) -> None:
    for url, words in (
        (watched.url("orders"), "No sentinel knows a service 'orders'"),
        (watched.url(sentinel_password="hunter2"), "A sentinel refuses us"),
        ("redis+sentinel://:hunter2@127.0.0.1:1,127.0.0.1:2/orders", "None of 2 sentinels answers"),
    ):
        env = worker_environment(url, database_url, keys.prefix)
        for command in (["status"], ["emit", "a", "user_message", "{}"], ["check"]):
            ended = await asyncio.to_thread(call_here, *command, env=env)
            said = " ".join((ended.stdout + ended.stderr).split())
            assert ended.returncode == 1, said
            assert words in said
            assert not any(word in said for word in ("Traceback", "hunter2", PASSWORD, SENTINEL_PASSWORD))


# Applications.


@pytest.mark.parametrize("operation", ["", "1"])
async def test_an_application_whose_master_is_none_any_more_has_appended_nothing(
    watched: Watched, application: Redis, keys: Keys, operation: str
) -> None:
    await emit(application, "a", operation, "user_message", {}, keys=keys)
    with watched.demoted(), pytest.raises(EmitError, match=r"nothing was appended: .*[^.]\.$") as refused:
        await emit(application, "a", f"{operation}2", "user_message", {}, keys=keys)
    assert not isinstance(refused.value, OutcomeUnknownError)
    assert await application.xlen(keys.log("a")) == 1


async def test_an_application_waits_for_its_own_write(
    watched: Watched, application: Redis, start: Start, database_url: str, keys: Keys
) -> None:
    engine = make_engine(parse_database_url(database_url), pool_size=1, application_name="test")
    async with start(watched.url()) as worker:
        await worker.ready()
        event_id = await emit(application, "a", "", "user_message", {}, keys=keys)
        await wait_until_projected(engine, "a", event_id, timeout=20, redis=application, keys=keys)
    await engine.dispose()
