"""Emitting again what may stand in the log or not: it is found, or it is appended, and never both."""

from __future__ import annotations

import asyncio
import pickle
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection

from tests.logs import hints_of, log_of
from tests.proxy import TcpProxy, redis_proxy
from tests.rights import PRODUCER, as_user
from tests.servers import RunningServers
from worker import EmitError, InvalidEventError, Keys, OutcomeUnknownError, emit, emit_again
from worker.attempt import Since
from worker.sending import exchange

SECRET = {"content": "secret"}


@pytest.fixture
def proxy(servers: RunningServers) -> Iterator[TcpProxy]:
    with redis_proxy(as_user(servers.redis_url, PRODUCER)) as proxy:
        yield proxy


@pytest.fixture
async def client(proxy: TcpProxy) -> AsyncIterator[Redis]:
    """A client behind the proxy."""
    async with Redis.from_url(proxy.url, socket_timeout=1) as client:
        yield client


async def send(client: Redis, keys: Keys, operation_id: str = "op") -> str:
    return await emit(client, "a", operation_id, "user_message", SECRET, keys=keys)


async def lose(client: Redis, proxy: TcpProxy, keys: Keys, operation_id: str = "op") -> OutcomeUnknownError:
    """What comes of emitting an event that is appended, but whose reply is lost."""
    proxy.lose = b"EXEC"
    with pytest.raises(OutcomeUnknownError) as caught:
        await send(client, keys, operation_id)
    proxy.lose = None
    return caught.value


async def ids(redis: Redis, keys: Keys) -> list[str]:
    return [event_id for event_id, _ in await log_of(redis, keys, "a")]


async def drop_last(redis: Redis, keys: Keys) -> None:
    """Make the last event one that never arrived."""
    await redis.xdel(keys.log("a"), (await ids(redis, keys))[-1])
    await redis.delete(keys.feed(keys.partition("a")))


async def let_ids_be_ahead(redis: Redis, log: str) -> None:
    """Have a log go on with ids that are ten seconds ahead of the server's clock."""
    seconds, _ = await redis.time()
    await redis.xadd(log, {"type": "delta"}, id=f"{seconds + 10}000-0")


# Found or appended.


async def test_an_event_that_stands_in_the_log_is_found_and_hinted_again(
    redis: Redis, client: Redis, any_producer: Redis, proxy: TcpProxy, keys: Keys
) -> None:
    unknown = await lose(client, proxy, keys)
    await redis.delete(keys.feed(keys.partition("a")))
    for _ in range(2):
        assert [await emit_again(any_producer, unknown)] == await ids(redis, keys)
    assert len(await hints_of(redis, keys, "a")) == 2


async def test_an_event_that_never_arrived_is_appended_once(
    redis: Redis, client: Redis, any_producer: Redis, proxy: TcpProxy, keys: Keys
) -> None:
    unknown = await lose(client, proxy, keys)
    await drop_last(redis, keys)
    event_id = await emit_again(any_producer, unknown)
    assert type(event_id) is str
    assert await emit_again(any_producer, unknown) == event_id
    [(appended, fields)] = await log_of(redis, keys, "a")
    assert (appended, list(fields)) == (event_id, [b"op", b"type", b"data"])
    assert len(await hints_of(redis, keys, "a")) >= 1


@pytest.mark.parametrize("arrived", [True, False])
@pytest.mark.parametrize("same_client", [True, False])
async def test_the_same_call_again_makes_no_second_entry(
    redis: Redis, client: Redis, proxy: TcpProxy, keys: Keys, arrived: bool, same_client: bool
) -> None:
    await send(redis, keys, "other")
    await lose(client, proxy, keys)
    if not arrived:
        await drop_last(redis, keys)
    event_id = await send(client if same_client else redis, keys)
    assert (await ids(redis, keys))[1:] == [event_id]


async def test_an_attempt_whose_reply_is_lost_once_more_counts_too(
    redis: Redis, client: Redis, proxy: TcpProxy, keys: Keys
) -> None:
    unknown = await lose(client, proxy, keys)
    await drop_last(redis, keys)
    proxy.lose = b"EXEC"
    with pytest.raises(OutcomeUnknownError) as again:
        await emit_again(client, unknown)
    assert len(await ids(redis, keys)) == 1
    proxy.lose = None
    assert [await emit_again(client, again.value)] == await ids(redis, keys)


async def test_a_cancelled_call_may_be_made_again(
    redis: Redis, client: Redis, proxy: TcpProxy, keys: Keys
) -> None:
    proxy.lose, proxy.hang_up = b"EXEC", False
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await send(client, keys)
    proxy.lose = None
    assert [await send(client, keys)] == await ids(redis, keys)


