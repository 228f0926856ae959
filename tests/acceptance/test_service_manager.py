"""A worker as systemd runs it: what it tells from its start to its end, and when it falls silent."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator

import pytest

from tests.acceptance.commands import call, running, worker_environment
from tests.acceptance.test_watchdog import create_table
from tests.servers import RunningServers
from tests.service_manager import Listening, listening
from tests.waiting import block_until

WATCHDOG_SECONDS = 0.6


@pytest.fixture
def manager() -> Iterator[Listening]:
    with listening(None) as manager:
        yield manager


@pytest.fixture
def env(
    servers: RunningServers, empty_database_url: str, keys_prefix: str, manager: Listening
) -> dict[str, str]:
    return {
        **worker_environment(servers.redis_url, empty_database_url, keys_prefix),
        "NOTIFY_SOCKET": manager.address,
        "WATCHDOG_USEC": str(int(WATCHDOG_SECONDS * 1_000_000)),
    }


def is_silent(manager: Listening) -> bool:
    """Whether it is told nothing for so long that systemd would act."""
    heard_at = time.monotonic()
    block_until(lambda: manager.hear() or time.monotonic() > heard_at + WATCHDOG_SECONDS, "a silence")
    return time.monotonic() > heard_at + WATCHDOG_SECONDS


def test_it_is_ready_once_it_can_project_falls_silent_when_frozen_and_says_that_it_stops(
    env: dict[str, str], manager: Listening
) -> None:
    with running("run", env=env) as worker:
        block_until(lambda: manager.heard("STATUS", "projection-worker migrate"), "the missing schema")
        assert manager.heard("EXTEND_TIMEOUT_USEC")
        assert not manager.heard("READY")
        assert call("migrate", env=env).returncode == 0
        block_until(lambda: manager.heard("READY", "1"), "it to be ready")
        worker.process.send_signal(signal.SIGSTOP)
        block_until(lambda: is_silent(manager), "it to fall silent")
        worker.process.send_signal(signal.SIGCONT)
        manager.told.clear()
        block_until(lambda: manager.heard("WATCHDOG", "1"), "it to be alive again")
        assert worker.stop() == 0
        assert manager.heard("STOPPING", "1")


def test_it_falls_silent_when_a_handler_never_returns(env: dict[str, str], manager: Listening) -> None:
    assert call("migrate", env=env).returncode == 0
    asyncio.run(create_table(env["DATABASE_URL"]))
    with running("run", env={**env, "WORKER_PROJECTIONS": "tests.stuck"}) as worker:
        block_until(lambda: manager.heard("READY"), "it to be ready")
        call("emit", "x", "loop", env={**env, "WORKER_PROJECTIONS": "tests.stuck"})
        block_until(lambda: is_silent(manager), "it to fall silent")
        assert worker.process.poll() is None
