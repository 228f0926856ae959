"""Diverged streams: those whose log no longer holds their row's position, as all replicas know them.

Kept in Redis for operators to see, and so that a log that was restored is noticed. It may be lost: the next
hint or sweep of such a stream finds it again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection

import structlog
from redis.asyncio import Redis

from worker.keys import Keys
from worker.redis_client import pairs

log = structlog.get_logger("batches")

_SCAN_STREAMS = 500


class DivergedStreams:
    """Notes who diverged, as often as that is found, and who got on again; each is logged once."""

    def __init__(self, redis: Redis, keys: Keys, projection: str) -> None:
        self._redis = redis
        self._name = keys.diverged(projection)
        self._known: dict[str, str] = {}

    async def add(self, stream_id: str, position: str) -> None:
        """The stream's log does not hold this position, at which its row stands."""
        if self._known.get(stream_id) != position:
            log.error("stream_diverged", stream=stream_id, position=position)
        # Though it may be known: where logs were lost, this may have been lost with them.
        await self._redis.hset(self._name, stream_id, position)
        self._known[stream_id] = position

    def knows(self, stream_id: str, position: str) -> bool:
        """Whether this replica has heard that the stream's log does not hold this position."""
        return self._known.get(stream_id) == position

    async def remove(self, stream_id: str) -> None:
        """The stream got on, or is gone."""
        if stream_id in self._known:
            log.info("stream_no_longer_diverged", stream=stream_id)
            await self._redis.hdel(self._name, stream_id)
            del self._known[stream_id]

    async def forget(self, stream_ids: Collection[str]) -> None:
        """These streams were rebuilt or removed, whatever anybody knew of them."""
        for stream_id in stream_ids:
            self._known.pop(stream_id, None)
        if stream_ids:
            await self._redis.hdel(self._name, *stream_ids)

    async def all(self) -> AsyncIterator[str]:
        """The streams that any replica has found diverged; one may come twice."""
        cursor, done = 0, False
        while not done:
            reply = await self._redis.execute_command("HSCAN", self._name, cursor, "COUNT", _SCAN_STREAMS)
            cursor = int(reply[0])
            done = cursor == 0
            for stream_id, position in pairs(reply[1]):
                self._known[stream_id.decode()] = position.decode()
                yield stream_id.decode()

    async def some(self, about: int) -> list[str]:
        """About so many of the streams that any replica has found diverged, whichever come first."""
        reply = await self._redis.execute_command("HSCAN", self._name, 0, "COUNT", about)
        return [stream_id.decode() for stream_id, _ in pairs(reply[1])]

    async def count(self) -> int:
        """How many there are."""
        return int(await self._redis.hlen(self._name))
