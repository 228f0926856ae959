"""What systemd is told, over real sockets."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from tests.service_manager import Listening, listening
from tests.waiting import wait_until
from worker.health import Health
from worker.service_manager import telling_service_manager, watchdog_period


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Listening]:
    with listening(tmp_path if request.param == "path" else None) as manager:
        yield manager


@asynccontextmanager
async def telling(health: Health, stop: asyncio.Event, address: str, **environ: str) -> AsyncIterator[None]:
    environ = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "200000", **environ}
    stop_takes = timedelta(seconds=300)
    async with telling_service_manager(health, stop, stop_takes=stop_takes, environ=environ):
        yield


async def test_a_worker_is_ready_once_nothing_is_wrong_and_asks_for_time_until_then(
    manager: Listening,
) -> None:
    health, stop = Health(), asyncio.Event()
    health.report("connecting", "There is\nno server.")
    async with telling(health, stop, manager.address):
        await wait_until(lambda: manager.heard("STATUS", "There is no server."), "the reason")
        await wait_until(
            lambda: sum("EXTEND_TIMEOUT_USEC" in t for t in manager.told + manager.hear()) > 1, "more"
        )
        assert not manager.heard("READY")
        health.over("connecting")
        await wait_until(lambda: manager.heard("READY", "1"), "it to be ready")
        manager.told.clear()
        health.report("connecting", "The server is away.")
        await wait_until(lambda: manager.heard("STATUS", "The server is away."), "the trouble")
        assert not manager.heard("EXTEND_TIMEOUT_USEC")  # of no use once it is ready


async def test_a_stop_is_told_at_once_with_the_time_that_it_may_take(manager: Listening) -> None:
    health, stop = Health(), asyncio.Event()
    async with telling(health, stop, manager.address):
        await wait_until(lambda: manager.heard("READY"), "it to be ready")
        stop.set()
        await wait_until(lambda: manager.heard("STOPPING", "1"), "it to stop")
        assert manager.heard("EXTEND_TIMEOUT_USEC", "300000000")
        manager.told.clear()
        await wait_until(lambda: manager.heard("WATCHDOG"), "it to be alive while it stops")


async def test_there_is_life_twice_in_the_time_that_is_allowed(manager: Listening) -> None:
    async with telling(Health(), asyncio.Event(), manager.address):
        begun = asyncio.get_running_loop().time()
        await wait_until(lambda: sum("WATCHDOG" in t for t in manager.told + manager.hear()) > 5, "life")
        assert asyncio.get_running_loop().time() - begun < 2


async def test_nobody_who_does_not_ask_is_told_of_life(manager: Listening) -> None:
    async with telling(Health(), asyncio.Event(), manager.address, WATCHDOG_USEC="0"):
        await wait_until(lambda: manager.heard("READY"), "it to be ready")
    assert not manager.heard("WATCHDOG")


async def test_what_could_not_be_told_is_told_later(tmp_path: Path) -> None:
    async with telling(Health(), asyncio.Event(), str(tmp_path / "notify")):
        await asyncio.sleep(0)  # The first attempt fails: nobody is there yet.
        with listening(tmp_path) as manager:
            await wait_until(lambda: manager.heard("READY"), "it to be ready")


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1"}])
async def test_without_a_socket_nothing_happens(environ: dict[str, str]) -> None:
    tasks = asyncio.all_tasks()
    async with telling_service_manager(
        Health(), asyncio.Event(), stop_takes=timedelta(seconds=1), environ=environ
    ):
        assert asyncio.all_tasks() == tasks


@pytest.mark.parametrize(
    ("environ", "period"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "x"}, None),
        ({"WATCHDOG_USEC": "2500000"}, timedelta(seconds=2.5)),
        ({"WATCHDOG_USEC": "2500000", "WATCHDOG_PID": str(os.getpid())}, timedelta(seconds=2.5)),
        ({"WATCHDOG_USEC": "2500000", "WATCHDOG_PID": "1"}, None),  # meant for another process
    ],
)
def test_the_watchdog_is_asked_for_by_variables(environ: dict[str, str], period: timedelta | None) -> None:
    assert watchdog_period(environ) == period
