"""Signals that end a command: whichever comes, what was started is stopped again."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")


def _ending_signals() -> list[signal.Signals]:
    """Ctrl-C, a polite kill, and a closed terminal, unless nohup said not to mind that."""
    hangup = [signal.SIGHUP] if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN else []
    return [signal.SIGINT, signal.SIGTERM, *hangup]


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Within the block every ending signal raises KeyboardInterrupt, so that cleanups run."""
    before = {signum: signal.signal(signum, signal.default_int_handler) for signum in _ending_signals()}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def run_interruptibly(main: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run`, of which a signal cancels `main`; KeyboardInterrupt follows.

    A second one cancels its cleanup, too.
    """
    try:
        with ended_by_signals():  # again, since the loop takes its own handlers and all others away
            return asyncio.run(_cancelled_by_signals(main))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


async def _cancelled_by_signals(main: Coroutine[Any, Any, T]) -> T:
    task = asyncio.create_task(main)
    for signum in _ending_signals():
        asyncio.get_running_loop().add_signal_handler(signum, task.cancel)
    return await task


def raise_if_cancelled() -> None:
    """Raise CancelledError if the running task was cancelled. For loops that talk to Redis.

    Before Python 3.12 a cancellation is lost if it meets the end of an `asyncio.wait_for`, as redis-py uses
    it for sending. That it was asked for is still known.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
