"""Emitting to a Redis Cluster: a log on one node, the feed on another, and both of them on the move."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from typing import Any
from urllib.parse import urlsplit

import pytest
from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.crc import key_slot
from redis.exceptions import RedisError

from projections import read_stream_messages, read_stream_thinking
from tests.clusters import OwnCluster
from tests.proxy import TcpProxy, redis_proxy
from tests.waiting import wait_until
from worker import AnyRedis, EmitError, Keys, OutcomeUnknownError, emit, emit_again
from worker.address import Address
from worker.cluster import SlotMovesError
from worker.cluster_client import HomePool
from worker.cluster_nodes import OwnNodes
from worker.errors import FeedPartitionsError
from worker.feed import Feed
from worker.redis_client import make_client, pipelined

KEYS = Keys("app:", on_cluster=True)
STREAMS = [f"s{number}" for number in range(12)]


@pytest.fixture
async def client(cluster: OwnCluster) -> AsyncIterator[Redis]:
    """A client of the worker's own kind."""
    client = make_client(cluster.url, KEYS)
    yield client
    await client.aclose()


@pytest.fixture
async def theirs(cluster: OwnCluster) -> AsyncIterator[RedisCluster]:
    """An application's client, which repeats commands by itself."""
    client = RedisCluster.from_url(cluster.nodes[0].url, socket_timeout=0.3)
    yield client
    await client.aclose()


@pytest.fixture
async def patient(cluster: OwnCluster) -> AsyncIterator[RedisCluster]:
    """Another, which waits for a node that takes over."""
    client = RedisCluster.from_url(cluster.nodes[0].url, socket_timeout=20)
    yield client
    await client.aclose()


@pytest.fixture(params=["the worker's", "an application's"])
def either(client: Redis, patient: RedisCluster, request: pytest.FixtureRequest) -> AnyRedis:
    return client if request.param == "the worker's" else patient


def elsewhere(cluster: OwnCluster) -> str:
    """A stream whose log is not where the feed is."""
    home = cluster.primary_of(KEYS.feed(0))
    return next(stream_id for stream_id in STREAMS if cluster.primary_of(KEYS.log(stream_id)) is not home)


def log_of(cluster: OwnCluster, stream_id: str) -> list[Any]:
    log = KEYS.log(stream_id)
    return list(cluster.primary_of(log).do("XRANGE", log, "-", "+"))


def hints_of(cluster: OwnCluster, stream_id: str) -> list[Any]:
    feed = KEYS.feed(KEYS.partition(stream_id))
    hints = cluster.primary_of(feed).do("XRANGE", feed, "-", "+")
    return [fields for _, fields in hints if stream_id.encode() in fields]


async def say(redis: AnyRedis, stream_id: str, operation_id: str = "op") -> str:
    """Emit as an application does, which need not know of the names on a cluster."""
    return await emit(redis, stream_id, operation_id, "user_message", {"content": "?"}, keys=Keys("app:"))


async def settled(redis: AnyRedis, unknown: OutcomeUnknownError) -> str | None:
    """The event's id, once that can be told: not every node has heard at once of who serves what."""
    try:
        return await emit_again(redis, unknown)
    except OutcomeUnknownError:
        return None


async def test_logs_lie_on_all_nodes_and_the_feed_on_one(cluster: OwnCluster, theirs: RedisCluster) -> None:
    ids = {stream_id: await say(theirs, stream_id) for stream_id in STREAMS}
    for stream_id, event_id in ids.items():
        assert [entry[0].decode() for entry in log_of(cluster, stream_id)] == [event_id]
        assert len(hints_of(cluster, stream_id)) == 1
    assert len({cluster.primary_of(KEYS.log(stream_id)) for stream_id in STREAMS}) == 3
    assert len({key_slot(KEYS.feed(partition).encode()) for partition in range(8)}) == 1


async def test_messages_are_read_wherever_the_log_is(
    cluster: OwnCluster, client: Redis, theirs: RedisCluster
) -> None:
    decoding = RedisCluster.from_url(cluster.nodes[0].url, decode_responses=True)
    for stream_id in STREAMS:
        await say(theirs, stream_id)
        for redis in (client, theirs, decoding):
            messages = await read_stream_messages(redis, stream_id, keys=KEYS)
            assert [message["content"] for message in messages] == ["?"]
            assert await read_stream_thinking(redis, stream_id, keys=KEYS) is None
    await decoding.aclose()


