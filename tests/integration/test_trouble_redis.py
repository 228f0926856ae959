"""What a real Redis in trouble does to a client of the worker's, and how that is classified."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from redis.asyncio import Redis

from tests.own_servers import OwnServer, own_redis
from worker import redis_client
from worker.redis_client import make_client, renew
from worker.trouble import Trouble, classify, remedy


@pytest.fixture
def server() -> Iterator[OwnServer]:
    with own_redis() as server:
        yield server


@pytest.fixture
async def client(server: OwnServer) -> AsyncIterator[Redis]:
    client = make_client(server.url)
    yield client
    await client.aclose()


async def error_of(client: Redis, *command: Any) -> BaseException:
    try:
        await client.execute_command(*command)
    except Exception as error:
        return error
    raise AssertionError(f"{command} was not refused")


async def test_a_wrong_password_is_an_operators_to_mend(server: OwnServer) -> None:
    stranger = make_client(server.url.replace("default:", "default:not"))
    error = await error_of(stranger, "PING")
    await stranger.aclose()
    assert classify(error) is Trouble.MISCONFIGURED
    assert "REDIS_URL" in remedy(error)


async def test_a_missing_right_is_an_operators_to_mend(server: OwnServer, client: Redis) -> None:
    await client.execute_command("ACL", "SETUSER", "reader", "on", ">secret", "~*", "+get")
    host = server.url.rpartition("@")[2]
    reader = make_client(f"redis://reader:secret@{host}")
    error = await error_of(reader, "SET", "a", "b")
    await reader.aclose()
    assert classify(error) is Trouble.MISCONFIGURED


async def test_a_key_of_another_type_is_an_operators_to_mend(client: Redis) -> None:
    await client.set("feed:0", "not ours")
    error = await error_of(client, "XADD", "feed:0", "*", "a", "b")
    assert classify(error) is Trouble.MISCONFIGURED


async def test_a_master_that_was_demoted_is_left(client: Redis) -> None:
    await client.execute_command("REPLICAOF", "127.0.0.1", "1")
    connection = await client.client_id()
    assert await client.client_id() == connection
    error = await error_of(client, "SET", "a", "b")
    assert classify(error) is Trouble.RECONNECT
    await renew(client, error)
    assert await client.client_id() != connection


async def test_a_server_that_is_down_is_waited_for(server: OwnServer, client: Redis) -> None:
    await client.set("a", "kept")
    await asyncio.to_thread(server.kill)
    for _ in range(2):
        assert classify(await error_of(client, "PING")) is Trouble.RECONNECT
    await asyncio.to_thread(server.start)
    assert await client.get("a") == b"kept"


async def test_a_server_that_does_not_answer_is_waited_for(
    server: OwnServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_client, "_SOCKET_TIMEOUT_SECONDS", 0.2)
    client = make_client(server.url)
    await client.ping()
    server.freeze()
    assert classify(await error_of(client, "PING")) is Trouble.RECONNECT
    server.thaw()
    assert await client.ping()
    await client.aclose()


async def test_a_server_that_is_full_is_waited_for(client: Redis) -> None:
    await client.config_set("maxmemory", "1")
    assert classify(await error_of(client, "SET", "a", "b")) is Trouble.RECONNECT


async def test_a_server_that_admits_no_more_clients_is_waited_for(server: OwnServer, client: Redis) -> None:
    await client.config_set("maxclients", "1")
    another = make_client(server.url)
    error = await error_of(another, "PING")
    await another.aclose()
    assert classify(error) is Trouble.RECONNECT
