"""Replicas without leases: each of them reads every partition, and nobody knows who is alive.

What they do must be as right as with leases, only more of it in vain. ``python -m tests.leaseless run`` is
such a replica in a process of its own.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

from worker import __main__ as command
from worker import app
from worker.leases import Leases, Tenure


class NoLeases(Leases):
    """Holds all partitions, and asks nobody."""

    _retired = False

    async def tick(self) -> Tenure:
        return Tenure(frozenset() if self._retired else frozenset(range(self.partitions)))

    async def retire(self) -> Tenure:
        self._retired = True
        return await self.tick()

    async def release(self) -> Tenure:
        return await self.tick()

    async def leave(self) -> None:
        pass

    async def dead_among(self, consumers: Collection[str]) -> set[str]:
        return set()


def main() -> None:
    """The real command line, but for the leases."""
    app.make_service = partial(app.make_service, make_leases=NoLeases)
    command.main()


if __name__ == "__main__":
    main()
