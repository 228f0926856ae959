"""The rows that changed last, as the screen shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import JSON, select
from sqlalchemy.ext.asyncio import AsyncEngine

from worker.projection import KEPT_COLUMNS, Projection

_COLUMNS = 7


@dataclass(frozen=True, slots=True)
class RecentRows:
    """Column names, and rows of one value for each; the stream id comes first."""

    columns: Sequence[str] = ()
    rows: Sequence[Sequence[Any]] = ()


async def recent_rows(engine: AsyncEngine, projection: Projection, limit: int) -> RecentRows:
    """The most recently changed rows: the first few columns of the table that are no JSON."""
    table = projection.table
    shown = [c for c in table.columns if c.key not in KEPT_COLUMNS and not isinstance(c.type, JSON)][
        :_COLUMNS
    ]
    columns = [table.c.stream_id, *shown]
    query = select(*columns).where(table.c.updated_at.is_not(None))
    async with engine.connect() as connection:
        rows = await connection.execute(query.order_by(table.c.updated_at.desc()).limit(limit))
        return RecentRows([c.key for c in columns], [tuple(row) for row in rows])
