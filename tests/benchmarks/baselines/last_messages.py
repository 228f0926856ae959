"""Reading the last 20 messages of one conversation, many times: from its ``log``, or from the ``table``."""

from __future__ import annotations

import argparse
import asyncio
import gc
from typing import Any

from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import create_async_engine

from projections.stored_transcripts import read_projected_messages
from projections.transcripts import read_stream_messages
from tests.benchmarks.baselines.telling import database_url, finish, keys, redis_url, say
from worker.database import parse_database_url

LAST = 20


async def run(way: str, stream_id: str, times: int) -> None:
    """Read them so often, after one time each way, to see that they come to the same."""
    engine = create_async_engine(parse_database_url(database_url()))
    async with Redis.from_url(redis_url()) as redis, engine.connect() as connection:

        async def from_log() -> list[dict[str, Any]]:
            return (await read_stream_messages(redis, stream_id, keys=keys()))[-LAST:]

        async def from_table() -> list[dict[str, Any]]:
            return (await read_projected_messages(connection, stream_id, LAST)).messages

        ways = {"log": from_log, "table": from_table}
        messages = [await read() for read in ways.values()]
        assert messages[0] == messages[1]
        assert len(messages[0]) == LAST
        gc.freeze()  # Else the collector's walks through all that was imported would be measured, too.
        say("started")
        for _ in range(times):
            await ways[way]()
    await engine.dispose()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("way", choices=("log", "table"))
    parser.add_argument("stream_id")
    parser.add_argument("times", type=int)
    options = parser.parse_args()
    asyncio.run(run(options.way, options.stream_id, options.times))
    finish()
