"""Emitting to a Redis that stands still or dies: one call makes one entry, whenever it comes back."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from threading import Timer
from typing import Any

import pytest
from redis.asyncio import Redis

from tests.logs import log_of
from tests.proxy import redis_proxy
from tests.waiting import wait_until
from worker import EmitError, Keys, OutcomeUnknownError, emit, emit_again
from worker.embedded.redis_server import RedisServer, find_redis_server, start_redis

KEYS = Keys()
CLIENTS: list[dict[str, Any]] = [
    {"decode_responses": decode, "protocol": protocol} for decode in (False, True) for protocol in (2, 3)
]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis of its own, which keeps its data, and may be stopped."""
    server = start_redis(find_redis_server(), tmp_path, kept=True, durable=False)
    yield server
    server.process.popen.send_signal(signal.SIGCONT)
    server.process.stop()


@pytest.fixture
async def redis(server: RedisServer) -> AsyncIterator[Redis]:
    """A patient client of that Redis, where workers have agreed on the number of partitions."""
    async with Redis.from_url(server.url) as client:
        await client.set(KEYS.feed_partitions, KEYS.partitions)
        yield client


@asynccontextmanager
async def producer(server: RedisServer, seconds: float = 0.03, **options: Any) -> AsyncIterator[Redis]:
    """A client as applications make them, with redis-py's own retries, but soon out of patience."""
    async with Redis.from_url(
        server.url, socket_timeout=seconds, socket_connect_timeout=seconds, **options
    ) as client:
        yield client


def stall(server: RedisServer) -> None:
    os.kill(server.process.popen.pid, signal.SIGSTOP)


def go_on(server: RedisServer) -> None:
    os.kill(server.process.popen.pid, signal.SIGCONT)


async def settled(client: Redis, unknown: OutcomeUnknownError) -> str:
    """Settle it as soon as the server lets us."""
    async with asyncio.timeout(10):
        while True:
            try:
                return await emit_again(client, unknown)
            except OutcomeUnknownError as again:
                unknown = again


@pytest.mark.parametrize("options", CLIENTS, ids=lambda options: "-".join(map(str, options.values())))
async def test_a_stalled_server_gets_one_entry_whenever_it_goes_on(
    server: RedisServer, redis: Redis, options: dict[str, Any]
) -> None:
    rng = random.Random(repr(options))
    settled_as: dict[str, str] = {}
    async with producer(server, **options) as client:
        await emit(client, "a", "", "user_message", {}, keys=KEYS)
        for number in range(12):
            stream_id = f"s{number}"
            # Some fit into the server's buffers, some into the kernel's on our side, some into neither.
            data = {"padding": "x" * rng.choice([0, 100, 200_000, 3_000_000, 9_000_000])}
            stall(server)
            with pytest.raises(OutcomeUnknownError) as caught:
                await emit(client, stream_id, "op", "user_message", data, keys=KEYS)
            going_on = Timer(rng.uniform(0, 0.08), go_on, [server])
            going_on.start()
            await asyncio.sleep(rng.uniform(0, 0.08))
            settled_as[stream_id] = await settled(client, caught.value)
            going_on.join()
        logs = {stream_id: await log_of(redis, KEYS, stream_id) for stream_id in settled_as}
    assert {s: [event_id for event_id, _ in log] for s, log in logs.items()} == {
        stream_id: [event_id] for stream_id, event_id in settled_as.items()
    }


@pytest.mark.parametrize("size", [300_000, 9_000_000], ids=["in the kernel", "in asyncio"])
async def test_what_has_not_left_us_when_we_give_up_is_never_sent(
    server: RedisServer, redis: Redis, size: int
) -> None:
    with redis_proxy(server.url) as proxy:
        proxy._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        async with Redis.from_url(proxy.url, socket_timeout=0.1) as client:
            await emit(client, "a", "op", "user_message", {}, keys=KEYS)
            data = {"x": "x" * size}
            proxy.stall()
            with pytest.raises(OutcomeUnknownError):
                # Without a transaction, since the reply to MULTI would end what is closed in peace, too.
                await emit(client, "a", "op", "user_message", data, projected_types=(), keys=KEYS)
            proxy.flow()
            await wait_until(lambda: not proxy._connections, "the proxy to see the end")
        assert len(b"".join(proxy.sent)) < 100_000
    assert len(await log_of(redis, KEYS, "a")) == 1


@pytest.mark.parametrize("executed", [True, False])
async def test_a_server_that_dies_before_it_replies_gets_one_entry(
    server: RedisServer, tmp_path: Path, executed: bool
) -> None:
    with redis_proxy(server.url) as proxy:
        async with Redis.from_url(proxy.url, socket_timeout=0.1) as client:
            await client.set(KEYS.feed_partitions, KEYS.partitions)
            await emit(client, "a", "", "user_message", {}, keys=KEYS)
            if executed:
                proxy.lose = b"EXEC"
            else:
                stall(server)
            with pytest.raises(OutcomeUnknownError) as caught:
                await emit(client, "a", "op", "user_message", {}, keys=KEYS)
            server.process.popen.kill()
            server.process.popen.wait()
            proxy.lose = None
            with pytest.raises(OutcomeUnknownError, match="still unknown"):
                await emit_again(client, caught.value)
            again = start_redis(find_redis_server(), tmp_path, kept=True, durable=False)
            try:
                event_id = await settled(client, caught.value)
                async with Redis.from_url(again.url) as patient:
                    _, *entries = await log_of(patient, KEYS, "a")
            finally:
                again.process.stop()
    assert [entry for entry, _ in entries] == [event_id]


async def test_a_stalled_server_that_was_not_connected_to_was_sent_nothing(
    server: RedisServer, redis: Redis
) -> None:
    stall(server)
    async with producer(server) as client:
        with pytest.raises(EmitError) as caught:
            await emit(client, "a", "op", "user_message", {}, keys=KEYS)
    assert not isinstance(caught.value, OutcomeUnknownError)
    go_on(server)
    assert await log_of(redis, KEYS, "a") == []


@pytest.mark.parametrize("killed", [True, False])
async def test_a_server_that_puts_writes_off_gets_one_entry(
    server: RedisServer, redis: Redis, killed: bool
) -> None:
    async with producer(server, seconds=5 if killed else 0.1, client_name="producer") as client:
        await emit(client, "a", "", "user_message", {}, keys=KEYS)
        await redis.execute_command("CLIENT", "PAUSE", 60_000, "WRITE")
        emitting = asyncio.create_task(emit(client, "a", "op", "user_message", {}, keys=KEYS))
        if killed:
            paused = await wait_until(partial(clients_in_a_transaction, redis), "the transaction")
            await redis.client_kill_filter(_id=paused[0])
        with pytest.raises(OutcomeUnknownError) as caught:
            await emitting
        settling = asyncio.create_task(settled(client, caught.value))
        await wait_until(partial(clients_in_a_transaction, redis), "the second attempt")
        await redis.execute_command("CLIENT", "UNPAUSE")
        event_id = await settling
        _, *entries = await log_of(redis, KEYS, "a")
    assert [entry for entry, _ in entries] == [event_id]


async def clients_in_a_transaction(redis: Redis) -> list[str]:
    return [client["id"] for client in await redis.client_list() if int(client["multi"]) >= 0]
