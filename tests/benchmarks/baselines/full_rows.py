"""Messages on rows with large plans, written as full rows: one upsert of all columns for each batch."""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

import asyncpg
import orjson

from tests.benchmarks.baselines.changes import event_time
from tests.benchmarks.baselines.telling import database_url, finish, say
from tests.benchmarks.baselines.write_limit import COLUMNS, UPSERT, arrays
from tests.benchmarks.big_rows import plan

BATCH = 200
"""As many as the worker writes at once."""


def row(stream: int, messages: int) -> dict[str, Any]:
    """A conversation's row after so many messages."""
    event_id = f"{1_700_000_000_000 + messages}-0"
    return dict.fromkeys(COLUMNS) | {
        "stream_id": f"chat-{stream}",
        "name": f"Plan {stream}",
        "is_saved": False,
        "message_count": messages,
        "step_count": 1,
        "plan": orjson.dumps(plan(stream)).decode(),
        "steps": "[]",
        "last_event_id": event_id,
        "updated_at": event_time(event_id),
    }


async def write(connection: asyncpg.Connection, streams: int, messages: int) -> None:
    """Write all rows as they are after so many messages."""
    for first in range(0, streams, BATCH):
        rows = [row(stream, messages) for stream in range(first, min(first + BATCH, streams))]
        await connection.execute(UPSERT, *arrays(rows))


async def run(streams: int, rounds: int) -> None:
    """One more message for each stream, so many times."""
    connection = await asyncpg.connect(database_url())
    plan(0)
    say("started")
    for at in range(1, rounds + 1):
        await write(connection, streams, at)
    await connection.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("streams", type=int)
    parser.add_argument("rounds", type=int)
    options = parser.parse_args()
    asyncio.run(run(options.streams, options.rounds))
    finish()
