"""Writing full rows and doing nothing else: an upsert of 500 rows from arrays, over one connection or two."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import asyncpg
import orjson

from tests.benchmarks.baselines.changes import MESSAGES, PROJECTED, event_time, new_values
from tests.benchmarks.baselines.telling import database_url, finish, say
from tests.benchmarks.workload import Workload

BATCH = 500
COLUMNS = {
    "stream_id": "text",
    "name": "text",
    "record_type": "text",
    "wdk_strategy_id": "bigint",
    "is_saved": "boolean",
    "model_id": "text",
    "message_count": "integer",
    "step_count": "integer",
    "plan": "text",
    "steps": "text",
    "root_step_id": "text",
    "last_event_id": "text",
    "updated_at": "timestamptz",
}
_JSON = ("plan", "steps")
_DEFAULTS: dict[str, Any] = {"name": "New Conversation", "is_saved": False, "plan": {}, "steps": []}
UPSERT = f"""
    INSERT INTO stream_projections ({", ".join(COLUMNS)})
    SELECT {", ".join(f"{column}::jsonb" if column in _JSON else column for column in COLUMNS)}
    FROM unnest({", ".join(f"${at}::{sql}[]" for at, sql in enumerate(COLUMNS.values(), 1))})
        AS i ({", ".join(COLUMNS)})
    ON CONFLICT (stream_id) DO UPDATE
    SET {", ".join(f"{column} = excluded.{column}" for column in COLUMNS if column != "stream_id")}"""


def final_row(workload: Workload, stream: int) -> dict[str, Any]:
    """What all events of a stream come to."""
    row: dict[str, Any] = dict.fromkeys(COLUMNS) | _DEFAULTS | {"message_count": 0, "step_count": 0}
    for at in range(workload.events_a_stream):
        _, raw_type, data = workload.event(stream, at)
        event_type = raw_type.decode()
        if event_type in PROJECTED:
            row |= new_values(event_type, orjson.loads(data))
            row["message_count"] += event_type in MESSAGES
    event_id = f"1700000000000-{stream}"
    row |= {column: orjson.dumps(row[column]).decode() for column in _JSON}
    return row | {"last_event_id": event_id, "updated_at": event_time(event_id)}


def batches(workload: Workload) -> list[list[list[Any]]]:
    """The final rows of all streams, in arrays of 500."""
    rows = [
        final_row(workload, stream) | {"stream_id": stream_id}
        for stream, stream_id in enumerate(workload.stream_ids)
    ]
    return [arrays(rows[first : first + BATCH]) for first in range(0, len(rows), BATCH)]


def arrays(rows: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    """Rows as `UPSERT` takes them."""
    return [[row[column] for row in rows] for column in COLUMNS]


async def run(workload: Workload, passes: int, connections: int) -> None:
    """Write all rows so often; each connection has rows of its own."""
    waiting = batches(workload)
    open_connections = [await asyncpg.connect(database_url()) for _ in range(connections)]

    async def write(number: int) -> None:
        for _ in range(passes):
            for batch in waiting[number::connections]:
                await open_connections[number].execute(UPSERT, *batch)

    say("started")
    await asyncio.gather(*map(write, range(connections)))
    for connection in open_connections:
        await connection.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("streams", type=int)
    parser.add_argument("passes", type=int)
    parser.add_argument("connections", type=int)
    options = parser.parse_args()
    asyncio.run(run(Workload(options.streams, 100, only_projected=True), options.passes, options.connections))
    finish()
