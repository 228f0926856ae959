"""Emitting what no log may hold, or where the server refuses it: an error says so and nothing is appended."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import hiredis
import pytest
from redis.asyncio import Redis

from tests.logs import hints_of, log_of
from tests.servers import RunningServers
from worker import EmitError, InvalidEventError, Keys, OutcomeUnknownError, emit
from worker.embedded.redis_server import find_redis_server, start_redis
from worker.errors import FeedPartitionsError


@pytest.mark.parametrize("stream_id", ["a\0b", "\0", "x" * 513, "é" * 257, "\ud800"])
async def test_a_stream_id_that_nothing_can_store_is_refused(
    redis: Redis, producer: Redis, keys: Keys, stream_id: str
) -> None:
    with pytest.raises(InvalidEventError):
        await emit(producer, stream_id, "", "user_message", {}, keys=keys)
    assert await redis.keys(f"{keys.prefix}*") == []


async def test_the_longest_stream_id_is_not_refused(producer: Redis, keys: Keys) -> None:
    await emit(producer, "é" * 256, "", "user_message", {}, keys=keys)


def nested(levels: int) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for _ in range(levels):
        data = {"a": data}
    return data


def endless() -> dict[str, Any]:
    data: dict[str, Any] = {}
    data["a"] = [data]
    return data


@pytest.mark.parametrize("data", [[], "text", None, 5, nested(100_000), endless()], ids=type)
async def test_data_that_are_no_object_are_refused(
    redis: Redis, producer: Redis, keys: Keys, data: Any
) -> None:
    with pytest.raises(InvalidEventError):
        await emit(producer, "a", "", "user_message", data, keys=keys)
    assert await redis.keys(f"{keys.prefix}*") == []


@pytest.mark.parametrize(("operation_id", "event_type"), [("", ""), ("", "\ud800"), ("\ud800", "x")])
async def test_types_and_operations_that_are_no_text_are_refused(
    producer: Redis, keys: Keys, operation_id: str, event_type: str
) -> None:
    with pytest.raises(InvalidEventError):
        await emit(producer, "a", operation_id, event_type, {}, keys=keys)


async def test_a_log_key_of_another_type_is_refused(redis: Redis, any_producer: Redis, keys: Keys) -> None:
    await redis.set(keys.log("a"), "text")
    for projected_types in (None, set[str]()):
        with pytest.raises(EmitError, match="WRONGTYPE") as caught:
            await emit(any_producer, "a", "", "x", {}, projected_types=projected_types, keys=keys)
        assert not isinstance(caught.value, OutcomeUnknownError)
    assert await redis.get(keys.log("a")) == b"text"
    assert await emit(any_producer, "b", "", "x", {}, keys=keys)


async def test_a_feed_key_of_another_type_does_not_keep_the_event_out(
    redis: Redis, producer: Redis, keys: Keys
) -> None:
    await redis.set(keys.feed(keys.partition("a")), "text")
    event_id = await emit(producer, "a", "", "user_message", {}, keys=keys)
    assert [appended for appended, _ in await log_of(redis, keys, "a")] == [event_id]


async def test_another_number_of_partitions_than_the_workers_is_refused(
    redis: Redis, any_producer: Redis, keys_prefix: str
) -> None:
    keys, others = Keys(keys_prefix, partitions=4), Keys(keys_prefix, partitions=8)
    await redis.set(keys.feed_partitions, 8)
    with pytest.raises(FeedPartitionsError, match=r"Keys\(partitions=8\)"):
        await emit(any_producer, "a", "", "user_message", {}, keys=keys)
    assert await log_of(redis, keys, "a") == []
    await emit(any_producer, "a", "", "user_message", {}, keys=others)


async def test_before_the_first_worker_any_number_of_partitions_will_do(
    redis: Redis, producer: Redis, keys_prefix: str
) -> None:
    await emit(producer, "a", "", "user_message", {}, keys=Keys(keys_prefix, partitions=3))
    await redis.set(Keys(keys_prefix).feed_partitions, 8)
    with pytest.raises(FeedPartitionsError):
        await emit(producer, "a", "", "user_message", {}, keys=Keys(keys_prefix, partitions=3))


@pytest.fixture
def full_redis(tmp_path: Path) -> Iterator[str]:
    """The URL of a Redis of its own, which is not durable and may be filled."""
    server = start_redis(find_redis_server(), tmp_path, kept=False, durable=False)
    yield server.url
    server.process.stop()


async def test_a_redis_without_memory_is_refused(full_redis: str, keys: Keys) -> None:
    async with Redis.from_url(full_redis) as client:
        await emit(client, "a", "", "user_message", {}, keys=keys)
        await client.config_set("maxmemory", 1)
        for projected_types in (None, set[str]()):
            with pytest.raises(EmitError, match="nothing was appended") as caught:
                await emit(client, "a", "", "x", {}, projected_types=projected_types, keys=keys)
            assert not isinstance(caught.value, OutcomeUnknownError)
            assert re.search(r"[^.]\.$", str(caught.value))
        assert len(await log_of(client, keys, "a")) == len(await hints_of(client, keys, "a")) == 1


REFUSALS = [
    *(
        "LOADING Redis is loading the dataset in memory",
        "READONLY You can't write against a read only replica.",
    ),
    *(
        "MISCONF Redis is configured to save RDB snapshots",
        "NOPERM this user has no permissions",
        "NOREPLICAS",
    ),
    *("MASTERDOWN Link with MASTER is down", "CLUSTERDOWN Hash slot not served", "MOVED 1 127.0.0.1:1"),
    *("BUSY Redis is busy running a script", "NOAUTH Authentication required.", "OOM command not allowed"),
]


async def refuse(reason: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Be a server that knows nothing, and refuses to append anything."""
    requests = hiredis.Reader()
    while data := await reader.read(65536):
        requests.feed(data)
        while (command := requests.gets()) is not False:
            reply = {
                b"XADD": f"-{reason}",
                b"GET": "$-1",
                b"EXEC": "-EXECABORT Transaction discarded because of previous errors.",
            }.get(command[0], "+OK")
            writer.write(f"{reply}\r\n".encode())
        await writer.drain()
    writer.close()


