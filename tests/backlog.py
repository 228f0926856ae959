"""Backlogs of simulated conversations, for replicas to work off."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

import orjson
from redis.asyncio import Redis

from projections import strategies
from projections.simulation import SimulatedEvent, simulate_conversation
from worker import Keys

WDK_IDS = range(1, 201)
TURNS = 1_000
"""More than any conversation here is long."""
A_PIPELINE = 2_000


@dataclass
class Backlog:
    """Conversations of equal length, in the order in which producers would append them: all at once.

    ``last`` tells after `append` where each stream's row must stand in the end.
    """

    streams: int
    events: int
    seed: int = 0
    projected: int = 0
    last: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._said = list(self._in_turns())
        self.projected = sum(event.type in strategies.types for _, event in self._said)

    def _in_turns(self) -> Iterator[tuple[str, SimulatedEvent]]:
        rng = random.Random(self.seed)
        length = self.events // self.streams
        conversations = {
            f"chat-{number}": list(islice(simulate_conversation(rng, WDK_IDS, turns=TURNS), length))
            for number in range(self.streams)
        }
        for at in range(length):
            for stream_id, conversation in conversations.items():
                yield stream_id, conversation[at]

    async def append(self, redis: Redis, keys: Keys) -> None:
        """Append all of it, with hints for projected types, in large pipelines."""
        for start in range(0, len(self._said), A_PIPELINE):
            chunk = self._said[start : start + A_PIPELINE]
            pipeline = redis.pipeline(transaction=False)
            for stream_id, event in chunk:
                fields = {"op": event.operation_id, "type": event.type, "data": orjson.dumps(event.data)}
                pipeline.xadd(keys.log(stream_id), fields)  # type: ignore[arg-type]
            event_ids = await pipeline.execute()
            hints = redis.pipeline(transaction=False)
            for (stream_id, event), event_id in zip(chunk, event_ids, strict=True):
                if event.type in strategies.types:
                    self.last[stream_id] = event_id.decode()
                    feed = keys.feed(keys.partition(stream_id))
                    hints.xadd(feed, {"stream": stream_id, "type": event.type})
            await hints.execute()
