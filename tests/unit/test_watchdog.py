"""The watchdog, as far as that can be seen without ending the process."""

from __future__ import annotations

import asyncio
import signal
from datetime import timedelta

import pytest

from tests.waiting import wait_until
from worker import watchdog as module
from worker.watchdog import watchdog


async def test_a_loop_that_turns_keeps_winding_up_the_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WIND_UP_SECONDS", 0.01)
    async with watchdog(timedelta(seconds=1_000)):
        await asyncio.sleep(0)
        signal.setitimer(signal.ITIMER_PROF, 100)
        await wait_until(lambda: signal.getitimer(signal.ITIMER_PROF)[0] > 900, "the timer to be wound up")


async def test_afterwards_no_timer_runs() -> None:
    async with watchdog(timedelta(seconds=1_000)):
        await asyncio.sleep(0)
    assert signal.getitimer(signal.ITIMER_PROF) == (0.0, 0.0)
