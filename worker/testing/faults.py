"""Faults that the worker must not mind: hints that come twice or in disorder, replicas that write late."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from redis.asyncio import Redis

from worker.keys import Keys
from worker.outcome import Outcome
from worker.testing.workers import StepReplica


class HintFaults:
    """Writes hints as often as is asked for, and when."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys
        self._times = 1
        self._held: list[tuple[str, str]] | None = None

    @property
    def faulty(self) -> bool:
        """Whether hints are to be written by `tell`, and not by who emits."""
        return self._times > 1 or self._held is not None

    async def tell(self, stream_id: str, event_type: str) -> None:
        """Write the hint of an event, or hold it back."""
        if self._held is not None:
            self._held.append((stream_id, event_type))
        else:
            await self._write(stream_id, event_type)

    @asynccontextmanager
    async def duplicated(self, times: int) -> AsyncIterator[None]:
        """In this block each hint is written so often."""
        self._times = times
        try:
            yield
        finally:
            self._times = 1

    @asynccontextmanager
    async def reordered(self) -> AsyncIterator[None]:
        """Hold hints back to the end of this block, then write them in the reverse order."""
        held: list[tuple[str, str]] = []
        self._held = held
        try:
            yield
        finally:
            self._held = None
        for stream_id, event_type in reversed(held):
            await self._write(stream_id, event_type)

    async def _write(self, stream_id: str, event_type: str) -> None:
        feed = self._keys.feed(self._keys.partition(stream_id))
        for _ in range(self._times):
            await self._redis.execute_command("XADD", feed, "*", "stream", stream_id, "type", event_type)


class Zombie:
    """A replica that was frozen with a row in its memory, and comes back.

    ``lost`` tells, once it is back, whether its write lost the comparison.
    """

    def __init__(self, replica: StepReplica, stream_id: str) -> None:
        self._replica = replica
        self._stream_id = stream_id
        self.lost = False

    @asynccontextmanager
    async def frozen(self) -> AsyncIterator[Zombie]:
        """It knows the row from the beginning of this block, and folds and writes at its end.

        Raises AssertionError where it had nothing to write, or nobody was there before it.
        """
        await self._replica.project([self._stream_id])
        yield self
        results = await self._replica.project([self._stream_id])
        self.lost = results[self._stream_id].outcome is Outcome.LOST
        if not self.lost:
            raise AssertionError(
                f"The zombie did not come too late for stream {self._stream_id!r}: in the block, emit "
                "something and await world.caught_up()."
            )
