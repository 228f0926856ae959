"""Projecting from a Redis Cluster while its nodes fail, and its slots move."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.crc import key_slot
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from projections import strategies
from tests.clusters import OwnCluster
from tests.servers import RunningServers
from tests.serving import Serving, serving
from tests.sweeping import SweepingReplica
from tests.tallies import tallies
from tests.waiting import wait_until
from worker import (
    Keys,
    Refusal,
    Standing,
    StreamDivergedError,
    emit,
    rebuild_streams,
    row_at,
    show_stream,
    verify_streams,
    wait_until_projected,
)
from worker.comparison import compare_table
from worker.embedded import Servers
from worker.log_scan import LogScan
from worker.redis_client import make_client
from worker.testing.servers import Databases
from worker.testing.worlds import Worlds

KEYS = Keys("app:", on_cluster=True)
STREAMS = [f"s{number}" for number in range(12)]
SECONDS = 30


@pytest.fixture
async def client(cluster: OwnCluster) -> AsyncIterator[Redis]:
    client = make_client(cluster.url, KEYS)
    yield client
    await client.aclose()


@pytest.fixture
async def theirs(cluster: OwnCluster) -> AsyncIterator[RedisCluster]:
    """An application's client."""
    client = RedisCluster.from_url(cluster.nodes[0].url)
    yield client
    await client.aclose()


@pytest.fixture
async def service(cluster: OwnCluster, database_url: str, keys: Keys) -> AsyncIterator[Serving]:
    async with serving(cluster.url, database_url, KEYS, sweep_seconds=0.3) as under_way:
        yield under_way


async def say(theirs: RedisCluster, stream_id: str, **data: Any) -> str:
    return await emit(theirs, stream_id, "op", "user_message", data, keys=Keys("app:"))


async def write(cluster: OwnCluster, stream_id: str, event_type: str = "user_message") -> str:
    """Append an event as a producer does that knows nothing of hints."""
    log = KEYS.log(stream_id)
    event_id = cluster.primary_of(log).do("XADD", log, "*", "op", "", "type", event_type, "data", "{}")
    return str(event_id, "ascii")


async def reached(service: Serving, events: dict[str, str]) -> None:
    async def all_reached() -> bool:
        if service.running.done():
            await service.running
        return await service.world.positions(*events) == list(events.values())

    await wait_until(all_reached, "all rows to stand where their logs end", SECONDS)


async def assert_right(service: Serving) -> None:
    """All rows are the folds of their logs, and nothing was taken for an event's fault."""
    async with service.world.engine.connect() as connection:
        assert await connection.scalar(text("SELECT count(*) FROM dead_letters")) == 0
    found = await compare_table(service.world.logs, service.world.engine, strategies)
    assert (found.rows, found.wrong_rows) == (len(STREAMS), 0)


async def test_applications_wait_look_verify_and_rebuild(
    cluster: OwnCluster, service: Serving, theirs: RedisCluster, engine: AsyncEngine
) -> None:
    for stream_id in STREAMS:
        event_id = await say(theirs, stream_id)
        await wait_until_projected(
            engine, stream_id, event_id, SECONDS, projection=strategies, redis=theirs, keys=KEYS
        )
    given = (theirs, engine, strategies)
    assert {finding.wrong for finding in await verify_streams(*given, STREAMS, keys=KEYS)} == {False}
    assert (await show_stream(*given, "s1", keys=KEYS)).standing is Standing.CAUGHT_UP
    assert (await row_at(*given, "s1", keys=KEYS)).columns["message_count"] == 1
    await say(theirs, "s1")
    log = KEYS.log("s1")
    [_, last] = cluster.primary_of(log).do("XRANGE", log, "-", "+")
    await service.reached("s1", last[0].decode())
    cluster.primary_of(log).do("XDEL", log, last[0])
    rebuilt = await rebuild_streams(*given, STREAMS, keys=KEYS)
    assert {one.refusal for one in rebuilt} == {None}
    assert (await row_at(*given, "s1", keys=KEYS)).columns["message_count"] == 1


async def test_a_sweep_finds_logs_on_all_nodes_and_after_they_have_moved(
    cluster: OwnCluster, client: Redis, engine: AsyncEngine
) -> None:
    replica = SweepingReplica(client, KEYS, engine)
    for stream_id in STREAMS:
        await write(cluster, stream_id)
    report, found = await replica.sweep()
    assert (report.streams, found) == (len(STREAMS), set(STREAMS))
    _, found = await replica.sweep()
    assert found == set()
    moving = KEYS.log("s1")
    cluster.move_slot(key_slot(moving.encode()), cluster.other_than(cluster.primary_of(moving)))
    cluster.fail_over(cluster.primary_of(KEYS.log("s2")))
    last = [await write(cluster, stream_id) for stream_id in STREAMS[:3]]
    report, found = await replica.sweep()
    assert (report.streams, found) == (len(STREAMS), set(STREAMS[:3]))
    assert await replica.positions(*STREAMS[:3]) == last
    assert report.vanished == 0


