"""The lease under which one replica sweeps at a time. It only saves work."""

from __future__ import annotations

import time
from datetime import timedelta

from redis.asyncio import Redis

_MARGIN = timedelta(seconds=2)
_ASKED_IN_A_LEASE = 10


class SweepLease:
    """One replica's hold on the key ``name``, for a little longer than the ``period`` between its sweeps."""

    def __init__(self, redis: Redis, name: str, consumer: str, period: timedelta) -> None:
        self._redis = redis
        self._name = name
        self._consumer = consumer
        self._lease_ms = int((period + _MARGIN).total_seconds() * 1000)
        self._ask_at = 0.0

    async def hold(self) -> bool:
        """Take or keep the lease. Losing it halfway only means that two replicas look at the same logs."""
        self._ask_at = time.monotonic() + self._lease_ms / 1000 / _ASKED_IN_A_LEASE
        if await self._redis.set(self._name, self._consumer, nx=True, px=self._lease_ms):
            return True
        if await self._redis.get(self._name) != self._consumer.encode():
            return False
        return bool(await self._redis.pexpire(self._name, self._lease_ms))

    async def keep(self) -> bool:
        """Keep the lease through a long sweep; asks only now and then, since most sweeps take no time."""
        if time.monotonic() < self._ask_at:
            return True
        return await self.hold()

    async def release(self) -> None:
        """Let another replica sweep at once."""
        if await self._redis.get(self._name) == self._consumer.encode():
            await self._redis.delete(self._name)
