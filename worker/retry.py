"""Going on when a server is away: the same action again, after growing pauses, until it works or we stop."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from time import monotonic
from typing import TypeVar

import structlog

from worker.health import Health
from worker.trouble import Trouble, classify, describe, sentence
from worker.waiting import heed_cancellation, wait_for

log = structlog.get_logger("servers")
T = TypeVar("T")

_FIRST_PAUSE_SECONDS = 0.1
_FIRST_RETRY_PAUSE_SECONDS = 0.01
_LONGEST_PAUSE_SECONDS = 5.0
_PATIENCE_SECONDS = 1.0
"""For how long transactions may get into each other's way before that is trouble."""
_TELL_AGAIN_SECONDS = 60.0
"""How often a lasting trouble is told."""
_TELL_ANEW_SECONDS = 30.0
"""How soon after a trouble was told the next one of the same action is."""


@dataclass(slots=True)
class _Spell:
    """Failures of one action that belong together: those in a row, and those after brief successes.

    Times are of the monotonic clock. Whatever worked for less long than the pause that it had cost has not
    recovered: pauses and counts go on from where they were, so that neither work nor log runs hot.
    """

    failures: int = 0
    began: float = 0.0
    pause: float = 0.0
    works_since: float | None = 0.0
    told_at: float = float("-inf")
    told: bool = False

    def fail(self, trouble: Trouble, now: float) -> None:
        """Count a failure, and choose the next pause."""
        if self.works_since is not None and now - self.works_since > self.pause:
            self.failures, self.began, self.pause = 0, now, 0.0
        self.works_since = None
        self.failures += 1
        first = _FIRST_RETRY_PAUSE_SECONDS if trouble is Trouble.RETRY else _FIRST_PAUSE_SECONDS
        self.pause = min(max(first, 2 * self.pause), _LONGEST_PAUSE_SECONDS)

    def lasts(self, trouble: Trouble, now: float) -> bool:
        """Whether that is trouble at all, and not only transactions in each other's way."""
        return trouble is not Trouble.RETRY or now - self.began >= _PATIENCE_SECONDS

    def to_tell(self, now: float) -> bool:
        """Whether to log it now; says so once, and then not for a while."""
        if now - self.told_at < (_TELL_AGAIN_SECONDS if self.told else _TELL_ANEW_SECONDS):
            return False
        self.told, self.told_at = True, now
        return True


class Perseverance:
    """Repeats actions that fail with trouble that may pass; an error that is FATAL is raised.

    Pauses grow, with jitter, to a few seconds, and grow on where an action fails again right after it worked.
    One line is logged when trouble starts, one when it ends, and one a minute with counts in between. What
    fails is reported to ``health`` until it works. Once ``stop`` is set, an action that fails is given up.

    Without ``await_operators`` an error that only an operator can mend is raised, too: commands have one.
    ``races`` as for `classify`. ``renew`` is called, before the pause, with every error that asks for a new
    connection, to give up those that only look sound; it must not raise, nor wait for long.
    """

    def __init__(
        self,
        stop: asyncio.Event,
        health: Health | None = None,
        *,
        projection: str | None = None,
        races: Collection[str] = (),
        await_operators: bool = True,
        renew: Callable[[BaseException], Awaitable[None]] | None = None,
    ) -> None:
        self._stop = stop
        self._health = health or Health()
        self._projection = projection
        self._races = races
        self._hopeless = {Trouble.FATAL} | (set() if await_operators else {Trouble.MISCONFIGURED})
        self._renew = renew
        self._spells: dict[str, _Spell] = {}

    async def __call__(
        self, doing: str, action: Callable[[], Awaitable[T]], *, at_leisure: bool = False
    ) -> T | None:
        """Do ``action`` until it succeeds, and give its result; None when it was given up at a stop.

        The action must be safe to repeat. ``doing`` names it in logs, and what is remembered of it. It is
        taken for stuck where it neither succeeds nor fails for long, unless it may take any time.
        """
        while True:
            try:
                result = await (action() if at_leisure else self._attempt(doing, action))
            except Exception as error:
                trouble = classify(error, self._races)
                if trouble in self._hopeless:
                    raise
                if self._stop.is_set():
                    log.warning("given_up_at_stop", **self._names(doing), error=describe(error))
                    return None
                await self._endure(doing, error, trouble)
            else:
                heed_cancellation()
                self._worked(doing)
                return result

    async def _attempt(self, doing: str, action: Callable[[], Awaitable[T]]) -> T:
        attempt = self._health.begin(doing, self._projection)
        try:
            return await action()
        finally:
            self._health.end(attempt)

    async def _endure(self, doing: str, error: Exception, trouble: Trouble) -> None:
        now = monotonic()
        spell = self._spells.setdefault(doing, _Spell())
        spell.fail(trouble, now)
        self._health.retries[self._projection, trouble.value] += 1
        if spell.lasts(trouble, now):
            self._health.report(doing, sentence(error), self._projection)
            if spell.to_tell(now):
                counts = {"failures": spell.failures, "seconds": round(now - spell.began, 1)}
                log.warning(
                    "retrying", **self._names(doing), trouble=trouble.value, error=sentence(error), **counts
                )
        if trouble is Trouble.RECONNECT and self._renew is not None:
            await self._renew(error)
        await wait_for(self._stop, spell.pause * random.uniform(0.5, 1))

    def _worked(self, doing: str) -> None:
        spell = self._spells.get(doing)
        if spell is None or spell.works_since is not None:
            return
        now = spell.works_since = monotonic()
        self._health.over(doing, self._projection)
        if spell.told:
            spell.told = False
            log.info(
                "recovered",
                **self._names(doing),
                attempts=spell.failures + 1,
                seconds=round(now - spell.began, 1),
            )

    def _names(self, doing: str) -> dict[str, str]:
        return {"doing": doing} | ({"projection": self._projection} if self._projection else {})
