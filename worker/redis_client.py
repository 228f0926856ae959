"""The worker's own Redis client, and its few differences from redis-py's defaults."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

READ_BLOCK = timedelta(seconds=1)
"""How long a read of the feed waits for hints, and so how long a stop may take to be noticed by it."""

_SOCKET_TIMEOUT_SECONDS = 10.0
_RAW_COMMANDS = ("XRANGE", "XREVRANGE", "XREADGROUP", "XAUTOCLAIM", "XPENDING")


def make_client(url: str) -> Redis:
    """A client that never repeats a command and leaves replies of streams as the server sent them.

    redis-py repeats by default, but a repeated XREADGROUP hides hints whose reply was lost. Its reply shapes
    differ between protocols and settings, so the modules that read streams take them raw. The socket timeout
    exceeds READ_BLOCK, or a quiet feed would look like a dead server.
    """
    client = Redis.from_url(
        url,
        decode_responses=False,
        retry=Retry(NoBackoff(), 0),
        socket_timeout=_SOCKET_TIMEOUT_SECONDS,
        socket_connect_timeout=_SOCKET_TIMEOUT_SECONDS,
    )
    for command in _RAW_COMMANDS:
        client.set_response_callback(command, _raw)
    return client


def _raw(response: Any, **kwargs: Any) -> Any:
    return response


async def pipelined(redis: Redis, commands: list[tuple[Any, ...]]) -> list[Any]:
    """The replies of several commands sent at once, outside a transaction.

    A command that the server refuses gives its error in place of a reply; connection errors are raised.
    """
    if not commands:
        return []
    async with redis.pipeline(transaction=False) as pipeline:
        for command in commands:
            pipeline.execute_command(*command)
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
