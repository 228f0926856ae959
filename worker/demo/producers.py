"""Producers: simulated conversations on their way into the logs, at a given pace."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from redis.asyncio import Redis

from worker.demo.interrupts import raise_if_cancelled
from worker.emit import emit
from worker.keys import Keys
from worker.projection import Projection

_WRITERS = 8
_MOST_BEHIND_SECONDS = 0.25


class SimulatedEvent(Protocol):
    """What a projections module's `simulate_conversation` yields."""

    @property
    def type(self) -> str: ...
    @property
    def data(self) -> Mapping[str, Any]: ...
    @property
    def operation_id(self) -> str: ...


Simulate = Callable[[random.Random, Sequence[int]], Iterator[SimulatedEvent]]
"""``simulate_conversation(rng, wdk_ids)``: the events of one conversation, perhaps without end."""


class Producer(Enum):
    """What the producer of a conversation knows of the worker."""

    HINTS_PROJECTED = "hints for projected types"
    HINTS_EVERYTHING = "hints for every type, since it has no projections configured"
    LOG_ONLY = "writes to the log alone, as code does that knows nothing of hints"

    @property
    def hints(self) -> bool:
        return self is not Producer.LOG_ONLY


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation, its producer, and what is yet to be said."""

    stream_id: str
    producer: Producer
    events: Iterator[SimulatedEvent]


def make_chats(simulate: Simulate, count: int, seed: int, run: str) -> list[Chat]:
    """Conversations, a third of each kind of producer; they share few enough strategies to collide."""
    strategies = range(1_000, 1_000 + max(2, count // 2))
    kinds = list(Producer)
    return [
        Chat(
            stream_id=f"chat-{run}-{number:03}",
            producer=kinds[number % len(kinds)],
            events=simulate(random.Random(f"{seed}-{number}"), strategies),
        )
        for number in range(1, count + 1)
    ]


class Producers:
    """Appends the conversations' events; `appended(chat, event id, type)` is told of each."""

    def __init__(
        self, redis: Redis, keys: Keys, projection: Projection, appended: Callable[[Chat, str, str], None]
    ) -> None:
        self._redis = redis
        self._keys = keys
        self._projected_types: Collection[str] = projection.types
        self._appended = appended

    async def run(self, chats: Sequence[Chat], seconds: float, events_per_second: float) -> None:
        """Write for so long, or until every conversation has come to its end."""
        writers = min(_WRITERS, len(chats))
        ends_at = time.monotonic() + seconds
        async with asyncio.TaskGroup() as tasks:
            for number in range(writers):
                share = chats[number::writers]
                tasks.create_task(self._write(share, writers / events_per_second, ends_at))

    async def _write(self, chats: Sequence[Chat], pause_seconds: float, ends_at: float) -> None:
        """One event after the other, each of some conversation of ours."""
        talking = list(chats)
        rng = random.Random(chats[0].stream_id)
        due = time.monotonic() + rng.random() * pause_seconds
        while talking and time.monotonic() < ends_at:
            raise_if_cancelled()
            chat = rng.choice(talking)
            event = next(chat.events, None)
            if event is None:
                talking.remove(chat)
                continue
            self._appended(chat, await self._append(chat, event), event.type)
            # A writer that was held up makes up for a little of it, but does not flood the worker.
            due = max(due + pause_seconds, time.monotonic() - _MOST_BEHIND_SECONDS)
            await asyncio.sleep(due - time.monotonic())

    async def _append(self, chat: Chat, event: SimulatedEvent) -> str:
        if chat.producer is Producer.LOG_ONLY:
            entry = {"op": event.operation_id, "type": event.type, "data": json.dumps(event.data)}
            event_id: bytes = await self._redis.execute_command(
                "XADD",
                self._keys.log(chat.stream_id),
                "*",
                *(part for pair in entry.items() for part in pair),
            )
            return event_id.decode()
        hinted = self._projected_types if chat.producer is Producer.HINTS_PROJECTED else None
        return await emit(
            self._redis,
            chat.stream_id,
            event.operation_id,
            event.type,
            event.data,
            projected_types=hinted,
            keys=self._keys,
        )
