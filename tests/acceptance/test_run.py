"""`projection-worker run`, as a service manager starts it: real processes, real signals."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from typing import Any

import asyncpg
import pytest
from redis.asyncio import Redis

from projections import strategies
from tests.acceptance.commands import call, environment, running, worker_environment
from tests.servers import RunningServers
from tests.waiting import block_until, wait_until
from worker import Keys, emit


@pytest.fixture
def env(servers: RunningServers, database_url: str, keys_prefix: str) -> dict[str, str]:
    return worker_environment(servers.redis_url, database_url, keys_prefix)


async def row_of(database_url: str, stream_id: str) -> dict[str, Any] | None:
    connection = await asyncpg.connect(database_url)
    try:
        row = await connection.fetchrow("SELECT * FROM stream_projections WHERE stream_id = $1", stream_id)
        return dict(row) if row else None
    finally:
        await connection.close()


async def wait_for_position(database_url: str, stream_id: str, event_id: str) -> dict[str, Any]:
    async def there() -> dict[str, Any] | None:
        row = await row_of(database_url, stream_id)
        return row if row and row["last_event_id"] == event_id else None

    return await wait_until(there, f"{stream_id} to stand at {event_id}")


async def test_an_entry_without_a_hint_is_projected_within_a_sweep(
    env: dict[str, str], redis: Redis, database_url: str, keys_prefix: str
) -> None:
    with running("run", env=env) as worker:
        await wait_until(lambda: "started" in worker.log, "the worker to start")
        event_id = await redis.execute_command(
            "XADD", f"{keys_prefix}stream:x", "*", "op", "o", "type", "user_message", "data", "{}"
        )
        row = await wait_for_position(database_url, "x", event_id.decode())
        assert row["message_count"] == 1
        assert worker.stop() == 0


async def test_an_emitted_checkpoint_does_not_wait_for_a_sweep(
    env: dict[str, str], producer: Redis, database_url: str, keys_prefix: str
) -> None:
    with running("run", env={**env, "WORKER_SWEEP_SECONDS": "3600"}) as worker:
        await wait_until(lambda: "started" in worker.log, "the worker to start")
        for number in range(3):
            event_id = await emit(
                producer,
                "x",
                "",
                "strategy_link",
                {"wdkStrategyId": number},
                projected_types=strategies.types,
                keys=Keys(keys_prefix),
            )
            row = await wait_for_position(database_url, "x", event_id)
            assert row["wdk_strategy_id"] == number
        assert worker.stop() == 0


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_with_nothing_pending(
    env: dict[str, str], redis: Redis, producer: Redis, keys_prefix: str, signum: signal.Signals
) -> None:
    keys = Keys(keys_prefix)
    with running("run", env=env) as worker:
        await wait_until(lambda: "started" in worker.log, "the worker to start")
        for number in range(500):
            await emit(producer, f"s{number % 50}", "", "user_message", {}, keys=keys)
        assert worker.stop(signum) == 0
    for partition in range(keys.partitions):
        assert (await redis.xpending(keys.feed(partition), "strategies"))["pending"] == 0
        assert await redis.xinfo_consumers(keys.feed(partition), "strategies") == []


async def test_a_second_signal_cancels(env: dict[str, str], database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        with running("run", env=env) as worker:
            await wait_until(lambda: "started" in worker.log, "the worker to start")
            async with connection.transaction():
                # The worker cannot finish what it has in hand while somebody locks the table.
                await connection.execute("LOCK TABLE stream_projections IN ACCESS EXCLUSIVE MODE")
                emitted = await asyncio.to_thread(call, "emit", "x", "user_message", env=env)
                assert emitted.returncode == 0

                async def waits_for_the_lock() -> bool:
                    return bool(
                        await connection.fetchval(
                            "SELECT count(*) FROM pg_locks WHERE NOT granted"
                            " AND relation = 'stream_projections'::regclass"
                        )
                    )

                await wait_until(waits_for_the_lock, "the worker to wait for the table")
                worker.process.send_signal(signal.SIGTERM)
                # Another one, since two of a kind may arrive as one.
                await asyncio.to_thread(worker.stop, signal.SIGINT)
                assert worker.process.returncode == 1
    finally:
        await connection.close()


def test_servers_that_are_not_there_yet_are_waited_for(env: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    nowhere = {**env, "REDIS_URL": f"redis://127.0.0.1:{port}/0"}
    with running("run", env=nowhere) as worker:
        block_until(lambda: "retrying" in worker.log, "the worker to say that it waits")
        assert worker.process.poll() is None
        assert worker.log.count("retrying") == 1
        assert worker.stop() == 0


def test_a_database_that_is_not_migrated_is_waited_for_with_the_command_to_run(
    env: dict[str, str], empty_database_url: str
) -> None:
    unmigrated = {**env, "DATABASE_URL": empty_database_url}
    with running("run", env=unmigrated) as worker:
        block_until(lambda: worker.says("projection-worker migrate"), "the worker to say what to do")
        refused = call("status", env=unmigrated)
        assert refused.returncode == 2
        assert "projection-worker migrate" in refused.stderr
        assert call("migrate", env=unmigrated).returncode == 0
        block_until(lambda: worker.says("started"), "the worker to start")
        assert "Traceback" not in worker.log
        assert worker.stop() == 0


def test_another_number_of_partitions_is_refused(env: dict[str, str]) -> None:
    with running("run", env=env) as worker:
        block_until(lambda: "started" in worker.log, "the worker to start")
        time_limit = time.monotonic() + 10
        while time.monotonic() < time_limit:
            refused = call("run", env={**env, "WORKER_FEED_PARTITIONS": "4"})
            if refused.returncode == 2:
                break
        assert "WORKER_FEED_PARTITIONS=8" in refused.stderr
        assert "Traceback" not in refused.stderr


def test_missing_servers_are_named(env: dict[str, str]) -> None:
    refused = call("run", env=environment())
    assert refused.returncode == 2
    assert "REDIS_URL is not set" in refused.stderr
    assert "DATABASE_URL is not set" in refused.stderr