async def test_logs_are_read_and_swept_while_their_slot_moves(
    cluster: OwnCluster, client: Redis, engine: AsyncEngine
) -> None:
    replica = SweepingReplica(client, KEYS, engine)
    moving = KEYS.log("s1")
    slot, source = key_slot(moving.encode()), cluster.primary_of(moving)
    target = cluster.other_than(source)
    await write(cluster, "s1")
    cluster.begin_move(slot, target)
    assert (await replica.sweep())[1] == {"s1"}
    while cluster.move_keys(slot, source, target):
        pass
    last = await client.execute_command("XREVRANGE", moving, "+", "-", "COUNT", 1)
    assert await replica.positions("s1") == [last[0][0].decode()]
    assert (await replica.sweep())[1] == set()
    assert await LogScan(client, KEYS).last_ids(["s1"]) == [last[0][0].decode()]
    cluster.end_move(slot, source, target)
    assert (await replica.sweep())[1] == set()


@pytest.mark.parametrize("key", [KEYS.feed(0), KEYS.log("s1")], ids=["the feed", "logs"])
async def test_a_service_goes_on_while_and_after_slots_move(
    cluster: OwnCluster, service: Serving, theirs: RedisCluster, key: str
) -> None:
    await reached(service, {s: await say(theirs, s) for s in STREAMS})
    slot, source = key_slot(key.encode()), cluster.primary_of(key)
    target = cluster.other_than(source)
    cluster.begin_move(slot, target)
    while cluster.move_keys(slot, source, target, count=1):
        for stream_id in STREAMS:
            await say(theirs, stream_id)
    cluster.end_move(slot, source, target)
    await reached(service, {s: await say(theirs, s) for s in STREAMS})
    await assert_right(service)


@pytest.mark.parametrize("key", [KEYS.feed(0), KEYS.log("s1")], ids=["the feed", "logs"])
async def test_a_service_goes_on_after_a_failover(
    cluster: OwnCluster, service: Serving, theirs: RedisCluster, key: str
) -> None:
    await reached(service, {s: await say(theirs, s) for s in STREAMS})
    cluster.fail_over(cluster.primary_of(key))
    await reached(service, {s: await say(theirs, s) for s in STREAMS})
    await asyncio.to_thread(cluster.kill, cluster.primary_of(key))
    cluster.settle()
    await reached(service, {s: await write(cluster, s) for s in STREAMS})
    await service.acknowledged()
    await assert_right(service)


async def test_what_a_failover_has_lost_is_told_and_not_overwritten(
    cluster: OwnCluster, service: Serving, theirs: RedisCluster, engine: AsyncEngine
) -> None:
    await reached(service, {s: await say(theirs, s) for s in STREAMS})
    home = cluster.primary_of(KEYS.feed(0))
    victim = cluster.other_than(home)
    lost = [s for s in STREAMS if cluster.primary_of(KEYS.log(s)) is victim]
    cluster.cut_off_replica(victim)
    gone = {s: await say(theirs, s) for s in lost}
    await reached(service, gone)
    await asyncio.to_thread(cluster.kill, victim)
    cluster.settle()
    await wait_until(lambda: all_diverged(service, lost), "the diverged streams to be told", SECONDS)
    assert await service.world.positions(*lost) == list(gone.values())
    with pytest.raises(StreamDivergedError):
        await wait_until_projected(
            engine, lost[0], "9999999999999-0", SECONDS, projection=strategies, redis=theirs, keys=KEYS
        )
    given = (theirs, engine, strategies, lost)
    assert {r.refusal for r in await rebuild_streams(*given, keys=KEYS)} <= {Refusal.DIVERGED, None}
    assert {r.refusal for r in await rebuild_streams(*given, keys=KEYS, accept_loss=True)} == {None}
    await assert_right(service)


async def all_diverged(service: Serving, stream_ids: list[str]) -> bool:
    told = await service.redis.execute_command("HKEYS", KEYS.diverged(strategies.name))
    return {name.decode() for name in told} == set(stream_ids)


async def test_a_world_for_tests_may_be_on_a_cluster(
    cluster: OwnCluster, databases: Databases, servers: RunningServers
) -> None:
    worlds = Worlds(Servers(cluster.url, servers.database_url), databases)
    async with worlds(tallies()) as world:
        await world.emit("a", "add", n=3)
        await world.append("b", "add", {"n": 4})
        await world.caught_up()
        await world.assert_rows_are_folds()
        async with world.duplicated_hints(), world.killed():
            await world.emit("b", "add", n=5)
        await world.caught_up()
        row = await world.row("b")
        assert row is not None
        assert row["total"] == 9
        await world.empty()
        assert await world.row("b") is None
        await world.emit("b", "add", n=1)
        await world.caught_up()
    await asyncio.to_thread(worlds.close)
    assert [node.do("DBSIZE") for node in cluster.nodes] == [0] * len(cluster.nodes)
