"""The ledger: every entry that was appended, in the order of its log, whatever Redis remembers."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from redis.asyncio import Redis

from tests.conversations import Entry, Universe
from tests.logs import log_of
from tests.reference.model import PROJECTED_TYPES
from tests.reference.wire import type_of
from worker import EventId, Keys

_ENTRIES_AT_ONCE = 500


class Ledger:
    """What logs must hold. Producers write here once they know that their event stands in its log.

    ``positions`` says where the row of each stream must stand in the end.
    """

    def __init__(self) -> None:
        self.logs: Universe = defaultdict(list)
        self.positions: dict[str, str] = {}
        self.events = 0

    def add(self, stream_id: str, event_id: str, fields: dict[bytes, bytes]) -> None:
        self.logs[stream_id].append((event_id, fields))
        self.events += 1
        if type_of(fields) in PROJECTED_TYPES:
            self.positions[stream_id] = event_id

    async def restore(self, redis: Redis, keys: Keys) -> None:
        """Append what logs have lost at their ends, with the ids that it had, and without any hint.

        Nobody may append meanwhile.
        """
        for stream_id, log in self.logs.items():
            name = keys.log(stream_id)
            last: Any = await redis.xrevrange(name, count=1)
            present = EventId.parse(last[0][0]) if last else None
            lost = [entry for entry in log if present is None or EventId.parse(entry[0]) > present]
            for start in range(0, len(lost), _ENTRIES_AT_ONCE):
                await _append(redis, name, lost[start : start + _ENTRIES_AT_ONCE])

    async def differing(self, redis: Redis, keys: Keys) -> list[str]:
        """The streams whose log is not as it is written here."""
        return [
            stream_id for stream_id, log in self.logs.items() if await log_of(redis, keys, stream_id) != log
        ]


async def _append(redis: Redis, name: str, entries: list[Entry]) -> None:
    async with redis.pipeline(transaction=False) as pipeline:
        for event_id, fields in entries:
            pipeline.execute_command("XADD", name, event_id, *flat(fields))
        await pipeline.execute()


def flat(fields: dict[bytes, bytes]) -> list[bytes]:
    """Fields as XADD takes them."""
    return [part for pair in fields.items() for part in pair]
