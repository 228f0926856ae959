"""Reading the messages of one conversation, many times: ``plain``, or with `read_stream_messages`.

The plain way asks for the whole log and decodes every entry with json; page by page it is hardly faster.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from redis.asyncio import Redis

from projections.messages import Transcript
from projections.transcripts import read_stream_messages
from tests.benchmarks.baselines.telling import finish, keys, redis_url, say

Messages = list[dict[str, Any]]


async def read_plainly(redis: Redis, stream_id: str) -> Messages:
    """The conversation's messages."""
    transcript = Transcript()
    entries: Any = await redis.xrange(keys().log(stream_id))
    for event_id, fields in entries:
        try:
            event_type = fields[b"type"].decode()
            data = json.loads(fields[b"data"])
        except (KeyError, ValueError, RecursionError):
            continue  # Any producer may have left anything.
        if isinstance(data, dict):
            transcript.apply(event_id, event_type, data)
    return transcript.messages


async def read_fast(redis: Redis, stream_id: str) -> Messages:
    """The same."""
    return await read_stream_messages(redis, stream_id, keys=keys())


WAYS: Mapping[str, Callable[[Redis, str], Awaitable[Messages]]] = {"plain": read_plainly, "fast": read_fast}


async def run(way: str, stream_id: str, times: int) -> None:
    """Read it so often, after one time each way, to see that they come to the same."""
    async with Redis.from_url(redis_url()) as redis:
        messages = [await read(redis, stream_id) for read in WAYS.values()]
        assert messages[0] == messages[1]
        assert messages[0]
        gc.freeze()  # Else the collector's walks through all that was imported would be measured, too.
        say("started")
        for _ in range(times):
            await WAYS[way](redis, stream_id)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("stream_id")
    parser.add_argument("times", type=int)
    options = parser.parse_args()
    asyncio.run(run(options.way, options.stream_id, options.times))
    finish()
