"""Reading logs and doing nothing with them: ``group`` acknowledges, ``range`` reads as the worker must."""

from __future__ import annotations

import argparse

import redis

from tests.benchmarks.baselines.reading import acknowledge, find_logs, read_in_turns
from tests.benchmarks.baselines.telling import finish, keys, redis_url, say

_LOGS_A_PIPELINE = 50


def read_by_group(client: redis.Redis) -> None:
    """Read all logs through a consumer group, and acknowledge, until there is no news."""
    logs = find_logs(client, keys())
    say("started")
    for batch in read_in_turns(client, logs):
        if not batch:
            return  # All logs are equally long.
        acknowledge(client, batch)


def read_ranges(client: redis.Redis) -> None:
    """Read each log whole, some of them in one pipeline."""
    logs = list(client.scan_iter(match=f"{keys().log_prefix}*", count=5_000))
    say("started")
    for first in range(0, len(logs), _LOGS_A_PIPELINE):
        with client.pipeline(transaction=False) as pipeline:
            for log in logs[first : first + _LOGS_A_PIPELINE]:
                pipeline.xrange(log)
            pipeline.execute()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("way", choices=["group", "range"])
    with redis.Redis.from_url(redis_url()) as client:
        (read_by_group if parser.parse_args().way == "group" else read_ranges)(client)
    finish()
