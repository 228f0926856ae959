"""A whole table at rest compared with its logs: what its rows must be, folded in memory, and what they are.

Means something only while nobody writes; `worker.verify` is for tables in use. Nothing here writes. The fold
is the projection's own, but the cross-stream rule is computed by its plain, in-memory `settle`, not by the
transactions that wrote the table.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from sqlalchemy import JSON, Text, cast, select
from sqlalchemy.ext.asyncio import AsyncEngine

from worker import letters
from worker.child_statements import ChildStatements
from worker.difference import Columns, Difference, differences
from worker.finding import differences_of_children
from worker.log import Log
from worker.log_scan import LogScan
from worker.projection import Projection
from worker.replay import FoldedLog, ReplayRequest, fold_logs
from worker.row import RawJson

_FOLDED_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class Comparison:
    """How a table differs from its logs. ``rows`` counts those that were expected or found.

    ``missing`` are streams that must have a row and have none, ``extra`` those that have one although no
    log accounts for it.
    """

    rows: int
    differences: tuple[Difference, ...]
    missing: tuple[str, ...]
    extra: tuple[str, ...]

    @property
    def wrong_rows(self) -> int:
        differing = {difference.stream_id for difference in self.differences}
        return len(differing) + len(self.missing) + len(self.extra)


async def compare_table(logs: Log, engine: AsyncEngine, projection: Projection) -> Comparison:
    """Fold all logs and compare the whole table with them. Means something only while no worker writes."""
    async with engine.connect() as connection:
        skipped = await letters.skipped(connection, projection.name)
    folded: dict[str, FoldedLog] = {}
    scan = LogScan(logs.redis, logs.keys, logs.streams)
    streams = sorted({stream_id async for found in scan.all_streams() for stream_id in found})
    for at in range(0, len(streams), _FOLDED_AT_ONCE):
        some = streams[at : at + _FOLDED_AT_ONCE]
        requests = [ReplayRequest(s, skipped.get(s, ())) for s in some]
        folded |= await fold_logs(logs, projection, requests)
    expected = expected_rows(projection, folded)
    columns = next(iter(expected.values()), {}).keys()
    comparison = compare(expected, await stored_rows(engine, projection, columns))
    if not projection.children:
        return comparison
    of_children = await _compare_children(engine, projection, {s: folded[s] for s in expected})
    return replace(comparison, differences=(*comparison.differences, *of_children))


async def _compare_children(
    engine: AsyncEngine, projection: Projection, folded: Mapping[str, FoldedLog]
) -> list[Difference]:
    """How the child rows of these streams differ from their logs."""
    statements = ChildStatements(projection, engine.dialect)
    found: list[Difference] = []
    streams = sorted(folded)
    async with engine.connect() as connection:
        for at in range(0, len(streams), _FOLDED_AT_ONCE):
            some = streams[at : at + _FOLDED_AT_ONCE]
            stored = await statements.stored(connection, some)
            for stream_id in some:
                rows = stored.get(stream_id, {})
                found += differences_of_children(projection, stream_id, folded[stream_id], rows)
    return found


def expected_rows(projection: Projection, folded: Mapping[str, FoldedLog]) -> dict[str, Columns]:
    """The rows that these logs, which must be all there are, amount to.

    Of the columns that a cross-stream rule computes, those are told that its `settle` tells.
    """
    moved = {stream_id: log for stream_id, log in folded.items() if log.last_event_id is not None}
    settled = projection.rule.settle({s: log.facts for s, log in moved.items()}) if projection.rule else {}
    return {
        stream_id: {
            **dict(zip(projection.columns, log.state, strict=True)),
            "first_event_id": log.first_event_id,
            "last_event_id": log.last_event_id,
            "updated_at": log.updated_at,
            "version": projection.version,
            **settled.get(stream_id, {}),
        }
        for stream_id, log in moved.items()
    }


async def stored_rows(
    engine: AsyncEngine, projection: Projection, columns: Collection[str]
) -> dict[str, Columns]:
    """These columns of every row that was projected. Rows that somebody made beforehand are left out."""
    table = projection.table
    wanted = [
        cast(table.c[name], Text) if isinstance(table.c[name].type, JSON) else table.c[name]
        for name in columns
    ]
    query = select(table.c.stream_id, *wanted).where(table.c.last_event_id.is_not(None))
    async with engine.connect() as connection:
        rows = (await connection.execute(query)).all()
    return {
        row[0]: {
            name: RawJson(value) if isinstance(table.c[name].type, JSON) and value is not None else value
            for name, value in zip(columns, row[1:], strict=True)
        }
        for row in rows
    }


def compare(expected: Mapping[str, Columns], stored: Mapping[str, Columns]) -> Comparison:
    """Compare rows by stream."""
    differing = (
        difference
        for stream_id, columns in sorted(expected.items())
        if stream_id in stored
        for difference in differences(stream_id, columns, stored[stream_id])
    )
    return Comparison(
        rows=len(expected.keys() | stored.keys()),
        differences=tuple(differing),
        missing=tuple(sorted(expected.keys() - stored.keys())),
        extra=tuple(sorted(stored.keys() - expected.keys())),
    )
