"""A FastStream subscriber of one Redis stream: an update for each event, one commit for each batch."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from itertools import islice
from typing import Any

import orjson
from faststream import FastStream
from faststream.redis import RedisBroker, StreamSub
from faststream.redis.parser import BinaryMessageFormatV1
from redis.asyncio import Redis

from tests.benchmarks.baselines.changes import PROJECTED
from tests.benchmarks.baselines.statements import create_rows, session_maker, update_for
from tests.benchmarks.baselines.telling import database_url, keys, redis_url, say
from tests.benchmarks.workload import Workload
from worker import Keys

BATCH = 500
_A_PIPELINE = 2_000
_QUIET = logging.getLogger(__name__)  # What is no warning goes nowhere.


def stream_of(keys: Keys) -> str:
    """The one Redis stream that carries the events of all conversations."""
    return f"{keys.prefix}faststream"


async def publish(redis: Redis, keys: Keys, workload: Workload) -> dict[str, str]:
    """Publish a workload, faster than `broker.publish`; the last projected event id of each stream."""
    last: dict[str, str] = {}
    events = iter(_messages(workload))
    while chunk := list(islice(events, _A_PIPELINE)):
        pipeline = redis.pipeline(transaction=False)
        for message in chunk:
            encoded = await BinaryMessageFormatV1.encode(
                message=message, reply_to=None, headers=None, correlation_id=message["event_id"]
            )
            pipeline.xadd(stream_of(keys), {"__data__": encoded})
            if message["event_type"] in PROJECTED:
                last[message["stream_id"]] = message["event_id"]
        await pipeline.execute()
    return last


def _messages(workload: Workload) -> Iterator[dict[str, Any]]:
    stream_ids = workload.stream_ids
    for number, (stream, (_, event_type, data)) in enumerate(workload, 1_700_000_000_000):
        yield {
            "stream_id": stream_ids[stream],
            "event_id": f"{number}-0",
            "event_type": event_type.decode(),
            "data": orjson.loads(data),
        }


async def run() -> None:
    """Consume until told to end."""
    sessions = session_maker(database_url())
    broker = RedisBroker(redis_url(), logger=_QUIET)
    known: set[str] = set()
    stream = StreamSub(
        stream_of(keys()), group="benchmark", consumer="one", last_id="0", batch=True, max_records=BATCH
    )

    @broker.subscriber(stream=stream)
    async def project(events: list[dict[str, Any]]) -> None:
        projected = [event for event in events if event["event_type"] in PROJECTED]
        new = {event["stream_id"] for event in projected} - known
        async with sessions() as session:
            if new:
                await create_rows(session, sorted(new))
            for event in projected:
                await session.execute(update_for(**event))
            await session.commit()
        known.update(new)

    app = FastStream(broker, logger=_QUIET)
    app.after_startup(lambda: say("started"))
    await app.run()


if __name__ == "__main__":
    asyncio.run(run())
