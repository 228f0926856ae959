"""Backlogs of simulated chats: logs with their hints, appended before anybody projects them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import orjson
from redis.asyncio import Redis

from projections import simulate_conversation, strategies
from worker import Keys

_APPENDED_AT_ONCE = 2_000


@dataclass(frozen=True, slots=True)
class Backlog:
    """``ends`` are the last projected event of each stream: where its row stands in the end."""

    events: int
    projected: int
    ends: dict[str, str]


async def append_backlog(redis: Redis, keys: Keys, *, streams: int, events: int, seed: int = 1) -> Backlog:
    """Append events to so many chats in turns, most of them token deltas, with hints as emit writes them."""
    said = [_chat(seed * 1_000_003 + number) for number in range(streams)]
    ends: dict[str, str] = {}
    projected = 0
    for turn in range(0, events // streams, 10):
        pipeline = redis.pipeline(transaction=False)
        names: list[str | None] = []
        for number, chat in enumerate(said):
            stream_id = f"chat-{number}"
            for event_type, data in islice(chat, min(10, events // streams - turn)):
                pipeline.xadd(keys.log(stream_id), {"op": "", "type": event_type, "data": data})
                names.append(stream_id if event_type in strategies.types else None)
                if event_type in strategies.types:
                    pipeline.xadd(
                        keys.feed(keys.partition(stream_id)), {"stream": stream_id, "type": event_type}
                    )
                    names.append(None)
            if len(names) >= _APPENDED_AT_ONCE:
                ends |= _last(names, await pipeline.execute())
                projected += sum(name is not None for name in names)
                names.clear()
        ends |= _last(names, await pipeline.execute())
        projected += sum(name is not None for name in names)
    return Backlog(streams * (events // streams), projected, ends)


def _chat(seed: int) -> Iterator[tuple[str, bytes]]:
    rng = random.Random(seed)
    for event in simulate_conversation(rng, range(1, 1_000)):
        yield event.type, orjson.dumps(event.data)


def _last(names: list[str | None], replies: list[bytes]) -> dict[str, str]:
    return {name: reply.decode() for name, reply in zip(names, replies, strict=True) if name is not None}
