"""Which streams a rebuild is about, and finding them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass

from sqlalchemy.exc import DBAPIError

from worker.errors import ScopeError
from worker.log import Log
from worker.log_scan import NO_STREAM, LogScan
from worker.projection import Projection
from worker.store import Store
from worker.trouble import Trouble, classify, describe, sqlstate

_ROWS_A_STEP = 2_000
_READ_ONLY = "25006"
_CANCELLED = "57014"


@dataclass(frozen=True, slots=True)
class Scope:
    """All streams, whether they have a log, a row or both; or those with a row that this is true of.

    ``where`` is an SQL condition on a row, ``stale`` means of an older version of the projection. With
    ``accept_loss`` logs are taken as they are, whatever they have lost.
    """

    where: str | None = None
    stale: bool = False
    accept_loss: bool = False

    @property
    def of_rows(self) -> bool:
        """Whether it asks for rows, so that streams without one are left out."""
        return self.stale or self.where is not None

    def __str__(self) -> str:
        rows = "rows of older versions" if self.stale else "rows"
        streams = rows if self.of_rows else "all streams"
        condition = f" where {self.where}" if self.where is not None else ""
        return f"{streams}{condition}{', with --accept-loss' if self.accept_loss else ''}"


async def find_streams(
    scope: Scope, logs: Log, store: Store, projection: Projection, *, with_logs: bool = True
) -> list[str]:
    """All streams in scope, each once, in order. Keys that are no streams and have no row are not among them,
    nor streams that the projection leaves out.

    Without ``with_logs`` only those that have a row.
    Raises ScopeError where PostgreSQL does not take the condition.
    """
    conditions = [f"version < {projection.version} AND last_event_id IS NOT NULL"] if scope.stale else []
    conditions += [scope.where] if scope.where is not None else []
    conditions += [] if scope.of_rows else ["last_event_id IS NOT NULL"]
    try:
        streams = await _streams_of_rows(store, conditions)
    except (DBAPIError, TimeoutError) as error:
        if scope.where is None or not _is_to_blame(error):
            raise
        if isinstance(error, TimeoutError) or sqlstate(error) == _CANCELLED:
            raise ScopeError(
                f"PostgreSQL took too long over the condition {scope.where!r}: give a quicker one."
            ) from None
        raise ScopeError(
            f"PostgreSQL does not take the condition {scope.where!r}. {describe(error)}. "
            "Give one that could stand behind WHERE."
        ) from None
    if with_logs and not scope.of_rows:
        streams |= await streams_of_logs(logs)
    return sorted(filter(projection.streams.covers, streams))


def _is_to_blame(error: DBAPIError | TimeoutError) -> bool:
    """Whether an error is the condition's, and not the server's."""
    if isinstance(error, TimeoutError) or sqlstate(error) in (_READ_ONLY, _CANCELLED):
        return True
    return classify(error) in (Trouble.MISCONFIGURED, Trouble.POISON)


async def _streams_of_rows(store: Store, conditions: list[str]) -> set[str]:
    streams: set[str] = set()
    last = ""
    while True:
        found = await store.streams_where(conditions, last, _ROWS_A_STEP)
        streams.update(found)
        if len(found) < _ROWS_A_STEP:
            return streams
        last = found[-1]


async def projected_streams(store: Store, stream_ids: Sequence[str]) -> list[str]:
    """Those of these streams whose row has a position."""
    positions = await store.positions(stream_ids)
    return [stream_id for stream_id in stream_ids if positions.get(stream_id) is not None]


async def has_logs(logs: Log) -> bool:
    """Whether there is any log."""
    async with aclosing(LogScan(logs.redis, logs.keys, logs.streams).all_streams()) as steps:
        async for found in steps:
            if found:
                return True
    return False


async def streams_of_logs(logs: Log) -> set[str]:
    """All streams that have a log."""
    scan = LogScan(logs.redis, logs.keys, logs.streams)
    streams: set[str] = set()
    async for found in scan.all_streams():
        new = [stream_id for stream_id in found if stream_id not in streams]
        last_ids = await scan.last_ids(new) if new else []
        streams.update(s for s, last_id in zip(new, last_ids, strict=True) if last_id != NO_STREAM)
    return streams
