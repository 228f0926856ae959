"""Campaigns: rebuilds of many streams, which processes share and which outlive them.

A campaign is begun in one transaction with all its chunks, or not at all. A chunk is taken for a while, by
the database's clock; it is done once its rows are committed, whoever has it then. So a chunk is done twice
where its holder dies or loses it, and never left out. Nothing here needs a session: every method is one
short transaction.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from worker import campaign_sql as sql
from worker.judgement import Refusal
from worker.row_arrays import fetch
from worker.scope import Scope
from worker.transaction import writing

LEASE_SECONDS = 10.0
"""How long a chunk stays with whoever took it and was not heard of since."""

_MOST_IN_A_CHUNK = 50
_CHUNKS = 25
_CHUNKS_A_STATEMENT = 200


@dataclass(frozen=True, slots=True)
class Campaign:
    """What is to be rebuilt, by which version of the projection."""

    id: int
    version: int
    scope: Scope
    streams: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """A share of a campaign that was taken."""

    number: int
    stream_ids: Sequence[str]


@dataclass(frozen=True, slots=True)
class RefusedStream:
    """A stream that was not rebuilt, and why."""

    stream_id: str
    refusal: Refusal
    detail: str


@dataclass(frozen=True, slots=True)
class CampaignProgress:
    """How far a campaign is. Counts are of streams, but ``events``, which were applied.

    ``workers`` are those that have a chunk in hand. ``seconds`` is how long ago it began, or took.
    ``streams_per_second`` is the rate of the last minute, by all of them.
    """

    id: int
    version: int
    scope: Scope
    streams: int
    done: int
    refused: int
    events: int
    seconds: float
    streams_per_second: float
    workers: Sequence[str]
    finished: bool
    given_up: bool

    @property
    def seconds_left(self) -> float | None:
        """At the present rate; None where nothing is known of that."""
        if not self.streams_per_second:
            return 0.0 if self.done == self.streams else None
        return (self.streams - self.done) / self.streams_per_second


class Campaigns:
    """The campaigns of one projection, as one process sees them; ``worker`` is its name, like no other's."""

    def __init__(self, engine: AsyncEngine, projection: str, worker: str = "") -> None:
        self._engine = engine
        self._projection = projection
        self._worker = worker

    async def unfinished(self) -> Campaign | None:
        """The campaign under way, whoever works on it or does not."""
        async with self._engine.connect() as connection:
            return await self._unfinished(connection)

    async def _unfinished(self, connection: AsyncConnection) -> Campaign | None:
        found = await fetch(connection, sql.UNFINISHED, self._projection)
        return _campaign(found[0]) if found else None

    async def begin(self, version: int, scope: Scope, stream_ids: Sequence[str]) -> Campaign:
        """Begin a campaign on these streams; where another was begun meanwhile, that one."""
        size = chunk_size(len(stream_ids))
        step = size * _CHUNKS_A_STATEMENT
        async with writing(self._engine) as connection:
            await fetch(connection, sql.FORGET_OLD, self._projection)
            values = (self._projection, version, json.dumps(asdict(scope)), len(stream_ids))
            begun = await fetch(connection, sql.BEGIN, *values)
            for at in range(0, len(stream_ids) if begun else 0, step):
                some = list(stream_ids[at : at + step])
                await fetch(connection, sql.ADD_CHUNKS, begun[0][0], at // size, size, some)
            campaign = await self._unfinished(connection)
        # Another one may have been begun and finished in between; then this one's turn is still to come.
        return campaign or await self.begin(version, scope, stream_ids)

    async def give_up(self, campaign_id: int) -> None:
        """End a campaign as it is. Those who work on it notice when they ask for the next chunk."""
        async with writing(self._engine) as connection:
            await fetch(connection, sql.GIVE_UP, campaign_id)

    async def take(self, campaign_id: int) -> Chunk | None:
        """Take a chunk that nobody has in hand; None where there is none, or the campaign is over."""
        async with writing(self._engine) as connection:
            return await self._take(connection, campaign_id)

    async def _take(self, connection: AsyncConnection, campaign_id: int) -> Chunk | None:
        taken = await fetch(connection, sql.TAKE, campaign_id, self._worker, LEASE_SECONDS)
        return Chunk(*taken[0]) if taken else None

    async def renew(self, campaign_id: int, numbers: Collection[int]) -> None:
        """Keep these chunks for as long again; those that others have taken since are theirs.

        A chunk that was taken without the answer being heard must not be among them: nobody works on it.
        """
        await self._keep(campaign_id, numbers, LEASE_SECONDS)

    async def release(self, campaign_id: int, numbers: Collection[int]) -> None:
        """Let others have these chunks at once."""
        await self._keep(campaign_id, numbers, 0.0)

    async def _keep(self, campaign_id: int, numbers: Collection[int], seconds: float) -> None:
        if numbers:
            async with writing(self._engine) as connection:
                await fetch(connection, sql.KEEP, campaign_id, self._worker, list(numbers), seconds)

    async def note_done(
        self, campaign_id: int, number: int, events: int, refused: Sequence[RefusedStream]
    ) -> Chunk | None:
        """The chunk's rows are committed; take the next one in the same transaction, if there is any.

        If others have said so before, what they said stands.
        """
        told = json.dumps([asdict(of) for of in refused])
        async with writing(self._engine) as connection:
            await fetch(connection, sql.NOTE_DONE, campaign_id, number, events, told)
            return await self._take(connection, campaign_id)

    async def conclude(self, campaign_id: int) -> bool:
        """Finish the campaign if every chunk is done; whether it is over, finished or given up."""
        async with writing(self._engine) as connection:
            await fetch(connection, sql.CONCLUDE, campaign_id)
            [[left]] = await fetch(connection, sql.IS_LEFT, campaign_id)
            return not left

    async def progress(self, campaign_id: int) -> CampaignProgress | None:
        """How far a campaign is; None if it is forgotten."""
        async with self._engine.connect() as connection:
            found = await fetch(connection, sql.PROGRESS, campaign_id)
        if not found:
            return None
        identifier, version, scope, *counts, workers, finished, given_up = found[0]
        streams, done, refused, events, seconds, rate = counts
        return CampaignProgress(
            identifier,
            version,
            _scope(scope),
            streams,
            done,
            refused,
            events,
            seconds,
            rate,
            sorted(workers or ()),
            finished,
            given_up,
        )

    async def refusals(self, campaign_id: int, limit: int) -> tuple[dict[Refusal, int], list[RefusedStream]]:
        """How many streams were refused, by reason, and the first so many of them."""
        async with self._engine.connect() as connection:
            counts = await fetch(connection, sql.COUNT_REFUSALS, campaign_id)
            told = await fetch(connection, sql.REFUSALS, campaign_id, limit)
        refused = [RefusedStream(stream_id, Refusal(why), detail) for stream_id, why, detail in told]
        return {Refusal(why): count for why, count in counts}, refused


def chunk_size(streams: int) -> int:
    """So small that a process which dies leaves little undone, whatever the size of the campaign."""
    return min(_MOST_IN_A_CHUNK, max(1, streams // _CHUNKS))


def _campaign(row: tuple[Any, ...]) -> Campaign:
    identifier, version, scope, streams = row
    return Campaign(identifier, version, _scope(scope), streams)


def _scope(stored: str) -> Scope:
    return Scope(**json.loads(stored))
