"""Redis in trouble of every kind: the worker goes on by itself, loses nothing, and overwrites nothing."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
from redis.asyncio import Redis

from projections import strategies
from tests.own_servers import OwnServer, own_redis
from tests.proxy import TcpProxy, redis_proxy
from tests.waiting import wait_until
from tests.working import Working, working
from worker import Keys, redis_client, retry
from worker.diverged import DivergedStreams

Start = Callable[..., AbstractAsyncContextManager[Working]]


@pytest.fixture(scope="module")
def server() -> Iterator[OwnServer]:
    """A server that keeps what it was given, and that the tests of this module break in turns."""
    with own_redis() as server:
        yield server


@pytest.fixture
def keys() -> Keys:
    return Keys(f"t{secrets.token_hex(4)}:")


@pytest.fixture
async def redis(server: OwnServer) -> AsyncIterator[Redis]:
    server.start()
    client = Redis.from_url(server.url)
    yield client
    server.start()
    await client.aclose()


@pytest.fixture(autouse=True)
def _impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "_LONGEST_PAUSE_SECONDS", 0.2)
    monkeypatch.setattr(redis_client, "_SOCKET_TIMEOUT_SECONDS", 1.5)


@pytest.fixture
def start(redis: Redis, server: OwnServer, database_url: str, keys: Keys) -> Start:
    def started(url: str = "", **settings: Any) -> AbstractAsyncContextManager[Working]:
        chosen = {"sweep_seconds": 0.2, **settings}
        return working(redis, url or server.url, database_url, database_url, keys, **chosen)

    return started


@pytest.fixture
def proxy(server: OwnServer) -> Iterator[TcpProxy]:
    with redis_proxy(server.url) as proxy:
        yield proxy


async def goes_on(worker: Working, *, messages: int) -> None:
    """A further message of a conversation is projected, after which it has so many."""
    await worker.reached("a", await worker.emit("a"))
    assert await worker.message_count("a") == messages
    await worker.acknowledged()


async def diverged(worker: Working) -> int:
    return await DivergedStreams(worker.redis, worker.keys, strategies.name).count()


@pytest.mark.parametrize("end", ["stop", "kill"])
async def test_a_redis_that_comes_back_with_its_data(server: OwnServer, start: Start, end: str) -> None:
    async with start() as worker:
        await goes_on(worker, messages=1)
        getattr(server, end)()
        await worker.not_ready("reading hints")
        server.start()
        await worker.redis.connection_pool.disconnect()  # The test's own connections have ended, too.
        await worker.ready()
        await goes_on(worker, messages=2)


async def test_a_redis_that_is_frozen_for_longer_than_every_timeout(server: OwnServer, start: Start) -> None:
    async with start() as worker:
        await goes_on(worker, messages=1)
        server.freeze()
        await worker.not_ready("reading hints")
        server.thaw()
        await worker.ready()
        await goes_on(worker, messages=2)


async def test_a_redis_that_has_forgotten_everything_is_told_and_nothing_is_overwritten(start: Start) -> None:
    async with start() as worker:
        await goes_on(worker, messages=1)
        await goes_on(worker, messages=2)
        entries = await worker.redis.xrange(worker.keys.log("a"))
        await worker.redis.flushall()
        await wait_until(lambda: diverged(worker), "the loss to be told")
        await worker.reached("b", await worker.emit("b"))
        assert await worker.message_count("a") == 2, "never silently overwritten"
        # An operator brings the log back as it was.
        await worker.redis.delete(worker.keys.log("a"))
        for event_id, fields in entries or ():
            await worker.redis.xadd(worker.keys.log("a"), fields, id=event_id)  # type: ignore[arg-type]
        await goes_on(worker, messages=3)

        async def none_diverged() -> bool:
            return await diverged(worker) == 0

        await wait_until(none_diverged, "the stream to be no longer diverged")


async def test_a_redis_that_forgot_only_the_last_entries_of_a_log(start: Start) -> None:
    """Such as one that was restarted from an older snapshot, or a replica that had not received them."""
    async with start() as worker:
        await goes_on(worker, messages=1)
        event_id = await worker.emit("a")
        await worker.reached("a", event_id)
        await worker.redis.xdel(worker.keys.log("a"), event_id)
        await worker.emit("a")
        await wait_until(lambda: diverged(worker), "the loss to be told")
        assert await worker.message_count("a") == 2


async def test_a_group_that_is_destroyed_is_made_again_and_the_sweep_finds_what_it_had(start: Start) -> None:
    async with start() as worker:
        await goes_on(worker, messages=1)
        for partition in range(worker.keys.partitions):
            await worker.redis.xgroup_destroy(worker.keys.feed(partition), strategies.name)
        await goes_on(worker, messages=2)


async def test_a_consumer_that_is_deleted_loses_hints_and_no_events(start: Start) -> None:
    async with start(consumer_name="me") as worker:
        await goes_on(worker, messages=1)
        for partition in range(worker.keys.partitions):
            feed = worker.keys.feed(partition)
            await worker.redis.xgroup_delconsumer(feed, strategies.name, "me")
        await goes_on(worker, messages=2)


async def test_a_blocked_read_that_an_operator_breaks_off(start: Start) -> None:
    async with start(sweep_seconds=3600) as worker:
        await goes_on(worker, messages=1)

        async def broken_off() -> bool:
            clients = await worker.redis.client_list(_type="normal")
            blocked = [c["id"] for c in clients if c["cmd"] == "xreadgroup" and "b" in c["flags"]]
            return any([await worker.redis.client_unblock(int(c), error=True) for c in blocked])

        await wait_until(broken_off, "a blocked read")
        await goes_on(worker, messages=2)


async def test_a_redis_that_is_full_is_waited_for(start: Start) -> None:
    async with start() as worker:
        await goes_on(worker, messages=1)
        await worker.redis.config_set("maxmemory", 1)
        await worker.not_ready("OOM")
        await worker.redis.config_set("maxmemory", 0)
        await worker.ready()
        await goes_on(worker, messages=2)


async def test_replies_that_are_lost_lose_no_hint(proxy: TcpProxy, start: Start) -> None:
    async with start(proxy.url, sweep_seconds=3600) as worker:
        await goes_on(worker, messages=1)
        proxy.lose = b"XREADGROUP"
        events: list[str] = []

        async def one_is_lost() -> bool:
            events.append(await worker.emit("a"))
            return proxy.lost > 0

        await wait_until(one_is_lost, "a reply to be lost")
        proxy.lose = None
        await worker.reached("a", events[-1])
        assert await worker.message_count("a") == 1 + len(events)
        await worker.acknowledged()


async def test_connections_that_are_cut_again_and_again(proxy: TcpProxy, start: Start) -> None:
    async with start(proxy.url, sweep_seconds=3600) as worker:
        for number in range(1, 20):
            event_id = await worker.emit("a")
            proxy.cut()
            await worker.reached("a", event_id)
            assert await worker.message_count("a") == number
        await worker.acknowledged()


async def test_a_connection_that_falls_silent(proxy: TcpProxy, start: Start) -> None:
    async with start(proxy.url) as worker:
        await goes_on(worker, messages=1)
        proxy.stall()
        await worker.not_ready("reading hints")
        proxy.flow()
        await worker.ready()
        await goes_on(worker, messages=2)
