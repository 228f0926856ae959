"""The worker's own Redis client, and its few differences from redis-py's defaults."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any, assert_never

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.client import NEVER_DECODE
from redis.exceptions import NoScriptError, RedisError, ResponseError

from worker.cluster_client import cluster_client
from worker.keys import Keys
from worker.redis_url import ClusterNodes, Sentinels, Server, parse_redis_url
from worker.sending import Command, read_only
from worker.sentinel import client_of_master

READ_BLOCK = timedelta(seconds=0.5)
"""How long a read of the feed waits for hints, and so how late it may notice a stop or a new partition."""

_SOCKET_TIMEOUT_SECONDS = 10.0
_KEYS = Keys()
_RAW_COMMANDS = ("XRANGE", "XREVRANGE", "XREADGROUP", "XAUTOCLAIM", "XPENDING")


def make_client(url: str, keys: Keys = _KEYS) -> Redis:
    """A client that never repeats a command and leaves replies of streams as the server sent them.

    Of a cluster it is for the feed and the worker's own keys, by the names that ``keys`` gives them.

    redis-py repeats by default, but a repeated XREADGROUP hides hints whose reply was lost. Its reply shapes
    differ between protocols and settings, so the modules that read streams take them raw. The socket timeout
    exceeds READ_BLOCK, or a quiet feed would look like a dead server.
    """
    match parse_redis_url(url):
        case Server() as server:
            pool = ConnectionPool(
                **server.options, **_connection_options(), socket_connect_timeout=_SOCKET_TIMEOUT_SECONDS
            )
            client = Redis.from_pool(pool)
        case Sentinels() as sentinels:
            client = client_of_master(sentinels, _connection_options())
        case ClusterNodes() as cluster:
            client = cluster_client(cluster, keys, _connection_options())
        case other:
            assert_never(other)
    for command in _RAW_COMMANDS:
        client.set_response_callback(command, _raw)
    return client


def _connection_options() -> dict[str, Any]:
    return {
        "decode_responses": False,
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": _SOCKET_TIMEOUT_SECONDS,
    }


def reading_client(redis: Redis) -> Redis:
    """The connections of an application's client, with replies of streams as `make_client` leaves them.

    Only for `pipelined`, which asks for bytes where the connections would decode.
    """
    client: Redis = Redis(connection_pool=redis.connection_pool)
    for command in _RAW_COMMANDS:
        client.set_response_callback(command, _raw)
    return client


def _raw(response: Any, **kwargs: Any) -> Any:
    return response


async def renew(redis: Redis, error: BaseException) -> None:
    """Give up connections that are still up but lead to a server that refuses, such as a master no more.

    Connections in use are not touched: who uses one meets the same error soon. Never raises.
    """
    if isinstance(error, ResponseError) or read_only(error) is not None:
        with suppress(RedisError, OSError):  # What cannot even be closed is given up all the same.
            await redis.connection_pool.disconnect(inuse_connections=False)


def of_no_master(error: BaseException) -> bool:
    """Whether a server refuses to write as another one may have become the master."""
    return read_only(error) is not None or str(error).startswith("NOREPLICAS")


class Script:
    """A Lua script, sent as a whole only when the server does not know it: at first, and after a restart."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()

    async def __call__(self, redis: Redis, keys: Sequence[str], arguments: Sequence[Any] = ()) -> Any:
        """Run it; its reply as the server sends it, in bytes also where the client would decode."""
        by_name, as_a_whole = self.commands(keys, arguments)
        try:
            return await redis.execute_command(*by_name, **{NEVER_DECODE: []})
        except NoScriptError:
            return await redis.execute_command(*as_a_whole, **{NEVER_DECODE: []})

    def commands(self, keys: Sequence[str | bytes], arguments: Sequence[Any]) -> tuple[Command, Command]:
        """The command that runs it, and the one for a server to which it is `unknown`."""
        rest = (len(keys), *keys, *arguments)
        return ("EVALSHA", self._sha, *rest), ("EVAL", self._source, *rest)

    def unknown(self, reply: Any) -> bool:
        """Whether a server has said that it does not know it, and done nothing."""
        return isinstance(reply, NoScriptError)


async def pipelined(redis: Redis, commands: Sequence[Command]) -> list[Any]:
    """The replies of several commands sent at once, outside a transaction.

    A command that the server refuses gives its error in place of a reply; connection errors are raised.
    """
    if not commands:
        return []
    async with redis.pipeline(transaction=False) as pipeline:
        for command in commands:
            pipeline.execute_command(*command, **{NEVER_DECODE: []})
        return await pipeline.execute(raise_on_error=False)


def refused(reply: Any) -> bool:
    """Whether a reply of `pipelined` is a refusal."""
    return isinstance(reply, RedisError)


def pairs(reply: Any) -> Iterator[tuple[Any, Any]]:
    """The pairs of a map, which comes as a mapping in RESP3 and as a list in RESP2 (nested or flat)."""
    if not reply:
        return
    if isinstance(reply, Mapping):
        yield from reply.items()
    elif isinstance(reply[0], list | tuple):
        yield from reply
    else:
        yield from zip(reply[::2], reply[1::2], strict=True)