async def test_an_event_follows_its_log_after_a_failover(cluster: OwnCluster, either: AnyRedis) -> None:
    stream_id = elsewhere(cluster)
    await say(either, stream_id)
    cluster.fail_over(cluster.primary_of(KEYS.log(stream_id)))
    await say(either, stream_id)
    cluster.fail_over(cluster.primary_of(KEYS.feed(0)))
    await say(either, stream_id)
    assert (len(log_of(cluster, stream_id)), len(hints_of(cluster, stream_id))) == (3, 3)


@pytest.mark.parametrize("key", ["log", "feed"])
async def test_an_event_is_appended_once_while_a_slot_moves(
    cluster: OwnCluster, either: AnyRedis, key: str
) -> None:
    stream_id = elsewhere(cluster)
    await say(either, stream_id)
    moving = KEYS.log(stream_id) if key == "log" else KEYS.feed(0)
    slot, source = key_slot(moving.encode()), cluster.primary_of(moving)
    target = cluster.other_than(source)
    cluster.begin_move(slot, target)
    await say(either, stream_id)
    while cluster.move_keys(slot, source, target):
        pass
    await say(either, stream_id)  # The node that serves the slot says ASK.
    cluster.end_move(slot, source, target)
    await say(either, stream_id)  # It says MOVED.
    cluster.settle()
    assert (len(log_of(cluster, stream_id)), len(hints_of(cluster, stream_id))) == (4, 4)


@pytest.fixture
def proxies(cluster: OwnCluster) -> Iterator[dict[int, TcpProxy]]:
    """A proxy in front of each node, by the node's port."""
    with ExitStack() as stack:
        yield {node.port: stack.enter_context(redis_proxy(node.url)) for node in cluster.nodes}


