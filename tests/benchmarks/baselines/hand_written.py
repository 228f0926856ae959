"""A loop as a competent user writes it by hand: read a batch, update its rows, commit, acknowledge.

Statements are prepared and sent in a pipeline, so that client and server are at work at the same time.
Alternatives were measured, and none was faster on both backlogs: `executemany` with one statement for all
types, or for all events that are the first, second and so on of their streams in a batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
import psycopg
import redis
from psycopg.types.json import Jsonb

from tests.benchmarks.baselines.changes import MESSAGES, PROJECTED, event_time, new_values
from tests.benchmarks.baselines.reading import Batch, acknowledge, find_logs, read_in_turns
from tests.benchmarks.baselines.telling import database_url, keys, redis_url, say

_PROJECTED = {event_type.encode(): event_type for event_type in PROJECTED}
_NEW_ROW = "INSERT INTO stream_projections (stream_id) VALUES (%s) ON CONFLICT DO NOTHING"

Change = tuple[str, list[Any]]
"""A statement and its parameters."""


def changes(batch: Batch, prefix_length: int) -> Iterator[tuple[str, Change]]:
    """Each projected event as the change that it makes, with its stream; all others are only looked at."""
    for log, entries in batch:
        stream_id = log[prefix_length:].decode()
        for raw_id, fields in entries:
            event_type = _PROJECTED.get(fields[b"type"])
            if event_type is not None:
                yield stream_id, change(stream_id, raw_id.decode(), event_type, fields[b"data"])


def change(stream_id: str, event_id: str, event_type: str, data: bytes) -> Change:
    """The statement for one event, which writes no column but those that it sets."""
    values = new_values(event_type, orjson.loads(data))
    sets = [f"{column} = %s" for column in values]
    if event_type in MESSAGES:
        sets.append("message_count = message_count + 1")
    parameters = [Jsonb(value) if isinstance(value, dict | list) else value for value in values.values()]
    return (
        f"UPDATE stream_projections SET {', '.join(sets)}{', ' if sets else ''}last_event_id = %s, "
        "updated_at = %s WHERE stream_id = %s",
        [*parameters, event_id, event_time(event_id), stream_id],
    )


def project(connection: psycopg.Connection, batch: Batch, prefix_length: int, known: set[str]) -> None:
    """Apply a batch in one transaction; ``known`` are the streams that have rows."""
    found = list(changes(batch, prefix_length))
    new = {stream_id for stream_id, _ in found} - known
    with connection.pipeline(), connection.transaction(), connection.cursor() as cursor:
        if new:
            cursor.executemany(_NEW_ROW, [(stream_id,) for stream_id in sorted(new)])
        for _, (statement, parameters) in found:
            cursor.execute(statement, parameters)
    known |= new


def run() -> None:
    """Consume until killed."""
    client, prefix_length = redis.Redis.from_url(redis_url()), len(keys().log_prefix.encode())
    logs = find_logs(client, keys())
    psycopg.types.json.set_json_dumps(orjson.dumps)
    known: set[str] = set()
    with psycopg.connect(database_url(), autocommit=True, prepare_threshold=0) as connection:
        say("started")
        for batch in read_in_turns(client, logs):
            if batch:
                project(connection, batch, prefix_length, known)
                acknowledge(client, batch)


if __name__ == "__main__":
    run()
