"""Waiting for what is going to happen, in place of sleeping and hoping."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar, overload

Value = TypeVar("Value")

PAUSE_SECONDS = 0.01


@overload
async def wait_until(
    predicate: Callable[[], Awaitable[Value | None]],
    what: str,
    timeout: float = ...,  # noqa: ASYNC109
) -> Value: ...
@overload
async def wait_until(
    predicate: Callable[[], Value | None],
    what: str,
    timeout: float = ...,  # noqa: ASYNC109
) -> Value: ...
async def wait_until(
    predicate: Callable[[], object],
    what: str,
    timeout: float = 10,  # noqa: ASYNC109 — the message needs to know it
) -> object:
    """Call the predicate, sync or async, until it returns something true, and return that.

    After `timeout` seconds the test fails, also while an async predicate hangs. What the predicate raises is
    not caught.
    """
    limit = asyncio.timeout(timeout)
    try:
        async with limit:
            while True:
                value = predicate()
                if inspect.isawaitable(value):
                    value = await value
                if value:
                    return value
                await asyncio.sleep(PAUSE_SECONDS)
    except TimeoutError:
        if limit.expired():
            raise AssertionError(f"waited {timeout:g} s for {what}") from None
        raise


def block_until(predicate: Callable[[], Value | None], what: str, timeout: float = 10) -> Value:
    """`wait_until` for tests that have no event loop, such as those that run the command line."""
    deadline = time.monotonic() + timeout
    while not (value := predicate()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout:g} s for {what}")
        time.sleep(PAUSE_SECONDS)
    return value