@pytest.mark.parametrize("reason", REFUSALS, ids=lambda reason: reason.split()[0])
@pytest.mark.parametrize("projected_types", [None, set[str]()], ids=["hinted", "unhinted"])
async def test_a_server_that_refuses_has_appended_nothing(
    keys: Keys, reason: str, projected_types: set[str] | None
) -> None:
    server = await asyncio.start_server(partial(refuse, reason), "127.0.0.1", 0)
    async with server, Redis(port=server.sockets[0].getsockname()[1]) as client:
        for _ in range(2):
            with pytest.raises(EmitError, match="nothing was appended") as caught:
                await emit(client, "a", "op", "x", {}, projected_types=projected_types, keys=keys)
            assert not isinstance(caught.value, OutcomeUnknownError)


async def test_a_replica_is_no_place_to_append_to(full_redis: str, keys: Keys) -> None:
    async with Redis.from_url(full_redis) as client:
        await client.replicaof("127.0.0.1", 1)
        with pytest.raises(EmitError, match="read only replica"):
            await emit(client, "a", "op", "x", {}, keys=keys)


@pytest.mark.parametrize("wrong", ["text", b"\xff", "9" * 5_000, "²", "8.0"])
@pytest.mark.parametrize("decode_responses", [True, False])
async def test_a_number_of_partitions_that_is_none_is_named(
    servers: RunningServers, redis: Redis, keys: Keys, wrong: str | bytes, decode_responses: bool
) -> None:
    await redis.set(keys.feed_partitions, wrong)
    async with Redis.from_url(servers.redis_url, decode_responses=decode_responses) as client:
        with pytest.raises(FeedPartitionsError, match=f"Key {keys.feed_partitions} holds no number"):
            await emit(client, "a", "", "x", {}, keys=keys)


async def test_a_key_for_the_number_of_partitions_that_is_of_another_type_is_named(
    redis: Redis, producer: Redis, keys: Keys
) -> None:
    await redis.lpush(keys.feed_partitions, "8")
    with pytest.raises(FeedPartitionsError, match=f"Key {keys.feed_partitions} holds no number"):
        await emit(producer, "a", "", "x", {}, keys=keys)
    assert await log_of(redis, keys, "a") == []


async def test_a_producer_without_the_right_to_transactions_appends_all_the_same(
    redis: Redis, keys: Keys
) -> None:
    user = keys.prefix.rstrip(":")
    await redis.execute_command(
        "ACL", "SETUSER", user, "on", ">secret", "~*", "-@all", "+xadd", "+get", "+client", "+hello", "+ping"
    )
    given = dict(redis.connection_pool.connection_kwargs)
    limited = Redis(host=given["host"], port=given["port"], username=user, password="secret")
    try:
        event_id = await emit(limited, "a", "", "user_message", {}, keys=keys)
        assert [entry[0] for entry in await log_of(redis, keys, "a")] == [event_id]
        assert len(await hints_of(redis, keys, "a")) == 1
    finally:
        await limited.aclose()
        await redis.execute_command("ACL", "DELUSER", user)


@pytest.mark.parametrize("wrong", [{"stream_id": 5}, {"operation_id": None}, {"event_type": b"user_message"}])
async def test_what_is_no_string_is_refused(
    redis: Redis, producer: Redis, keys: Keys, wrong: dict[str, Any]
) -> None:
    event: dict[str, Any] = {"stream_id": "a", "operation_id": "", "event_type": "user_message"}
    with pytest.raises(InvalidEventError, match="must be a string"):
        await emit(producer, **{**event, **wrong}, event_data={}, keys=keys)
    assert await redis.keys(f"{keys.prefix}*") == []