# What is the same event.


async def test_events_that_are_alike_are_told_apart_by_what_was_known_before(
    redis: Redis, client: Redis, proxy: TcpProxy, keys: Keys
) -> None:
    known = [await send(client, keys) for _ in range(3)]
    unknown = await lose(client, proxy, keys)
    await drop_last(redis, keys)
    event_id = await emit_again(client, unknown)
    later = await send(client, keys)
    assert await ids(redis, keys) == [*known, event_id, later]


async def test_what_was_known_before_and_is_lost_hides_no_entry(
    redis: Redis, client: Redis, proxy: TcpProxy, keys: Keys
) -> None:
    """A failover loses a log's end, and the new master's clock is behind: it goes on with lower ids."""
    await send(redis, keys, "other")
    log = keys.log("a")
    [(survives, fields)] = await log_of(redis, keys, "a")
    await let_ids_be_ahead(redis, log)
    await send(client, keys, "known")
    await redis.delete(log)
    await redis.xadd(log, dict(fields.items()), id=survives)
    await lose(client, proxy, keys)
    event_id = await send(client, keys)
    assert await ids(redis, keys) == [survives, event_id]


@pytest.mark.parametrize(
    "different", [{"operation_id": "o"}, {"event_type": "x"}, {"event_data": {"a": 1}}, {"stream_id": "b"}]
)
async def test_events_that_differ_in_anything_are_two(
    redis: Redis, client: Redis, proxy: TcpProxy, keys: Keys, different: dict[str, Any]
) -> None:
    await lose(client, proxy, keys)
    event = {"stream_id": "a", "operation_id": "op", "event_type": "user_message", "event_data": SECRET}
    await emit(client, **{**event, **different}, keys=keys)
    assert len(await ids(redis, keys)) + await redis.xlen(keys.log("b")) == 2


async def test_entries_from_before_the_call_are_not_taken_for_its_event(
    redis: Redis, client: Redis, proxy: TcpProxy, keys: Keys
) -> None:
    now, _ = await redis.time()
    fields: Any = {"op": "op", "type": "user_message", "data": '{"content":"secret"}'}
    await redis.xadd(keys.log("a"), fields, id=f"{(now - 600) * 1000}-0")
    unknown = await lose(client, proxy, keys)
    await drop_last(redis, keys)
    await emit_again(client, unknown)
    assert len(await ids(redis, keys)) == 2


@pytest.mark.parametrize("clock", ["monotonic", "unix"])
async def test_an_event_is_found_however_late_one_asks(
    redis: Redis, client: Redis, proxy: TcpProxy, keys: Keys, clock: str
) -> None:
    now, _ = await redis.time()
    fields: Any = {"op": "op", "type": "user_message", "data": '{"content":"secret"}'}
    await redis.xadd(keys.log("a"), fields, id=f"{(now - 600) * 1000}-0")
    unknown = await lose(client, proxy, keys)
    await drop_last(redis, keys)
    since = replace(Since(), **{clock: getattr(time, {"unix": "time"}.get(clock, clock))() - 600})
    late = OutcomeUnknownError(str(unknown), replace(unknown.attempt, since=since))
    assert await emit_again(client, late) == (await ids(redis, keys))[0]


