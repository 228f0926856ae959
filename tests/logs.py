"""Logs and feeds as they stand in Redis."""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis

from tests.rights import PRODUCER, client_as
from worker import Keys
from worker.log import Log


async def log_of(redis: Redis, keys: Keys, stream_id: str) -> list[tuple[str, dict[bytes, bytes]]]:
    entries: Any = await redis.xrange(keys.log(stream_id))
    return [(event_id.decode(), fields) for event_id, fields in entries]


async def hints_of(redis: Redis, keys: Keys, stream_id: str) -> list[dict[bytes, bytes]]:
    entries: Any = await redis.xrange(keys.feed(keys.partition(stream_id)))
    return [fields for _, fields in entries]


def logs_of(client: Redis, keys: Keys, *, page_bytes: int = 1_000_000) -> Log:
    """Logs of which only user messages are projected."""
    return Log(client, keys, {"user_message"}, max_payload_bytes=1_000_000, page_bytes=page_bytes)


async def append(client: Redis, keys: Keys, stream_id: str, *types: str, first: int = 1, **data: Any) -> None:
    """Append an entry of each type, with the ids first-0, (first + 1)-0 and so on."""
    pipeline = client_as(client, PRODUCER).pipeline(transaction=False)
    for number, event_type in enumerate(types, first):
        fields: Any = {"op": "", "type": event_type, "data": "{}", **data}
        pipeline.xadd(keys.log(stream_id), fields, id=f"{number}-0")
    await pipeline.execute()
