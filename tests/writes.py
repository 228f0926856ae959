"""Rows of tallies, as tests have them written and look at them."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.rights import OWNER, engine_as
from tests.tallies import Base
from worker.letters import WorkerTables
from worker.row import RawJson
from worker.table import RowWrite, Stamp, StoredRow

AT = datetime(2026, 1, 2, tzinfo=UTC)
ALL = ("total", "note", "numbers")


async def create_tallies(engine: AsyncEngine) -> None:
    """Make the table, and the worker's own where there are none."""
    async with engine_as(engine, OWNER).begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
        await connection.run_sync(WorkerTables.metadata.create_all)


def stored(
    position: str | None = "1-0",
    *,
    total: int = 1,
    note: str | None = "mine",
    numbers: str = "[1]",
    generation: int = 0,
    version: int = 1,
) -> StoredRow:
    return StoredRow(Stamp(position, generation, version), "1-0", (total, note, RawJson(numbers)))


def write(
    stream_id: str = "a",
    row: StoredRow | None = None,
    *,
    onto: StoredRow | None = None,
    changed: Collection[str] = ALL,
    replace: bool = False,
    updated_at: datetime | None = AT,
    facts: tuple[Any, ...] = (),
) -> RowWrite:
    """A write of a row onto the one that was loaded; of a new row where there was none."""
    loaded = onto.stamp if onto else None
    return RowWrite(
        stream_id, loaded, row or stored(), frozenset(changed), updated_at, facts, replace or onto is None
    )


async def rows(engine: AsyncEngine) -> dict[str, dict[str, Any]]:
    """All columns of the table, other applications' too, by stream."""
    async with engine.connect() as connection:
        found = await connection.execute(text("SELECT * FROM tallies"))
        return {row["stream_id"]: dict(row) for row in found.mappings()}
