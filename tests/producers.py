"""Producers such as there are many: some write hints, some do not, and some write wrong ones."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable
from datetime import timedelta
from typing import cast

from redis.asyncio import Redis

from projections import strategies
from tests.conversations import Universe
from tests.reference.model import in_order
from worker import Keys
from worker.waiting import wait_for

BURST = 20


class Producer:
    """Appends logs in the order of their event ids, with hints for some events, and a few wrong ones."""

    def __init__(
        self, redis: Redis, keys: Keys, logs: Universe, rng: random.Random, *, longest_pause: timedelta
    ) -> None:
        self._redis = redis
        self._keys = keys
        self._logs = logs
        self._rng = rng
        self._longest_pause = longest_pause.total_seconds()

    async def run(self, hurry: asyncio.Event) -> None:
        """Append everything, in bursts; without pauses between them once somebody is in a hurry."""
        in_burst = 0
        for stream_id, event_id, fields in in_order(self._logs):
            if not in_burst:
                await wait_for(hurry, self._rng.uniform(0, self._longest_pause))
                in_burst = self._rng.randint(1, BURST)
            in_burst -= 1
            await self._append(stream_id, event_id, fields)

    async def _append(self, stream_id: str, event_id: str, fields: dict[bytes, bytes]) -> None:
        pairs = [part for pair in fields.items() for part in pair]
        await self._send("XADD", self._keys.log(stream_id), event_id, *pairs)
        event_type = fields.get(b"type", b"").decode("utf-8", "replace")
        if event_type in strategies.types and self._rng.random() < 0.6:
            await self._hint(stream_id, event_type)
        if self._rng.random() < 0.1:
            await self._hint(self._rng.choice([*self._logs, "nobody"]), "user_message")
        if self._rng.random() < 0.02:
            await self._send("XADD", self._keys.feed(0), "*", "nonsense", b"\xff")

    async def _hint(self, stream_id: str, event_type: str) -> None:
        feed = self._keys.feed(self._keys.partition(stream_id))
        await self._send("XADD", feed, "*", "stream", stream_id, "type", event_type)

    async def _send(self, *command: str | bytes) -> None:
        await cast("Awaitable[bytes]", self._redis.execute_command(*command))
