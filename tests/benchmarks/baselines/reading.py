"""Reading logs through a consumer group with redis-py's synchronous client: many logs with each command."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import redis

from worker import Keys

GROUP = "benchmark"
LOGS_AT_ONCE = 100
ENTRIES_A_LOG = 20

Batch = Sequence[tuple[bytes, Sequence[tuple[bytes, dict[bytes, bytes]]]]]
"""Keys of logs, each with entries, as redis-py gives them."""


def find_logs(client: redis.Redis, keys: Keys) -> list[bytes]:
    """The keys of all logs, each of which gets a group."""
    logs = list(client.scan_iter(match=f"{keys.log_prefix}*", count=5_000))
    with client.pipeline(transaction=False) as pipeline:
        for log in logs:
            pipeline.xgroup_create(log, GROUP, "0")
        pipeline.execute()
    return logs


def read_in_turns(client: redis.Redis, logs: Sequence[bytes]) -> Iterator[Batch]:
    """Batches of new entries, from some logs after the others, round and round; empty if there are none."""
    some = [logs[first : first + LOGS_AT_ONCE] for first in range(0, len(logs), LOGS_AT_ONCE)]
    for group in itertools.cycle(some):
        streams: dict[Any, Any] = dict.fromkeys(group, ">")
        batch: Any = client.xreadgroup(GROUP, "one", streams, count=ENTRIES_A_LOG)
        yield batch or []


def acknowledge(client: redis.Redis, batch: Batch) -> None:
    """Acknowledge all entries of a batch at once."""
    with client.pipeline(transaction=False) as pipeline:
        for log, entries in batch:
            pipeline.xack(log, GROUP, *(entry_id for entry_id, _ in entries))
        pipeline.execute()
