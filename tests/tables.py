"""The table of the strategies read model, as tests look at it."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

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


async def read_table(engine: AsyncEngine) -> dict[str, dict[str, Any]]:
    """Every projected row: stream id to column to value, as the reference model has them."""
    async with engine.connect() as connection:
        rows = [dict(zip(READ_MODEL, row, strict=True)) for row in await connection.execute(text(_SELECT))]
    for row in rows:
        row["plan"], row["steps"] = json.loads(row["plan"]), json.loads(row["steps"])
    return {row["stream_id"]: row for row in rows}


async def empty_tables(engine: AsyncEngine) -> None:
    """Forget all rows and claims."""
    async with engine.begin() as connection:
        await connection.execute(text("TRUNCATE stream_projections, strategy_claims"))