@pytest.mark.parametrize("size", [10, 50_000, 1_000_000])
async def test_an_event_is_found_under_many_that_came_after_it(
    redis: Redis, client: Redis, proxy: TcpProxy, keys: Keys, size: int
) -> None:
    unknown = await lose(client, proxy, keys)
    pipeline = redis.pipeline(transaction=False)
    for number in range(min(2_500, 10_000_000 // size)):
        fields: Any = {"op": "op", "type": "x", "data": f"{number}" + "x" * size}
        pipeline.xadd(keys.log("a"), fields)
    await pipeline.execute()
    entries: Any = await redis.xrange(keys.log("a"), count=1)
    assert await emit_again(client, unknown) == entries[0][0].decode()


async def test_without_operation_id_nothing_can_be_told(
    redis: Redis, client: Redis, proxy: TcpProxy, keys: Keys
) -> None:
    unknown = await lose(client, proxy, keys, "")
    assert "no operation id" in str(unknown)
    with pytest.raises(InvalidEventError, match="operation id"):
        await emit_again(client, unknown)
    await send(client, keys, "")
    assert len(await ids(redis, keys)) == 2


# What may happen while one looks.


class Meanwhile:
    """Does something each time before an event is appended that was not found."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, redis: Redis, log: str, fields: Any) -> None:
        self.times = 0
        self.until = 1

        async def appending(connection: AbstractConnection, commands: list[tuple[str, ...]]) -> list[Any]:
            if ("MULTI",) in commands and self.times < self.until:
                self.times += 1
                await redis.xadd(log, fields)
            return await exchange(connection, commands)

        monkeypatch.setattr("worker.settle.exchange", appending)


async def test_an_event_that_arrives_after_one_has_looked_is_found_after_all(
    redis: Redis, client: Redis, proxy: TcpProxy, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = await lose(client, proxy, keys)
    await drop_last(redis, keys)
    itself: Any = {"op": "op", "type": "user_message", "data": unknown.attempt.data}
    meanwhile = Meanwhile(monkeypatch, redis, keys.log("a"), itself)
    assert [await emit_again(client, unknown)] == await ids(redis, keys)
    assert meanwhile.times == 1


@pytest.mark.parametrize("rounds", [3, 1_000])
async def test_others_that_append_all_the_time_put_it_off(
    redis: Redis, client: Redis, proxy: TcpProxy, keys: Keys, monkeypatch: pytest.MonkeyPatch, rounds: int
) -> None:
    unknown = await lose(client, proxy, keys)
    await drop_last(redis, keys)
    delta: Any = {"op": "", "type": "delta", "data": "{}"}
    meanwhile = Meanwhile(monkeypatch, redis, keys.log("a"), delta)
    meanwhile.until = rounds
    if rounds == 1_000:
        with pytest.raises(OutcomeUnknownError, match="all the time"):
            await emit_again(client, unknown)
        meanwhile.until = 0
    await emit_again(client, unknown)
    assert await redis.xlen(keys.log("a")) == meanwhile.times + 1


# What the server may refuse.


async def test_who_may_not_look_is_told_so_and_the_connection_watches_nothing(
    servers: RunningServers, redis: Redis, client: Redis, proxy: TcpProxy, keys: Keys
) -> None:
    unknown = await lose(client, proxy, keys)
    user = keys.prefix.rstrip(":")
    rights = ["+xadd", "+multi", "+exec", "+watch", "+time"]
    await redis.execute_command("ACL", "SETUSER", user, "on", ">pw", f"~{keys.prefix}*", *rights)
    limited = Redis.from_url(as_user(servers.redis_url, PRODUCER), max_connections=1)
    limited.connection_pool.connection_kwargs.update(username=user, password="pw")
    try:
        with pytest.raises(OutcomeUnknownError, match="does not let us look"):
            await emit_again(limited, unknown)
        await send(redis, keys, "other")
        await send(limited, keys, "more")
        await redis.execute_command("ACL", "SETUSER", user, "+xrevrange")
        assert await emit_again(limited, unknown) == (await ids(redis, keys))[0]
    finally:
        await limited.aclose()
        await redis.execute_command("ACL", "DELUSER", user)
    assert len(await ids(redis, keys)) == 3


async def test_an_event_that_is_refused_in_the_end_is_not_appended(
    servers: RunningServers, redis: Redis, client: Redis, proxy: TcpProxy, keys: Keys
) -> None:
    unknown = await lose(client, proxy, keys)
    await drop_last(redis, keys)
    user = keys.prefix.rstrip(":")
    rights = ["+watch", "+time", "+xrevrange", "+multi", "+exec"]
    await redis.execute_command("ACL", "SETUSER", user, "on", ">pw", f"~{keys.prefix}*", *rights)
    limited = Redis.from_url(as_user(servers.redis_url, PRODUCER))
    limited.connection_pool.connection_kwargs.update(username=user, password="pw")
    try:
        with pytest.raises(EmitError, match="nothing was appended") as caught:
            await emit_again(limited, unknown)
    finally:
        await limited.aclose()
        await redis.execute_command("ACL", "DELUSER", user)
    assert not isinstance(caught.value, OutcomeUnknownError)
    assert await ids(redis, keys) == []


# The error.


async def test_the_error_carries_what_was_attempted_and_shows_no_payload(
    client: Redis, proxy: TcpProxy, keys: Keys
) -> None:
    unknown = await lose(client, proxy, keys)
    assert unknown.attempt.data == '{"content":"secret"}'
    assert (unknown.attempt.stream_id, unknown.attempt.operation_id) == ("a", "op")
    assert "secret" not in str(unknown) + repr(unknown)
    copied = pickle.loads(pickle.dumps(unknown))
    assert (copied.attempt, str(copied)) == (unknown.attempt, str(unknown))
