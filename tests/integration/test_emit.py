"""Emitting: what is written, for every kind of client, and what is refused."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Any
from uuid import UUID

import pytest
from redis.asyncio import Redis

from tests.proxy import redis_proxy
from tests.servers import RunningServers
from worker import EmitError, InvalidEventError, Keys, OutcomeUnknownError, emit
from worker.embedded.redis_server import find_redis_server, start_redis
from worker.errors import FeedPartitionsError

CLIENTS: list[dict[str, Any]] = [
    {"decode_responses": decode, "protocol": protocol, **legacy}
    for decode in (False, True)
    for protocol in (2, 3)
    for legacy in ({}, {"legacy_responses": False})
]


class Colour(Enum):
    RED = "red"


@pytest.fixture(params=CLIENTS, ids=lambda options: "-".join(map(str, options.values())))
async def any_client(servers: RunningServers, request: pytest.FixtureRequest) -> AsyncIterator[Redis]:
    client = Redis.from_url(servers.redis_url, **request.param)
    yield client
    await client.aclose()


async def log_of(redis: Redis, keys: Keys, stream_id: str) -> list[tuple[str, dict[bytes, bytes]]]:
    entries: Any = await redis.xrange(keys.log(stream_id))
    return [(event_id.decode(), fields) for event_id, fields in entries]


async def hints_of(redis: Redis, keys: Keys, stream_id: str) -> list[dict[bytes, bytes]]:
    entries: Any = await redis.xrange(keys.feed(keys.partition(stream_id)))
    return [fields for _, fields in entries]


async def written(redis: Redis, keys: Keys, data: Any) -> Any:
    """What stands in the log when this was emitted."""
    await emit(redis, "a", "", "user_message", data, keys=keys)
    [*_, (_, fields)] = await log_of(redis, keys, "a")
    return json.loads(fields[b"data"])


# What is written.


async def test_an_event_is_appended_to_its_log_and_a_hint_to_the_feed(
    redis: Redis, any_client: Redis, keys: Keys
) -> None:
    event_id = await emit(any_client, "é:1", "op1", "user_message", {"content": "hé"}, keys=keys)
    fields = {b"op": b"op1", b"type": b"user_message", b"data": b'{"content":"h\\u00e9"}'}
    assert type(event_id) is str
    assert await log_of(redis, keys, "é:1") == [(event_id, fields)]
    assert await hints_of(redis, keys, "é:1") == [{b"stream": "é:1".encode(), b"type": b"user_message"}]


async def test_log_and_hint_are_appended_in_one_transaction_log_first(
    servers: RunningServers, keys: Keys
) -> None:
    async with redis_proxy(servers.redis_url) as proxy:
        client = Redis.from_url(proxy.url)
        await emit(client, "a", "", "user_message", {}, keys=keys)
        await client.aclose()
    [transaction] = [sent for sent in proxy.sent if b"XADD" in sent]
    order = [b"MULTI", keys.log("a").encode(), keys.feed(keys.partition("a")).encode(), b"EXEC"]
    places = [transaction.index(part) for part in order]
    assert places == sorted(places)


async def test_only_projected_types_are_hinted(redis: Redis, keys: Keys) -> None:
    for event_type in ("user_message", "assistant_delta"):
        await emit(redis, "a", "", event_type, {}, projected_types={"user_message"}, keys=keys)
    assert len(await log_of(redis, keys, "a")) == 2
    assert [hint[b"type"] for hint in await hints_of(redis, keys, "a")] == [b"user_message"]


async def test_who_does_not_know_what_is_projected_hints_for_every_type(redis: Redis, keys: Keys) -> None:
    await emit(redis, "a", "", "whatever", {}, keys=keys)
    assert [hint[b"type"] for hint in await hints_of(redis, keys, "a")] == [b"whatever"]


async def test_the_feed_does_not_grow_without_end(redis: Redis, keys_prefix: str) -> None:
    keys = Keys(keys_prefix, feed_max_length=10)
    for _ in range(300):
        await emit(redis, "a", "", "user_message", {}, keys=keys)
    assert len(await log_of(redis, keys, "a")) == 300
    assert len(await hints_of(redis, keys, "a")) < 200


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "2026-01-02 03:04:05+00:00"),
        (date(2026, 1, 2), "2026-01-02"),
        (UUID(int=7), "00000000-0000-0000-0000-000000000007"),
        (Decimal("1.10"), "1.10"),
        ({5}, "{5}"),
        (b"\xff", r"b'\xff'"),
        (Path("/tmp"), "/tmp"),
        (Colour.RED, "Colour.RED"),
        (1j, "1j"),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
    ],
)
async def test_values_that_json_cannot_represent_are_written_as_text(
    redis: Redis, keys: Keys, value: Any, text: str
) -> None:
    assert await written(redis, keys, {"a": value, "b": [{"c": value}]}) == {"a": text, "b": [{"c": text}]}


async def test_keys_that_json_cannot_represent_are_written_as_text(redis: Redis, keys: Keys) -> None:
    data = {(1, 2): 1, UUID(int=7): 2, 5: 3, None: 4, True: 5, 1.5: 6, b"x": 7}
    assert await written(redis, keys, {"a": data}) == {
        "a": {"(1, 2)": 1, str(UUID(int=7)): 2, "5": 3, "null": 4, "true": 5, "1.5": 6, "b'x'": 7}
    }


async def test_mappings_of_any_kind_are_objects(redis: Redis, keys: Keys) -> None:
    inner = MappingProxyType({"b": 1})
    assert await written(redis, keys, MappingProxyType({"a": inner})) == {"a": {"b": 1}}
    assert await written(redis, keys, {"a": [inner], "n": float("nan")}) == {"a": [{"b": 1}], "n": "nan"}


async def test_what_json_can_represent_is_written_as_it_is(redis: Redis, keys: Keys) -> None:
    data = {"a": [1, 2.5, None, True, "\U0001f9ec\0\ud800", 10**30], "b": (1, 2), "c": {}}
    assert await written(redis, keys, data) == {**data, "b": [1, 2]}


# What is refused; nothing is appended.


@pytest.mark.parametrize("stream_id", ["a\0b", "\0", "x" * 513, "é" * 257, "\ud800"])
async def test_a_stream_id_that_nothing_can_store_is_refused(
    redis: Redis, keys: Keys, stream_id: str
) -> None:
    with pytest.raises(InvalidEventError):
        await emit(redis, stream_id, "", "user_message", {}, keys=keys)
    assert await redis.keys(f"{keys.prefix}*") == []


async def test_the_longest_stream_id_is_not_refused(redis: Redis, keys: Keys) -> None:
    await emit(redis, "é" * 256, "", "user_message", {}, keys=keys)


def nested(levels: int) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for _ in range(levels):
        data = {"a": data}
    return data


def endless() -> dict[str, Any]:
    data: dict[str, Any] = {}
    data["a"] = [data]
    return data


@pytest.mark.parametrize("data", [[], "text", None, 5, nested(100_000), endless()], ids=str)
async def test_data_that_are_no_object_are_refused(redis: Redis, keys: Keys, data: Any) -> None:
    with pytest.raises(InvalidEventError):
        await emit(redis, "a", "", "user_message", data, keys=keys)
    assert await redis.keys(f"{keys.prefix}*") == []


@pytest.mark.parametrize(("operation_id", "event_type"), [("", ""), ("", "\ud800"), ("\ud800", "x")])
async def test_types_and_operations_that_are_no_text_are_refused(
    redis: Redis, keys: Keys, operation_id: str, event_type: str
) -> None:
    with pytest.raises(InvalidEventError):
        await emit(redis, "a", operation_id, event_type, {}, keys=keys)


async def test_a_log_key_of_another_type_is_refused(redis: Redis, any_client: Redis, keys: Keys) -> None:
    await redis.set(keys.log("a"), "text")
    for projected_types in (None, set[str]()):
        with pytest.raises(EmitError, match="WRONGTYPE") as caught:
            await emit(any_client, "a", "", "x", {}, projected_types=projected_types, keys=keys)
        assert not isinstance(caught.value, OutcomeUnknownError)
    assert await redis.get(keys.log("a")) == b"text"
    assert await emit(any_client, "b", "", "x", {}, keys=keys)


async def test_a_feed_key_of_another_type_does_not_keep_the_event_out(redis: Redis, keys: Keys) -> None:
    await redis.set(keys.feed(keys.partition("a")), "text")
    event_id = await emit(redis, "a", "", "user_message", {}, keys=keys)
    assert [appended for appended, _ in await log_of(redis, keys, "a")] == [event_id]


async def test_another_number_of_partitions_than_the_workers_is_refused(
    redis: Redis, any_client: Redis, keys_prefix: str
) -> None:
    keys, others = Keys(keys_prefix, partitions=4), Keys(keys_prefix, partitions=8)
    await redis.set(keys.feed_partitions, 8)
    with pytest.raises(FeedPartitionsError, match="WORKER_FEED_PARTITIONS=8"):
        await emit(any_client, "a", "", "user_message", {}, keys=keys)
    assert await log_of(redis, keys, "a") == []
    await emit(any_client, "a", "", "user_message", {}, keys=others)


async def test_before_the_first_worker_any_number_of_partitions_will_do(
    redis: Redis, keys_prefix: str
) -> None:
    await emit(redis, "a", "", "user_message", {}, keys=Keys(keys_prefix, partitions=3))
    await redis.set(Keys(keys_prefix).feed_partitions, 8)
    with pytest.raises(FeedPartitionsError):
        await emit(redis, "a", "", "user_message", {}, keys=Keys(keys_prefix, partitions=3))


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
        assert len(await log_of(client, keys, "a")) == len(await hints_of(client, keys, "a")) == 1
