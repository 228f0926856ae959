"""How producers hint: at once, never, or badly."""

from __future__ import annotations

import random
from contextlib import suppress
from typing import Protocol

from redis.asyncio import Redis
from redis.exceptions import RedisError

from projections import strategies
from worker import Keys

_OWED_AT_MOST = 100


class Hinter(Protocol):
    """Somebody's habit of hinting."""

    async def hint(self, stream_id: str, event_type: str) -> None:
        """Called after each event that was appended. Hints may get lost."""


class Prompt:
    """Hints at once for events of projected types."""

    def __init__(self, redis: Redis, keys: Keys, rng: random.Random) -> None:
        self._redis = redis
        self._keys = keys
        self._rng = rng

    async def hint(self, stream_id: str, event_type: str) -> None:
        if event_type in strategies.types:
            await self._send(stream_id, event_type, self._keys.partition(stream_id))

    async def _send(self, stream_id: str, event_type: str, partition: int) -> None:
        await self._send_fields(partition, "stream", stream_id, "type", event_type)

    async def _send_fields(self, partition: int, *fields: str | bytes) -> None:
        with suppress(RedisError, OSError):
            await self._redis.execute_command("XADD", self._keys.feed(partition), "*", *fields)


class Silent(Prompt):
    """Never hints, as producers do that do not know of us."""

    async def hint(self, stream_id: str, event_type: str) -> None:
        pass


class Careless(Prompt):
    """Hints late, twice or never, for other streams, in wrong partitions, and talks nonsense."""

    def __init__(self, redis: Redis, keys: Keys, rng: random.Random) -> None:
        super().__init__(redis, keys, rng)
        self._owed: list[tuple[str, str]] = []

    async def hint(self, stream_id: str, event_type: str) -> None:
        self._owed += [(stream_id, event_type)] * self._rng.choice([0, 1, 1, 2])
        while len(self._owed) > _OWED_AT_MOST or (self._owed and self._rng.random() < 0.5):
            hinted, its_type = self._owed.pop(self._rng.randrange(len(self._owed)))
            await self._send(hinted, its_type, self._keys.partition(hinted))
        if self._rng.random() < 0.1:
            anybody = self._rng.choice(["nobody", "", "emitted-0", stream_id])
            await self._send(anybody, "user_message", self._rng.randrange(self._keys.partitions))
        if self._rng.random() < 0.02:
            await self._send_fields(self._rng.randrange(self._keys.partitions), "nonsense", b"\xff")


HINTERS = {"prompt": Prompt, "silent": Silent, "careless": Careless}