@pytest.fixture(params=["the worker's", "an application's"])
async def proxied(
    cluster: OwnCluster,
    proxies: dict[int, TcpProxy],
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[AnyRedis]:
    """A client that reaches the nodes through the proxies."""

    def port_of_proxy(port: int) -> int:
        return urlsplit(proxies[port].url).port or 0

    def remap(address: tuple[str, int]) -> tuple[str, int]:
        return address[0], port_of_proxy(address[1])

    client: AnyRedis
    if request.param == "an application's":
        client = RedisCluster.from_url(proxies[cluster.nodes[0].port].url, address_remap=remap)
    else:
        client = make_client(cluster.url, KEYS)
        assert isinstance(client.connection_pool, HomePool)
        nodes = client.connection_pool.cluster.nodes
        assert isinstance(nodes, OwnNodes)
        make_pool = nodes._make_pool
        monkeypatch.setattr(
            nodes, "_make_pool", lambda node: make_pool(Address(node.host, port_of_proxy(node.port)))
        )
    yield client
    await client.aclose()


async def test_an_event_whose_reply_is_lost_stands_in_its_log_once(
    cluster: OwnCluster, proxied: AnyRedis, proxies: dict[int, TcpProxy]
) -> None:
    stream_id = elsewhere(cluster)
    await say(proxied, stream_id, "before")
    for proxy in proxies.values():
        proxy.lose = b"XADD"
    with pytest.raises(OutcomeUnknownError) as unknown:
        await say(proxied, stream_id)
    for proxy in proxies.values():
        proxy.lose = None
    assert await emit_again(proxied, unknown.value) == log_of(cluster, stream_id)[-1][0].decode()
    assert (len(log_of(cluster, stream_id)), len(hints_of(cluster, stream_id))) == (2, 2)


async def test_a_hint_whose_reply_is_lost_is_written_once(
    cluster: OwnCluster, proxied: AnyRedis, proxies: dict[int, TcpProxy]
) -> None:
    stream_id = elsewhere(cluster)
    await say(proxied, stream_id, "before")
    proxies[cluster.primary_of(KEYS.feed(0)).port].lose = b"XADD"
    assert await say(proxied, stream_id) == log_of(cluster, stream_id)[-1][0].decode()
    assert (len(log_of(cluster, stream_id)), len(hints_of(cluster, stream_id))) == (2, 2)


async def test_the_workers_client_follows_the_feed(cluster: OwnCluster, client: Redis) -> None:
    await client.set(KEYS.feed_partitions, 8)
    cluster.fail_over(cluster.primary_of(KEYS.feed(0)))
    assert await client.get(KEYS.feed_partitions) == b"8"
    home = cluster.primary_of(KEYS.feed(0))
    cluster.move_slot(key_slot(KEYS.feed(0).encode()), cluster.other_than(home))
    command = ("GET", KEYS.feed_partitions)
    [refusal] = await pipelined(client, [command])  # Whoever sends several at once is told, and tries again.
    assert isinstance(refusal, SlotMovesError)
    cluster.settle()  # Not every node has heard of it at once.
    assert await pipelined(client, [command]) == [b"8"]


async def test_the_workers_client_finds_who_has_replaced_a_node_that_is_frozen(
    cluster: OwnCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.redis_client._SOCKET_TIMEOUT_SECONDS", 0.2)
    client = make_client(cluster.url, KEYS)
    await client.set(KEYS.feed_partitions, 8)

    home = cluster.primary_of(KEYS.feed(0))
    with home.frozen():
        await asyncio.to_thread(cluster.await_successor, home)
        with pytest.raises(RedisError):
            await client.get(KEYS.feed_partitions)
        assert await client.get(KEYS.feed_partitions) == b"8"
    await client.aclose()


async def test_a_lost_reply_leaves_the_outcome_unknown_and_one_entry(
    cluster: OwnCluster, theirs: RedisCluster
) -> None:
    stream_id = elsewhere(cluster)
    await say(theirs, stream_id, "before")
    primary = cluster.primary_of(KEYS.log(stream_id))
    with primary.frozen(), pytest.raises(OutcomeUnknownError) as unknown:
        await say(theirs, stream_id)  # No longer than until the others hold it for dead.
    event_id = await emit_again(theirs, unknown.value)
    cluster.settle()
    assert [entry[0].decode() for entry in log_of(cluster, stream_id)][1:] == [event_id]
    assert len(hints_of(cluster, stream_id)) == 2


async def test_what_a_node_had_not_done_when_it_was_replaced_is_done_by_its_successor(
    cluster: OwnCluster, theirs: RedisCluster
) -> None:
    stream_id = elsewhere(cluster)
    await say(theirs, stream_id, "before")
    primary = cluster.primary_of(KEYS.log(stream_id))
    with primary.frozen():
        with pytest.raises(OutcomeUnknownError) as unknown:
            await say(theirs, stream_id)
        await asyncio.to_thread(cluster.await_successor, primary)
        event_id = await wait_until(lambda: settled(theirs, unknown.value), "the outcome to be known")
    cluster.settle()
    assert [entry[0].decode() for entry in log_of(cluster, stream_id)][1:] == [event_id]


async def test_a_feed_that_does_not_answer_costs_a_hint_and_no_event(
    cluster: OwnCluster, theirs: RedisCluster
) -> None:
    stream_id = elsewhere(cluster)
    home = cluster.primary_of(KEYS.feed(0))
    home.do("SET", KEYS.feed_partitions, "8")
    await say(theirs, stream_id, "before")
    with home.frozen():
        event_id = await say(theirs, stream_id)
    cluster.settle()
    assert [entry[0].decode() for entry in log_of(cluster, stream_id)][1:] == [event_id]


async def test_the_workers_client_repeats_no_command_that_may_have_been_done(
    cluster: OwnCluster, client: Redis
) -> None:
    home = cluster.primary_of(KEYS.feed(0))
    await client.ping()
    with home.frozen(), pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await client.xadd(KEYS.feed(0), {"stream": "a"})
    cluster.settle()
    assert await client.xlen(KEYS.feed(0)) == 1


async def test_nothing_is_appended_while_no_node_can_be_reached() -> None:
    nowhere = RedisCluster.from_url("redis://127.0.0.1:1")
    with pytest.raises(EmitError, match="could not be asked"):
        await say(nowhere, "a")


async def test_who_takes_the_cluster_for_one_server_is_told(
    cluster: OwnCluster, client: Redis, theirs: RedisCluster
) -> None:
    plain = Keys("app:").feed_partitions
    cluster.primary_of(plain).do("SET", plain, "8")
    with pytest.raises(FeedPartitionsError, match="one server"):
        await say(theirs, "a")
    with pytest.raises(FeedPartitionsError, match="one server"):
        await Feed(client, KEYS, group="g", consumer="c").join()
    assert await client.get(KEYS.feed_partitions) is None
