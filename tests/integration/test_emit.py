"""Emitting: what is written, whatever the client and the values."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any
from uuid import UUID

import pytest
from redis.asyncio import Redis

from tests.logs import hints_of, log_of
from tests.proxy import redis_proxy
from tests.rights import PRODUCER, as_user
from tests.servers import RunningServers
from worker import Keys, emit


class Colour(Enum):
    RED = "red"


async def written(redis: Redis, producer: Redis, keys: Keys, data: Any) -> Any:
    """What stands in the log when this was emitted."""
    await emit(producer, "a", "", "user_message", data, keys=keys)
    [*_, (_, fields)] = await log_of(redis, keys, "a")
    return json.loads(fields[b"data"])


async def test_an_event_is_appended_to_its_log_and_a_hint_to_the_feed(
    redis: Redis, any_producer: Redis, keys: Keys
) -> None:
    event_id = await emit(any_producer, "é:1", "op1", "user_message", {"content": "hé"}, keys=keys)
    fields = {b"op": b"op1", b"type": b"user_message", b"data": b'{"content":"h\\u00e9"}'}
    assert type(event_id) is str
    assert await log_of(redis, keys, "é:1") == [(event_id, fields)]
    assert await hints_of(redis, keys, "é:1") == [{b"stream": "é:1".encode(), b"type": b"user_message"}]


async def test_log_and_hint_are_appended_in_one_transaction_log_first(
    servers: RunningServers, keys: Keys
) -> None:
    with redis_proxy(as_user(servers.redis_url, PRODUCER)) as proxy:
        client = Redis.from_url(proxy.url)
        await emit(client, "a", "", "user_message", {}, keys=keys)
        await client.aclose()
    [transaction] = [sent for sent in proxy.sent if b"XADD" in sent]
    order = [b"MULTI", keys.log("a").encode(), keys.feed(keys.partition("a")).encode(), b"EXEC"]
    places = [transaction.index(part) for part in order]
    assert places == sorted(places)


async def test_only_projected_types_are_hinted(redis: Redis, producer: Redis, keys: Keys) -> None:
    for event_type in ("user_message", "assistant_delta"):
        await emit(producer, "a", "", event_type, {}, projected_types={"user_message"}, keys=keys)
    assert len(await log_of(redis, keys, "a")) == 2
    assert [hint[b"type"] for hint in await hints_of(redis, keys, "a")] == [b"user_message"]


async def test_who_does_not_know_what_is_projected_hints_for_every_type(
    redis: Redis, producer: Redis, keys: Keys
) -> None:
    await emit(producer, "a", "", "whatever", {}, keys=keys)
    assert [hint[b"type"] for hint in await hints_of(redis, keys, "a")] == [b"whatever"]


async def test_the_feed_does_not_grow_without_end(redis: Redis, producer: Redis, keys_prefix: str) -> None:
    keys = Keys(keys_prefix, feed_max_length=10)
    for _ in range(300):
        await emit(producer, "a", "", "user_message", {}, keys=keys)
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
        (PurePosixPath("/tmp"), "/tmp"),
        (Colour.RED, "Colour.RED"),
        (1j, "1j"),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
    ],
)
async def test_values_that_json_cannot_represent_are_written_as_text(
    redis: Redis, producer: Redis, keys: Keys, value: Any, text: str
) -> None:
    assert await written(redis, producer, keys, {"a": value, "b": [{"c": value}]}) == {
        "a": text,
        "b": [{"c": text}],
    }


async def test_keys_that_json_cannot_represent_are_written_as_text(
    redis: Redis, producer: Redis, keys: Keys
) -> None:
    data = {(1, 2): 1, UUID(int=7): 2, 5: 3, None: 4, True: 5, 1.5: 6, b"x": 7}
    assert await written(redis, producer, keys, {"a": data}) == {
        "a": {"(1, 2)": 1, str(UUID(int=7)): 2, "5": 3, "null": 4, "true": 5, "1.5": 6, "b'x'": 7}
    }


async def test_mappings_of_any_kind_are_objects(redis: Redis, producer: Redis, keys: Keys) -> None:
    inner = MappingProxyType({"b": 1})
    assert await written(redis, producer, keys, MappingProxyType({"a": inner})) == {"a": {"b": 1}}
    assert await written(redis, producer, keys, {"a": [inner], "n": float("nan")}) == {
        "a": [{"b": 1}],
        "n": "nan",
    }


async def test_what_json_can_represent_is_written_as_it_is(redis: Redis, producer: Redis, keys: Keys) -> None:
    data = {"a": [1, 2.5, None, True, "\U0001f9ec\0\ud800", 10**30], "b": (1, 2), "c": {}}
    assert await written(redis, producer, keys, data) == {**data, "b": [1, 2]}
