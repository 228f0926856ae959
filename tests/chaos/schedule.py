"""Which fault comes when."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence

from tests.chaos.faults import FAULTS, Fault
from tests.chaos.world import World

SHORTEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 2.0, 5.0
AT_ONCE = 3
MENDED_SECONDS = 120


class Schedule:
    """Random faults at random moments, every kind once before any comes again. Some overlap.

    ``caused`` counts those that are over; ``active`` names those under way.
    """

    def __init__(self, rng: random.Random, kinds: Sequence[Fault] = FAULTS) -> None:
        self.caused: Counter[str] = Counter()
        self.active: set[str] = set()
        self._rng = rng
        self._kinds = kinds
        self._deck: list[Fault] = []
        self._taken: set[object] = set()

    async def play(self, world: World, seconds: float) -> None:
        """Cause faults for so many seconds, and return when the last of them is mended."""
        end = time.monotonic() + seconds
        async with asyncio.TaskGroup() as tasks:
            while True:
                pause = self._rng.uniform(SHORTEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
                if time.monotonic() + pause > end:
                    break
                await asyncio.sleep(pause)
                if fault := self._next():
                    self.active.add(fault.name)
                    self._taken.add(fault.target)
                    tasks.create_task(self._cause(fault, world))

    def _next(self) -> Fault | None:
        """The first fault in the deck whose target is whole, unless enough is broken already."""
        if not self._deck:
            self._deck = self._rng.sample(self._kinds, len(self._kinds))
        possible = [fault for fault in self._deck if fault.target not in self._taken]
        if not possible or len(self.active) >= AT_ONCE:
            return None
        self._deck.remove(possible[0])
        return possible[0]

    async def _cause(self, fault: Fault, world: World) -> None:
        async with asyncio.timeout(MENDED_SECONDS):
            await fault.action(world, random.Random(self._rng.random()))
        self.caused[fault.name] += 1
        self.active.discard(fault.name)
        self._taken.discard(fault.target)
