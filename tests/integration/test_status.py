"""What `status` asks both servers."""

from __future__ import annotations

from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.projecting import run
from tests.rebuilding import RebuildingReplica
from worker import Keys
from worker.status import take_status


async def test_diverged_streams_and_rows_of_each_version_are_counted(
    client: Redis, keys: Keys, engine: AsyncEngine
) -> None:
    replica = RebuildingReplica(client, keys, engine)
    for stream_id in ("a", "b", "c"):
        await replica.append_many(stream_id, "user_message")
    await replica.project("a", "b", "c")
    await run(engine, "UPDATE stream_projections SET version = 2 WHERE stream_id = 'c'")
    await replica.diverged.add("a", "1-0")
    status = await take_status(client, engine, keys, replica.projection)
    assert (status.diverged, status.rows_by_version, status.rows_of_other_versions) == (1, {1: 2, 2: 1}, 1)
