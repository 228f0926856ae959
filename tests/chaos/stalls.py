"""How long nothing moves: looks at the rows ever so often, while replicas ought to be writing them."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import asyncpg

from tests.chaos.schedule import Schedule
from tests.chaos.world import World

_PERIOD_SECONDS = 0.25
_PATIENCE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Stall:
    """For how long events waited and no row was written, and the faults under way then."""

    seconds: float = 0.0
    faults: tuple[str, ...] = ()


class Watch:
    """Looks at rows and replicas for as long as it is run.

    While PostgreSQL cannot be asked, or is slow to answer, nothing moves either.
    """

    def __init__(self, world: World, schedule: Schedule) -> None:
        self.longest = Stall()
        self._world = world
        self._schedule = schedule
        self._positions: dict[str, str] = {}
        self._moved_at = time.monotonic()
        self._faults: set[str] = set()

    async def run(self) -> None:
        """Never returns."""
        while True:
            self._world.fleet.check()
            self._note(await self._look())
            await asyncio.sleep(_PERIOD_SECONDS)

    async def _look(self) -> dict[str, str] | None:
        """Where each row stands; None if PostgreSQL does not say."""
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                connection = await self._world.postgresql.connect()
                try:
                    rows = await connection.fetch(
                        "SELECT stream_id, last_event_id FROM stream_projections"
                        " WHERE last_event_id IS NOT NULL"
                    )
                finally:
                    connection.terminate()
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
            return None
        return {row["stream_id"]: row["last_event_id"] for row in rows}

    def _note(self, positions: dict[str, str] | None) -> None:
        now = time.monotonic()
        self._faults |= self._schedule.active
        if now - self._moved_at > self.longest.seconds:
            self.longest = Stall(round(now - self._moved_at, 2), tuple(sorted(self._faults)))
        if positions is not None and positions != self._positions:
            self._positions = positions
        elif positions is None or positions != self._world.ledger.positions:
            return
        self._moved_at = now
        self._faults = set()
