"""Emitting over a connection that breaks: an event is sent once, and the caller learns what is known."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from tests.logs import log_of
from tests.proxy import TcpProxy, redis_proxy
from tests.rights import PRODUCER, as_user
from tests.servers import RunningServers
from tests.waiting import wait_until
from worker import EmitError, Keys, OutcomeUnknownError, emit


@pytest.fixture
def proxy(servers: RunningServers) -> Iterator[TcpProxy]:
    with redis_proxy(as_user(servers.redis_url, PRODUCER)) as proxy:
        yield proxy


@pytest.fixture(params=[{}, {"decode_responses": True, "protocol": 3}], ids=["resp2", "resp3"])
async def client(proxy: TcpProxy, request: pytest.FixtureRequest) -> AsyncIterator[Redis]:
    """A client behind the proxy that repeats what fails, as redis-py's clients do by default."""
    retry = Retry(NoBackoff(), 3)
    client = Redis.from_url(proxy.url, socket_timeout=0.2, retry=retry, **request.param)
    yield client
    await client.aclose()


@pytest.mark.parametrize("hang_up", [True, False], ids=["closed", "silent"])
@pytest.mark.parametrize("projected_types", [None, set[str]()], ids=["hinted", "unhinted"])
async def test_when_the_reply_is_lost_the_outcome_is_unknown_and_the_event_stands_once(
    redis: Redis,
    client: Redis,
    proxy: TcpProxy,
    keys: Keys,
    hang_up: bool,
    projected_types: set[str] | None,
) -> None:
    proxy.lose, proxy.hang_up = b"XADD", hang_up
    with pytest.raises(OutcomeUnknownError, match="may stand in the log"):
        await emit(client, "a", "op1", "user_message", {}, projected_types=projected_types, keys=keys)
    assert proxy.lost >= 1
    assert len(await log_of(redis, keys, "a")) == 1
    proxy.lose = None
    event_id = await emit(client, "a", "op2", "user_message", {}, keys=keys)
    [_, (last, _)] = await log_of(redis, keys, "a")
    assert last == event_id


async def test_a_cancelled_emit_leaves_no_reply_for_the_next(
    redis: Redis, client: Redis, proxy: TcpProxy, keys: Keys
) -> None:
    proxy.lose, proxy.hang_up = b"EXEC", False
    emitting = asyncio.create_task(emit(client, "a", "", "user_message", {}, keys=keys))
    await wait_until(lambda: proxy.lost, "the reply")
    emitting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await emitting
    proxy.lose = None
    event_id = await emit(client, "a", "", "user_message", {}, keys=keys)
    [_, (last, _)] = await log_of(redis, keys, "a")
    assert last == event_id


async def test_a_server_that_cannot_be_reached_appended_nothing(keys: Keys) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    client = Redis(port=port, retry=Retry(NoBackoff(), 0))
    with pytest.raises(EmitError) as caught:
        await emit(client, "a", "", "user_message", {}, keys=keys)
    assert not isinstance(caught.value, OutcomeUnknownError)
    await client.aclose()


async def test_a_producer_that_may_do_nothing_but_append_can_emit(
    servers: RunningServers, redis: Redis, keys: Keys
) -> None:
    user = keys.prefix.rstrip(":")
    rights = ["+xadd", "+multi", "+exec"]
    await redis.execute_command("ACL", "SETUSER", user, "on", ">pw", f"~{keys.prefix}*", *rights)
    client = Redis.from_url(as_user(servers.redis_url, PRODUCER))
    client.connection_pool.connection_kwargs.update(username=user, password="pw")
    try:
        event_id = await emit(client, "a", "", "user_message", {}, keys=keys)
        assert [appended for appended, _ in await log_of(redis, keys, "a")] == [event_id]
        with pytest.raises(EmitError, match="nothing was appended"):
            await emit(client, "a", "", "user_message", {}, keys=Keys("elsewhere:"))
    finally:
        await client.aclose()
        await redis.execute_command("ACL", "DELUSER", user)
