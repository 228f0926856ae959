"""What applications call to look at a stream and into its past; `projection-worker show` does the same.

``redis`` is any asyncio client of redis-py, ``engine`` any of asyncpg. Nothing here writes. ValueError says
that nothing can have such a stream id. ``max_payload_megabytes`` must be what the workers are set to, since
events with more data are not applied.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from sqlalchemy.ext.asyncio import AsyncEngine

from worker.application import check_stream_id, log_of_application
from worker.cluster_client import AnyRedis
from worker.events import EventId
from worker.keys import Keys
from worker.log import MAX_PAYLOAD_MEGABYTES
from worker.moments import END
from worker.past import Past, PastRow
from worker.projection import Projection
from worker.retelling import HistoryEntry
from worker.standing import StreamView, look_at_stream

_KEYS = Keys()


async def show_stream(
    redis: AnyRedis,
    engine: AsyncEngine,
    projection: Projection,
    stream_id: str,
    *,
    keys: Keys = _KEYS,
    max_payload_megabytes: float = MAX_PAYLOAD_MEGABYTES,
) -> StreamView:
    """How a stream stands: its row, how far it is behind its log, and what keeps it from following."""
    check_stream_id(stream_id)
    logs = log_of_application(redis, keys, projection, max_payload_megabytes)
    return await look_at_stream(projection, logs, engine, stream_id)


async def row_at(
    redis: AnyRedis,
    engine: AsyncEngine,
    projection: Projection,
    stream_id: str,
    up_to: EventId = END,
    *,
    accept_loss: bool = False,
    keys: Keys = _KEYS,
    max_payload_megabytes: float = MAX_PAYLOAD_MEGABYTES,
) -> PastRow:
    """The row as it was after an event, or as the whole log has it; `parse_moment` makes ids of times.

    The log is folded by the projection as it is declared now, without the events that operators skipped. Of
    other streams' claims those are known that are projected. Raises PastLostError where the log no longer
    begins where the row does, unless the loss is accepted; then the row may be wrong.
    """
    check_stream_id(stream_id)
    past = Past(projection, log_of_application(redis, keys, projection, max_payload_megabytes), engine)
    return await past.row_at(stream_id, up_to, accept_loss=accept_loss)


def history(
    redis: AnyRedis,
    engine: AsyncEngine,
    projection: Projection,
    stream_id: str,
    up_to: EventId = END,
    *,
    accept_loss: bool = False,
    keys: Keys = _KEYS,
    max_payload_megabytes: float = MAX_PAYLOAD_MEGABYTES,
) -> AsyncIterator[HistoryEntry]:
    """Each event that changed the row, with the change, in order; also those of streams that took a claim.

    Applied one after the other to a new row, the changes give what `row_at` tells. The log is read page by
    page while you iterate. Raises like `row_at`.
    """
    check_stream_id(stream_id)
    past = Past(projection, log_of_application(redis, keys, projection, max_payload_megabytes), engine)
    return past.history(stream_id, up_to=up_to, accept_loss=accept_loss)
