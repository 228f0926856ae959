"""Blocked streams: each stands before an event that could not be applied, until somebody helps.

Every method is one transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncEngine

from worker import letters
from worker.events import EventId
from worker.letters import Letter
from worker.projection import Projection
from worker.row_arrays import fetch
from worker.table import Stamp, Table
from worker.transaction import writing


@dataclass(frozen=True, slots=True)
class Block:
    """A stream that is stopped before an event; ``loaded`` is its row's stamp, None where there is no row."""

    loaded: Stamp | None
    letter: Letter


class BlockedStreams:
    """The streams of one projection that are stopped, as their open dead letters tell."""

    def __init__(self, engine: AsyncEngine, projection: Projection) -> None:
        self._engine = engine
        self._projection = projection
        self._table = Table(projection, engine.dialect)

    async def add(self, blocks: Sequence[Block], *, retried: bool = True) -> set[str]:
        """Record where streams are stopped, in one transaction; those whose row still was the one loaded.

        Of any other nothing is recorded, since another writer may have gone beyond the event.
        """
        if not blocks:
            return set()
        by_stream = {block.letter.stream_id: block for block in blocks}
        async with writing(self._engine) as connection:
            current = await self._table.lock(connection, by_stream.keys())
            held = [s for s in sorted(by_stream, key=str.encode) if current.get(s) == by_stream[s].loaded]
            await letters.record_open(
                connection,
                self._projection.name,
                self._projection.version,
                [by_stream[stream_id].letter for stream_id in held],
                retried=retried,
            )
        return set(held)

    async def settle_gone(self, events: Mapping[str, EventId]) -> None:
        """Settle the open letters of streams whose logs no longer hold the event that stopped them.

        A later event, of which the caller knows nothing yet, may have stopped such a stream again.
        """
        async with writing(self._engine) as connection:
            gone = {stream_id: str(event_id) for stream_id, event_id in events.items()}
            await letters.resolve(connection, self._projection.name, self._projection.version, gone)

    async def due(self, limit: int) -> list[str]:
        """Streams to look at again although nobody hinted, at most ``limit``.

        Those with an open letter that is due or was written by an older version, and those that stand before
        an event which an operator skipped lately; not those whose row is a newer version's. Chance decides
        which of more than ``limit``: some stay due for long, their logs being diverged, and must not keep
        others from their turn.
        """
        sql = f"""
            SELECT l.stream_id FROM dead_letters AS l
            LEFT JOIN {self._table.name} AS t ON t.stream_id = l.stream_id COLLATE "default"
            WHERE l.projection = $1
              AND (t.last_event_id IS NULL OR t.version <= $2)
              AND (l.state = 'open' AND (l.retry_at <= now() OR l.version < $2)
                   OR l.state = 'skipped' AND l.settled_at > now() - interval '1 hour'
                      AND ((({_number("t.last_event_id")}) < ({_number("l.event_id")})) IS NOT FALSE
                           OR t.version < l.version))
            GROUP BY l.stream_id ORDER BY random() LIMIT $3"""
        async with self._engine.connect() as connection:
            rows = await fetch(connection, sql, self._projection.name, self._projection.version, limit)
        return [row[0] for row in rows]

    async def settle_stale(self) -> None:
        """Settle open letters for events at or before their rows' positions: somebody applied them.

        A row of an older version than the letter's says nothing: it is to be folded anew, and cannot be.
        """
        sql = f"""
            UPDATE dead_letters AS l SET state = 'resolved', settled_at = now(), retry_at = NULL
            FROM {self._table.name} AS t
            WHERE l.projection = $1 AND l.state = 'open' AND t.stream_id = l.stream_id COLLATE "default"
              AND l.version <= t.version AND ({_number("l.event_id")}) <= ({_number("t.last_event_id")})"""
        async with writing(self._engine) as connection:
            await connection.exec_driver_sql(sql, (self._projection.name,))


def _number(event_id: str) -> str:
    """An SQL expression that compares event ids as numbers; null for what is none."""
    parts = ", ".join(f"split_part({event_id}, '-', {part})::numeric" for part in (1, 2))
    return f"CASE WHEN {event_id} ~ '^[0-9]+-[0-9]+$' THEN ARRAY[{parts}] END"
