"""Hints that no producer writes: workers and commands have streams looked at."""

from __future__ import annotations

from collections.abc import Collection

from redis.asyncio import Redis

from worker.keys import Keys
from worker.redis_client import pipelined, refused

_HINTS_AT_ONCE = 500


async def hint_streams(redis: Redis, keys: Keys, stream_ids: Collection[str]) -> None:
    """Hint once at each of these streams. A hint without a type is heeded by every projection."""
    commands = [
        ("XADD", keys.feed(keys.partition(s)), "MAXLEN", "~", keys.feed_max_length, "*", "stream", s)
        for s in dict.fromkeys(stream_ids)
    ]
    for start in range(0, len(commands), _HINTS_AT_ONCE):
        for reply in await pipelined(redis, commands[start : start + _HINTS_AT_ONCE]):
            if refused(reply):
                raise reply
