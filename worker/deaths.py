"""Counting the deaths of replicas that had something in flight; `worker.suspects` says what for."""

from __future__ import annotations

import time

from worker.leases import Leases
from worker.suspects import Suspects

_CERTAINTY_SECONDS = 2.0
"""How long a replica must seem dead before its death is counted: several ticks of a live one."""


class Deaths:
    """Finds replicas that have died at work, as one replica sees it."""

    def __init__(self, leases: Leases, suspects: Suspects, consumer: str) -> None:
        self._leases = leases
        self._suspects = suspects
        self._consumer = consumer
        self._seem_dead: dict[str, float] = {}

    async def count_own(self) -> None:
        """Whoever had this replica's name before it, and died at work, is no more. For its first moments."""
        await self._suspects.bury([self._consumer])

    async def count_at_once(self) -> None:
        """Count what nobody else may be left to count: when all replicas die soon after they start.

        Whoever seems dead may only have been cut off from Redis, as we were; then it takes the deaths back.
        """
        await self._suspects.bury(await self._dead())

    async def count(self) -> None:
        """Count the deaths of those that have seemed dead for a while.

        After Redis was out of reach all seem dead, until each has told that it is alive.
        """
        now, dead = time.monotonic(), await self._dead()
        self._seem_dead = {consumer: self._seem_dead.get(consumer, now) for consumer in dead}
        await self._suspects.bury(
            [consumer for consumer, since in self._seem_dead.items() if now - since >= _CERTAINTY_SECONDS]
        )

    async def _dead(self) -> set[str]:
        # Who is alive is asked last, so that a replica that has just come does not count as dead.
        return await self._leases.dead_among(await self._suspects.at_work())
