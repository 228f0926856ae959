"""Inline in the request: append the event, update the row, commit."""

from __future__ import annotations

import argparse
import asyncio

import orjson
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from tests.benchmarks.baselines.changes import PROJECTED
from tests.benchmarks.baselines.statements import create_rows, session_maker, update_for
from tests.benchmarks.baselines.telling import database_url, finish, keys, redis_url, say
from tests.benchmarks.workload import RawEvent, Workload

REQUESTS_AT_ONCE = 4

Sessions = async_sessionmaker[AsyncSession]


async def serve(redis: Redis, sessions: Sessions, log: str, stream_id: str, event: RawEvent) -> None:
    """One request: what comes of its event is in the row when it ends."""
    operation_id, raw_type, data = event
    event_id = await redis.xadd(log, {"op": operation_id, "type": raw_type, "data": data})
    assert isinstance(event_id, bytes)
    event_type = raw_type.decode()
    if event_type in PROJECTED:
        async with sessions() as session:
            await session.execute(update_for(stream_id, event_id.decode(), event_type, orjson.loads(data)))
            await session.commit()


async def run(workload: Workload) -> None:
    """Serve a request for each event, some at once, which are of different streams."""
    redis, sessions = Redis.from_url(redis_url()), session_maker(database_url())
    stream_ids = workload.stream_ids
    logs = [keys().log(stream_id) for stream_id in stream_ids]
    async with sessions() as session:
        await create_rows(session, stream_ids)  # with the conversations, before their first event
        await session.commit()

    async def serve_some(first: int) -> None:
        for at in range(workload.events_a_stream):
            for stream in range(first, workload.streams, REQUESTS_AT_ONCE):
                await serve(redis, sessions, logs[stream], stream_ids[stream], workload.event(stream, at))

    say("started")
    await asyncio.gather(*map(serve_some, range(REQUESTS_AT_ONCE)))
    await redis.aclose()
    await sessions.kw["bind"].dispose()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("streams", type=int)
    parser.add_argument("events_a_stream", type=int)
    parser.add_argument("--only-projected", action="store_true")
    options = parser.parse_args()
    workload = Workload(options.streams, options.events_a_stream, options.only_projected)
    workload.event(0, 0)  # Conversations are made up before the clock runs.
    asyncio.run(run(workload))
    finish()
