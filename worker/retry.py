"""Going on when a server is away: the same action again, after growing pauses, until it works or we stop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_random_exponential

from worker.trouble import SERVER_ERRORS, Trouble, classify, describe
from worker.waiting import heed_cancellation, wait_for

log = structlog.get_logger(__name__)
T = TypeVar("T")

_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 5.0


class Perseverance:
    """Repeats actions that fail with SERVER_ERRORS; every other error is raised.

    Pauses grow, with jitter, to a few seconds. One line is logged when trouble starts and one when it ends.
    Once ``stop`` is set, an action that fails is given up.
    """

    def __init__(self, stop: asyncio.Event) -> None:
        self._stop = stop

    async def __call__(self, what: str, action: Callable[[], Awaitable[T]]) -> T | None:
        """Do ``action`` until it succeeds, and give its result; None when it was given up at a stop.

        The action must be safe to repeat. ``what`` names it in logs.
        """
        retrying = AsyncRetrying(
            retry=retry_if_exception(
                lambda error: classify(error) is not Trouble.FATAL and not self._stop.is_set()
            ),
            wait=wait_random_exponential(multiplier=_FIRST_PAUSE_SECONDS, max=_LONGEST_PAUSE_SECONDS),
            sleep=self._pause,
            before_sleep=lambda state: self._note(what, state),
            reraise=True,
        )
        try:
            result: T = await retrying(action)
        except SERVER_ERRORS as error:
            log.warning("given_up_at_stop", doing=what, error=describe(error))
            return None
        heed_cancellation()
        if (attempts := retrying.statistics.get("attempt_number", 1)) > 1:
            log.info("recovered", doing=what, attempts=attempts)
        return result

    async def _pause(self, seconds: float) -> None:
        await wait_for(self._stop, seconds)

    def _note(self, what: str, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if error and state.attempt_number == 1 and classify(error) is not Trouble.RETRY:
            log.warning("retrying", doing=what, error=describe(error))
