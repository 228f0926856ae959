"""Going on when a server is away: the same action again, after growing pauses, until it works or we stop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import asyncpg
import structlog
from redis.exceptions import RedisError
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_random_exponential

from worker.errors import ClaimRaceError
from worker.waiting import heed_cancellation, wait_for

log = structlog.get_logger(__name__)
T = TypeVar("T")

SERVER_ERRORS = (
    RedisError,
    SQLAlchemyError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    ClaimRaceError,
    OSError,
    TimeoutError,
)
"""What a server, the network or another transaction may do to us, and may be over when we try again.

A refused connection to PostgreSQL comes as a bare OSError, many server errors as a plain DBAPIError.
"""

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
                lambda error: isinstance(error, SERVER_ERRORS) and not self._stop.is_set()
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
        if state.attempt_number == 1 and not isinstance(error, ClaimRaceError):
            log.warning("retrying", doing=what, error=describe(error))


def refuses_a_row(error: DBAPIError) -> bool:
    """Whether PostgreSQL will not have a row as it is: bad data, a violated constraint, a limit exceeded.

    A violated unique index is a race over a claim, and may be over at the next attempt.
    """
    state: str = getattr(error.orig, "sqlstate", None) or ""
    return state[:2] in ("22", "23", "54") and state != "23505"


def describe(error: BaseException | None) -> str:
    """One line on an error, without what SQLAlchemy adds to it: that quotes parameters, and so payloads."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
