"""The table of the strategies read model, as tests look at it."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.reference.model import as_stored

Table = dict[str, dict[str, Any]]
"""Stream id to column to value."""

READ_MODEL = (
    "stream_id",
    "name",
    "record_type",
    "wdk_strategy_id",
    "is_saved",
    "model_id",
    "message_count",
    "step_count",
    "plan",
    "steps",
    "root_step_id",
    "last_event_id",
    "updated_at",
)

_SELECT = f"""
    SELECT {", ".join(c if c not in ("plan", "steps") else f"{c}::text" for c in READ_MODEL)}
    FROM stream_projections WHERE last_event_id IS NOT NULL"""


async def read_table(engine: AsyncEngine) -> Table:
    """Every projected row, as the reference model has them."""
    async with engine.connect() as connection:
        rows = [dict(zip(READ_MODEL, row, strict=True)) for row in await connection.execute(text(_SELECT))]
    for row in rows:
        row["plan"], row["steps"] = json.loads(row["plan"]), json.loads(row["steps"])
    return {row["stream_id"]: row for row in rows}


async def empty_tables(engine: AsyncEngine) -> None:
    """Forget all rows, claims and dead letters."""
    async with engine.begin() as connection:
        await connection.execute(text("TRUNCATE stream_projections, strategy_claims, dead_letters"))


def as_read(column: str, value: Any) -> Any:
    """What a reader of the table sees: jsonb normalises numbers."""
    return as_stored(value) if column in ("plan", "steps") else value


def differences(table: Table, expected: Table) -> list[str]:
    """Where a table is not as it should be, one line each."""
    found = [f"{stream}: missing" for stream in expected.keys() - table.keys()]
    found += [f"{stream}: not expected" for stream in table.keys() - expected.keys()]
    return found + [
        f"{stream}.{column}: {table[stream][column]!r} should be {value!r}"
        for stream in expected.keys() & table.keys()
        for column, value in expected[stream].items()
        if as_read(column, table[stream][column]) != as_read(column, value)
    ]
