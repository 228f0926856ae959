"""What the functions that applications call make of an engine, a client and stream ids."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncEngine

from worker.cluster_client import AnyRedis, as_used
from worker.events import parse_stream_id
from worker.keys import Keys
from worker.log import MAX_PAYLOAD_MEGABYTES, PAGE_MEGABYTES, Log
from worker.projection import Projection
from worker.redis_client import reading_client


def log_of_application(
    redis: AnyRedis, keys: Keys, projection: Projection, max_payload_megabytes: float = MAX_PAYLOAD_MEGABYTES
) -> Log:
    """A projection's logs over the connections of an application's client, whatever it does to replies."""
    redis, keys = as_used(redis, keys)
    return Log(
        reading_client(redis),
        projection.keys(keys),
        projection.types,
        max_payload_bytes=int(max_payload_megabytes * 1024 * 1024),
        page_bytes=PAGE_MEGABYTES * 1024 * 1024,
        streams=projection.streams,
    )


def read_committed(engine: AsyncEngine) -> AsyncEngine:
    """The same connections in transactions that the store's locking can rely on.

    An application's own engine may be set to anything, such as AUTOCOMMIT: no lock outlives a statement then.
    """
    return engine.execution_options(isolation_level="READ COMMITTED")


def check_stream_ids(stream_ids: Sequence[str]) -> None:
    """Raise ValueError for what can be no stream id, and TypeError for a single one in place of many."""
    if isinstance(stream_ids, str):
        raise TypeError(f"several stream ids are taken, not one: give [{stream_ids!r}]")
    for stream_id in stream_ids:
        check_stream_id(stream_id)


def check_stream_id(stream_id: str) -> None:
    """Raise ValueError for what can be no stream id, and PostgreSQL would not take."""
    try:
        usable = parse_stream_id(stream_id.encode()) is not None
    except UnicodeEncodeError:
        usable = False
    if not usable:
        raise ValueError(f"{stream_id[:100]!r} is no stream id; give one that events were emitted to")
