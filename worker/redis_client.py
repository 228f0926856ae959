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
from redis.exceptions import NoScriptError, ReadOnlyError, RedisError, ResponseError

from worker.errors import SettingsError
from worker.redis_url import ClusterNodes, Sentinels, Server, parse_redis_url
from worker.sentinel import client_of_master

READ_BLOCK = timedelta(seconds=0.5)
"""How long a read of the feed waits for hints, and so how late it may notice a stop or a new partition."""

_SOCKET_TIMEOUT_SECONDS = 10.0
_RAW_COMMANDS = ("XRANGE", "XREVRANGE", "XREADGROUP", "XAUTOCLAIM", "XPENDING")


def make_client(url: str) -> Redis:
    """A client that never repeats a command and leaves replies of streams as the server sent them.

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
        case ClusterNodes():
            raise SettingsError("REDIS_URL names a cluster, which is not supported yet.")
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


def read_only(error: BaseException) -> ReadOnlyError | None:
    """The refusal of a master that is none any more, which this error is or stands for.

    redis-py's clients of sentinels turn it into a ConnectionError, which sounds as if the reply was lost.
    """
    for at in (error, error.__context__):
        if isinstance(at, ReadOnlyError):
            return at
    return None


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
        rest = (len(keys), *keys, *arguments)
        try:
            return await redis.execute_command("EVALSHA", self._sha, *rest, **{NEVER_DECODE: []})
        except NoScriptError:
            return await redis.execute_command("EVAL", self._source, *rest, **{NEVER_DECODE: []})


async def pipelined(redis: Redis, commands: list[tuple[Any, ...]]) -> list[Any]:
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
