"""`check` finds what is wrong with a real Redis."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from redis.asyncio import Redis

from tests.checking import above_info, look, names, said
from tests.own_servers import own_redis
from tests.servers import RunningServers
from tests.waiting import wait_until
from worker import Keys, emit
from worker.check import Report, redis_server
from worker.leases import Leases

A_DAY_MS = 86_400_000
Commands = list[tuple[str, ...]]


@pytest.fixture(scope="module")
def own_url() -> Iterator[str]:
    """A Redis that keeps what it is given, as it should be."""
    with own_redis() as server:
        yield server.url


@pytest.fixture
async def own(own_url: str) -> AsyncIterator[Redis]:
    """A client that leaves the server as it was."""
    client = Redis.from_url(own_url)
    yield client
    await client.replicaof("NO", "ONE")
    for name, value in HEALTHY.items():
        await client.config_set(name, value)
    await client.flushall()
    await client.execute_command("ACL", "DELUSER", "checked")
    await client.aclose()


HEALTHY = {
    "maxmemory": "0",
    "maxmemory-policy": "noeviction",
    "appendonly": "yes",
    "appendfsync": "everysec",
    "save": "",
}


@pytest.mark.parametrize("protocol", [2, 3])
async def test_a_healthy_redis_gives_nothing_above_info(own: Redis, own_url: str, protocol: int) -> None:
    await emit(own, "chat", "", "user_message", {})
    report = await look(f"{own_url}?protocol={protocol}")
    assert above_info(report) == {"postgresql-unreachable"}
    assert "redis-appendfsync-everysec" in names(report)
    assert "What Redis lets the worker do" in report.fine


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"appendonly": "no"}, "redis-keeps-nothing"),
        ({"appendonly": "no", "save": "3600 1"}, "redis-snapshots-only"),
        ({"appendfsync": "no"}, "redis-appendfsync-no"),
        ({"maxmemory-policy": "allkeys-lru", "maxmemory": "1gb"}, "redis-evicts"),
        ({"maxmemory-policy": "allkeys-lru"}, "redis-may-evict"),
        ({"maxmemory-policy": "volatile-ttl", "maxmemory": "1gb"}, "redis-may-evict"),
        ({"maxmemory": "1"}, "redis-refuses-writes"),
    ],
)
async def test_wrong_settings_of_redis_are_found(
    own: Redis, own_url: str, settings: dict[str, str], found: str
) -> None:
    for name, value in settings.items():
        await own.config_set(name, value)
    assert found in names(await look(own_url))


async def test_a_redis_that_is_nearly_full_is_found(own: Redis, own_url: str) -> None:
    used = (await own.info("memory"))["used_memory"]
    await own.config_set("maxmemory", int(used * 1.02))
    assert "redis-nearly-full" in names(await look(own_url))


async def test_a_replica_is_found(own: Redis, own_url: str) -> None:
    await own.replicaof("127.0.0.1", "1")
    assert "redis-is-replica" in names(await look(own_url))


async def test_a_failed_snapshot_is_found() -> None:
    with own_redis() as server:
        client = Redis.from_url(server.url)
        folder = str((await client.config_get("dir"))["dir"])
        (Path(folder) / "dump.rdb" / "in the way").mkdir(parents=True)
        await client.execute_command("BGSAVE")

        async def failed() -> bool:
            return bool((await client.info("persistence"))["rdb_last_bgsave_status"] == "err")

        await wait_until(failed, "the snapshot to fail")
        await client.aclose()
        assert "redis-save-failed" in names(await look(server.url))


async def limited(own: Redis, own_url: str, *rules: str) -> str:
    """The URL for a user with these rights alone."""
    await own.execute_command("ACL", "SETUSER", "checked", "reset", "on", ">right", *rules)
    parts = urlsplit(own_url)
    return parts._replace(netloc=f"checked:right@{parts.netloc.rpartition('@')[2]}").geturl()


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        (("~*", "&*", "+@all", "-xack"), "XACK on feed:0, needed for acknowledging hints"),
        (("~*", "&*", "+@all", "-xgroup", "+xgroup|create"), "XGROUP SETID on feed:0"),
        (("~stream:*", "~feed:*", "&*", "+@all"), "HSET on worker:strategies:leases"),
        (("~*", "resetchannels", "+@all"), "PUBLISH on worker:strategies:moved"),
    ],
)
async def test_each_missing_right_is_told_with_what_it_is_for(
    own: Redis, own_url: str, rules: tuple[str, ...], told: str
) -> None:
    report = await look(await limited(own, own_url, *rules))
    assert told in said(report, "redis-right-missing")


@pytest.mark.parametrize(
    ("denied", "told"),
    [
        ("-multi", "cannot be tried without MULTI"),
        ("-info", "Redis's version: could not be checked"),
        ("-config", "appendfsync is not told"),
    ],
)
async def test_what_takes_more_rights_than_the_worker_has_is_no_error(
    own: Redis, own_url: str, denied: str, told: str
) -> None:
    report = await look(await limited(own, own_url, "~*", "&*", "+@all", denied))
    assert told in said(report, "not-told")
    assert above_info(report) == {"postgresql-unreachable"}


async def test_commands_are_tried_without_any_effect_also_where_they_are_run(
    own: Redis, own_url: str
) -> None:
    keys, name = Keys(), "strategies"
    await emit(own, "chat", "", "user_message", {})
    await Leases(own, keys, projection=name, consumer="it").tick()
    for partition in range(keys.partitions):
        await own.execute_command("XGROUP", "CREATE", keys.feed(partition), name, "0", "MKSTREAM")
    await own.set(keys.sweep_lease(name), "it", px=A_DAY_MS)
    await own.hset(keys.suspects(name), "chat", "2")
    await own.pexpire(keys.suspects(name), A_DAY_MS)
    for key in (keys.replicas(name), keys.in_flight(name), keys.diverged(name)):
        await own.hset(key, "it", "[]")

    async def state() -> dict[str | bytes, tuple[object, bool]]:
        found = {key: await own.dump(key) for key in await own.keys("*")}
        return {key: (dump, await own.pttl(key) > A_DAY_MS / 2) for key, dump in found.items()}

    before = await state()
    assert len(before) > 15
    for rules in (["+@all"], ["+@all", "-multi"]):
        report = await look(await limited(own, own_url, "~*", "&*", *rules))
        assert "redis-right-missing" not in names(report)
        assert await state() == before


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        (["-xack"], "XACK on feed:0, needed for acknowledging hints"),
        (["-hset"], "HSET on worker:strategies:leases, needed for sharing partitions"),
        (["-xadd"], "XADD on feed:0, needed for hinting"),
    ],
)
async def test_missing_rights_are_told_to_a_user_without_transactions_too(
    own: Redis, own_url: str, rules: list[str], told: str
) -> None:
    report = await look(await limited(own, own_url, "~*", "&*", "+@all", "-multi", *rules))
    assert told in said(report, "redis-right-missing")


@pytest.mark.parametrize(
    ("threshold", "found"), [("_FLOOR", "redis-too-old"), ("_TELLS_ALL", "redis-tells-less")]
)
async def test_a_redis_below_what_is_needed_is_found(
    servers: RunningServers, monkeypatch: pytest.MonkeyPatch, threshold: str, found: str
) -> None:
    monkeypatch.setattr(redis_server, threshold, (99, 0))
    assert found in names(await look(servers.admin_redis_url))


@pytest.mark.parametrize("hours", [-1, 1])
async def test_a_clock_that_differs_is_found(servers: RunningServers, database_url: str, hours: int) -> None:
    report = await look(servers.redis_url, database_url, clock=lambda: time.time() + hours * 3600)
    assert {"clock-differs-from-redis", "clock-differs-from-postgresql"} <= names(report)
    assert ("behind" if hours > 0 else "ahead of") in said(report, "clock-differs-from-redis")


@pytest.mark.parametrize(
    ("commands", "found"),
    [
        ([("SET", "feed:partitions", "5")], "feed-partitions-differ"),
        ([("SET", "feed:partitions", "many")], "feed-partitions-differ"),
        ([("HSET", "feed:partitions", "a", "b")], "feed-partitions-differ"),
        ([("SET", "feed:3", "no stream")], "feed-key-unusable"),
        ([("XADD", "feed:3", "*", "stream", "s")] * 950, "feed-near-cap"),
        (
            [("XADD", "feed:3", "1-1", "stream", "s"), ("XGROUP", "CREATE", "feed:3", "strategies", "0")],
            "group-behind",
        ),
        ([("SET", "stream:chat", "no stream")], "log-keys-unusable"),
        ([("XADD", "stream:chat\0", "*", "type", "x")], "log-keys-unusable"),
    ],
)
async def test_wrong_keys_are_found(
    servers: RunningServers, redis: Redis, keys: Keys, commands: Commands, found: str
) -> None:
    assert above_info(await look_at(servers, keys)) <= WITHOUT_PERSISTENCE
    for name, key, *arguments in commands:
        if name == "XGROUP":
            await redis.execute_command(name, key, f"{keys.prefix}{arguments[0]}", *arguments[1:])
        else:
            await redis.execute_command(name, f"{keys.prefix}{key}", *arguments)
    assert found in names(await look_at(servers, keys))


WITHOUT_PERSISTENCE = {"redis-keeps-nothing", "redis-snapshots-only", "postgresql-unreachable"}


async def look_at(servers: RunningServers, keys: Keys, protocol: int = 2) -> Report:
    settings = {"key_prefix": keys.prefix, "feed_max_length": 1000}
    return await look(f"{servers.redis_url}?protocol={protocol}", settings=settings)


@pytest.mark.parametrize("protocol", [2, 3])
async def test_hints_that_a_dead_replica_took_are_found_and_those_of_a_live_one_are_not(
    servers: RunningServers, client: Redis, redis: Redis, keys: Keys, protocol: int
) -> None:
    feed = keys.feed(0)
    await redis.execute_command("XADD", feed, "*", "stream", "s")
    await redis.execute_command("XGROUP", "CREATE", feed, "strategies", "0")
    await redis.execute_command("XREADGROUP", "GROUP", "strategies", "it", "COUNT", 1, "STREAMS", feed, ">")
    [[hint_id, *_]] = await client.execute_command("XPENDING", feed, "strategies", "-", "+", 1)
    await redis.execute_command("XCLAIM", feed, "strategies", "it", 0, hint_id, "IDLE", 3_600_000)
    assert "replica it is gone" in said(await look_at(servers, keys, protocol), "hints-abandoned")
    await Leases(client, keys, projection="strategies", consumer="it").tick()
    assert "hints-abandoned" not in names(await look_at(servers, keys, protocol))


async def test_a_look_at_redis_changes_nothing(servers: RunningServers, redis: Redis, keys: Keys) -> None:
    await look_at(servers, keys)
    assert [key async for key in redis.scan_iter(f"{keys.prefix}*")] == []
