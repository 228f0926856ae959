"""Producers that append at a steady rate, each with a habit of hinting, and keep the ledger.

One that cannot know whether its event was appended looks into the log before it goes on. They wait while
Redis is away, and do not catch up afterwards.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from redis.asyncio import Redis
from redis.exceptions import RedisError

from projections import strategies
from tests.chaos.events import LONG_AGO, TODAY, YEAR_9999, NumberedEvent, brief, lasting, sound_event
from tests.chaos.hints import HINTERS, Hinter
from tests.chaos.ledger import Ledger, flat
from tests.conversations import STREAM_IDS
from worker import EmitError, Keys, OutcomeUnknownError, emit
from worker.emit import encode_event

_PAUSE_SECONDS = 0.1
_LOOK_BACK = 10


class Producer(Protocol):
    """Appends one event after another. Whoever holds its lock knows that nothing is under way."""

    lock: asyncio.Lock

    async def append_next(self) -> None:
        """Append an event, however long that takes, and write it into the ledger."""


class Producers:
    """All producers, who can be held up together."""

    def __init__(self, redis: Redis, keys: Keys, ledger: Ledger, rng: random.Random, rate: float) -> None:
        self._producers = list(_make_producers(redis, keys, ledger, rng))
        self._rate = rate
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """Append so many events a second, all together, until stopped."""
        async with asyncio.TaskGroup() as tasks:
            for producer in self._producers:
                tasks.create_task(self._run(producer))

    async def _run(self, producer: Producer) -> None:
        period = len(self._producers) / self._rate
        due = time.monotonic()
        while not self._stop.is_set():
            async with producer.lock:
                await producer.append_next()
            due = max(due + period, time.monotonic())
            await asyncio.sleep(due - time.monotonic())

    @asynccontextmanager
    async def held_up(self) -> AsyncIterator[None]:
        """Nobody appends in this block, and what was appended before stands in the ledger."""
        async with AsyncExitStack() as stack:
            for producer in self._producers:
                await stack.enter_async_context(producer.lock)
            yield

    def stop(self) -> None:
        """Let everyone finish the event in hand and begin no other."""
        self._stop.set()


def _make_producers(redis: Redis, keys: Keys, ledger: Ledger, rng: random.Random) -> Iterator[Producer]:
    """Claims collide across all of them but the last, whose streams have their own strategies."""
    names = itertools.chain(STREAM_IDS, (f"stream-{number}" for number in itertools.count()))

    def a_generator() -> random.Random:
        return random.Random(rng.random())

    def streams(count: int) -> list[str]:
        return list(itertools.islice(names, count))

    for events, habit in (
        (lasting(streams(6), TODAY, a_generator()), "prompt"),
        (lasting(streams(6), TODAY, a_generator()), "silent"),
        (lasting(streams(4), LONG_AGO, a_generator()), "careless"),
        (lasting(streams(3), YEAR_9999, a_generator()), "prompt"),
        (brief(a_generator()), "prompt"),
    ):
        yield NumberingProducer(redis, keys, ledger, events, HINTERS[habit](redis, keys, a_generator()))
    yield EmittingProducer(redis, keys, ledger, [f"emitted-{number}" for number in range(6)], a_generator())


@dataclass
class NumberingProducer:
    """Gives its events ids of its own, so that appending one again does no harm."""

    redis: Redis
    keys: Keys
    ledger: Ledger
    events: Iterator[NumberedEvent]
    hinter: Hinter
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def append_next(self) -> None:
        stream_id, event_id, fields = next(self.events)
        name, doubtful = self.keys.log(stream_id), False
        while True:
            try:
                if not (doubtful and await self.redis.xrange(name, event_id, event_id)):
                    await self.redis.execute_command("XADD", name, event_id, *flat(fields))
                break
            except (RedisError, OSError):
                doubtful = True
                await asyncio.sleep(_PAUSE_SECONDS)
        self.ledger.add(stream_id, event_id, fields)
        await self.hinter.hint(stream_id, fields.get(b"type", b"").decode("utf-8", "replace"))


@dataclass
class EmittingProducer:
    """Uses `emit`, and as that asks for looks for the operation when the outcome is unknown."""

    redis: Redis
    keys: Keys
    ledger: Ledger
    stream_ids: list[str]
    rng: random.Random
    operations: Iterator[int] = field(default_factory=itertools.count)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def append_next(self) -> None:
        stream_id, operation_id = self.rng.choice(self.stream_ids), str(next(self.operations))
        event_type, payload = sound_event(self.rng)
        event_id, doubtful = None, False
        while event_id is None:
            try:
                event_id = await self._find(stream_id, operation_id) if doubtful else None
                doubtful = False
                event_id = event_id or await emit(
                    self.redis, stream_id, operation_id, event_type, payload,
                    projected_types=self.rng.choice([None, strategies.types]), keys=self.keys,
                )  # fmt: skip
            except (EmitError, RedisError, OSError) as error:
                doubtful = doubtful or isinstance(error, OutcomeUnknownError)
                await asyncio.sleep(_PAUSE_SECONDS)
        data = encode_event(stream_id, operation_id, event_type, payload)
        fields = {"op": operation_id, "type": event_type, "data": data}
        self.ledger.add(stream_id, event_id, {name.encode(): text.encode() for name, text in fields.items()})

    async def _find(self, stream_id: str, operation_id: str) -> str | None:
        latest: Any = await self.redis.xrevrange(self.keys.log(stream_id), count=_LOOK_BACK)
        for event_id, fields in latest:
            if fields[b"op"] == operation_id.encode():
                return str(event_id, "ascii")
        return None
