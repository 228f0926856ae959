"""Keeping a rebuild out of the way of live projection: pauses between its parts.

While hints wait for longer than live projection lets them wait by itself, the rebuild works for a smaller
share of the time, in smaller parts and on one at a time, and for a larger share again once they do not. It
never stops altogether: live projection that is always behind must not keep a rebuild from ending.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from time import monotonic

from redis.asyncio import Redis

from worker.feed_backlog import feed_backlog
from worker.keys import Keys
from worker.replicas import Replicas
from worker.retry import Perseverance
from worker.waiting import wait_for

_PATIENCE_SECONDS = 0.05
_LOOK_EVERY_SECONDS = 0.2
_LEAST_SHARE = 1 / 6
_MORE_SHARE = 0.1
_ALONE_BELOW_SHARE = 0.5
_LONGEST_PAUSE_SECONDS = 2.0


@dataclass(slots=True)
class Share:
    """The share of the time for which the rebuild works: halved while others wait, then growing slowly."""

    value: float = 1.0

    def adapt(self, *, others_wait: bool) -> None:
        """Learn whether live projection is behind at this moment."""
        if others_wait:
            self.value = max(_LEAST_SHARE, self.value / 2)
        else:
            self.value = min(1.0, self.value + _MORE_SHARE)

    def pause_after(self, worked: float) -> float:
        """For how many seconds to rest after having worked for so many."""
        return min(_LONGEST_PAUSE_SECONDS, worked / self.value - worked)


class Rate:
    """At most so many streams a second, on the average from one part to the next."""

    def __init__(self, streams_per_second: float) -> None:
        self._seconds_a_stream = 1 / streams_per_second
        self._free_at = monotonic()

    @property
    def in_half_a_second(self) -> int:
        """So many streams, or one."""
        return max(1, int(0.5 / self._seconds_a_stream))

    def reserve(self, streams: int) -> float:
        """For how many seconds to wait before so many streams may be worked on."""
        now = monotonic()
        wait = max(0.0, self._free_at - now)
        self._free_at = now + wait + streams * self._seconds_a_stream
        return wait


class Courtesy:
    """The pauses of one process. Live projection is looked at now and then while there is work to pause for.

    Without ``yields`` only the rate counts; so it does while no replica is alive, since hints would wait then
    whatever the rebuild does.
    """

    def __init__(
        self,
        redis: Redis,
        keys: Keys,
        projection: str,
        persevere: Perseverance,
        stop: asyncio.Event,
        *,
        yields: bool = True,
        streams_per_second: float | None = None,
    ) -> None:
        self._redis = redis
        self._keys = keys
        self._projection = projection
        self._persevere = persevere
        self._stop = stop
        self._yields = yields
        self._rate = Rate(streams_per_second) if streams_per_second else None
        self._share = Share()
        self._looked_at = float("-inf")
        self._worked = 0.0
        self._alone = asyncio.Lock()

    async def parts(self, stream_ids: Sequence[str], most: int) -> AsyncGenerator[Sequence[str], None]:
        """Streams in parts of so many at most, each when its time has come; none any more after a stop.

        What is done before the next part is asked for is taken for the work on a part. Close it when leaving
        it early.
        """
        at = 0
        while at < len(stream_ids):
            part = stream_ids[at : at + self._size(most)]
            await self._rest(len(part))
            if self._stop.is_set():
                return
            async with self._alone if self._share.value < _ALONE_BELOW_SHARE else nullcontext():
                began = monotonic()
                yield part
                self._worked += monotonic() - began
            at += len(part)

    def _size(self, most: int) -> int:
        """While live projection is behind, half as many: smaller parts keep it waiting for less long."""
        size = -(-most // 2) if self._share.value < _ALONE_BELOW_SHARE else most
        return min(size, self._rate.in_half_a_second) if self._rate else size

    async def _rest(self, streams: int) -> None:
        """Wait, no longer than until a stop, until so many streams may be worked on."""
        if self._yields:
            worked, self._worked = self._worked, 0.0
            await self._look()
            await wait_for(self._stop, self._share.pause_after(worked))
        if self._rate:
            await wait_for(self._stop, self._rate.reserve(streams))

    async def _look(self) -> None:
        now = monotonic()
        if now - self._looked_at >= _LOOK_EVERY_SECONDS:
            self._looked_at = now
            waits = await self._persevere("looking at live projection", self._others_wait)
            self._share.adapt(others_wait=bool(waits))

    async def _others_wait(self) -> bool:
        reports = await Replicas(self._redis, self._keys, self._projection).all()
        if not any(report.alive for report in reports):
            return False
        backlog = await feed_backlog(self._redis, self._keys, self._projection)
        return backlog.oldest_seconds > _PATIENCE_SECONDS
