"""Looking over all logs: their first and last entries, and finding them under any prefix."""

from __future__ import annotations

import secrets

import pytest
from redis.asyncio import Redis

from tests.logs import append, logs_of
from tests.servers import RunningServers
from worker import Keys
from worker.log_scan import NO_STREAM, LogScan


@pytest.fixture
def client(either_client: Redis) -> Redis:
    return either_client


# First and last entries.


async def test_first_and_last_ids_are_those_of_entries_of_any_type(
    client: Redis, redis: Redis, keys: Keys
) -> None:
    await append(client, keys, "a", "delta", "user_message", "delta")
    await append(client, keys, "emptied", "delta")
    await redis.xdel(keys.log("emptied"), "1-0")
    await redis.set(keys.log("text"), "x")
    streams = ["missing", "a", "text", "emptied", "a"]
    scan = LogScan(client, keys)
    extents = await logs_of(client, keys).extents(dict.fromkeys(streams))
    assert {s: extent.first_id for s, extent in extents.items()} == {
        "missing": None,
        "a": "1-0",
        "text": None,
        "emptied": None,
    }
    assert {s for s, extent in extents.items() if not extent.exists} == {"missing"}
    assert await scan.last_ids(streams) == [None, "3-0", NO_STREAM, None, "3-0"]


async def test_last_ids_are_told_by_a_server_that_has_forgotten_the_script(
    client: Redis, redis: Redis, keys: Keys
) -> None:
    await append(client, keys, "a", "delta")
    scan = LogScan(client, keys)
    for _ in range(2):
        await redis.script_flush()
        assert await scan.last_ids(["a"]) == ["1-0"]


# Scanning.


async def scan_all(scan: LogScan) -> tuple[list[str], list[bytes]]:
    """All streams, and all keys that spell none, each once."""
    streams, misnamed = set[str](), set[bytes]()
    async for found, others in scan.scan(10):
        streams.update(found)
        misnamed.update(others)
    return sorted(streams), sorted(misnamed)


async def test_a_scan_finds_every_log_and_nothing_else(client: Redis, redis: Redis, keys: Keys) -> None:
    streams = sorted(["a", "", "é", "a:b", "*", "[x]", " ", "\\", *(f"s{number}" for number in range(50))])
    for stream_id in streams:
        await append(client, keys, stream_id, "delta")
    await redis.set(keys.log("text"), "x")
    await redis.xadd(f"{keys.prefix}strea:other", {"a": "b"})
    await redis.xadd(keys.feed(0), {"a": "b"})
    assert await scan_all(LogScan(client, keys)) == (sorted([*streams, "text"]), [])


@pytest.mark.parametrize("glob", ["*", "?", "[a-z]", "[^a]", "a\\", "\\*", "]", "^"])
async def test_a_prefix_is_no_pattern(
    servers: RunningServers, client: Redis, keys_prefix: str, glob: str
) -> None:
    servers.guard(f"{keys_prefix}*")
    keys, others = Keys(f"{keys_prefix}{glob}"), Keys(f"{keys_prefix}{secrets.token_hex(2)}")
    await append(client, keys, "mine", "delta")
    await append(client, others, "theirs", "delta")
    await append(client, Keys(f"{keys_prefix}x"), "theirs", "delta")
    assert await scan_all(LogScan(client, keys)) == (["mine"], [])


async def test_names_that_are_no_stream_ids_are_set_apart(client: Redis, redis: Redis, keys: Keys) -> None:
    await append(client, keys, "a", "delta")
    names = [keys.log_prefix.encode() + name for name in (b"a\0b", b"x" * 513, b"\xff")]
    for name in names[1:]:
        await redis.xadd(name, {"a": "b"})
    await redis.set(names[0], "text")
    assert await scan_all(LogScan(client, keys)) == (["a"], names)


async def test_a_scan_of_ends_tells_where_each_log_ends(client: Redis, redis: Redis, keys: Keys) -> None:
    await append(client, keys, "a", "delta", "user_message")
    await append(client, keys, "emptied", "delta")
    await redis.xdel(keys.log("emptied"), "1-0")
    await redis.set(keys.log("text"), "x")
    await redis.xadd(keys.log_prefix.encode() + b"\xff", {"type": "delta"}, id="7-0")
    found = dict[bytes, bytes]()
    async for step in LogScan(client, keys).scan_ends(2):
        found |= step
    assert found == {b"a": b"2-0", b"emptied": b"", b"text": NO_STREAM.encode(), b"\xff": b"7-0"}
