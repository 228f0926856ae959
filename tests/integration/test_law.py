"""The law: whatever way logs are projected, the table is the one of a single reader.

Universes of conversations are appended piece by piece and projected by two replicas in any order: in batches
cut anywhere, read in pages of any size, with rows deleted and folded anew, late, twice. At the end the table
must equal `tests.reference.single_reader`, which knows nothing of all that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from projections import strategies
from tests.conversations import ALL_TYPES, CLAIM_TYPES, Entry, Universe, universes
from tests.reference.model import single_reader
from tests.rights import ADMINISTRATOR, OWNER, PRODUCER, client_as, engine_as
from tests.servers import RunningServers
from tests.tables import differences, empty_tables, read_table
from worker.blocked import BlockedStreams
from worker.cache import RowCache
from worker.database import make_engine, parse_database_url
from worker.errors import ClaimRaceError
from worker.keys import Keys
from worker.log import Log
from worker.outcome import Outcome
from worker.projector import Projector
from worker.redis_client import make_client
from worker.store import Store

PAGE_BYTES = (1, 2_000, 1_000_000)
CACHE_BYTES = (0, 1_500, 1_000_000)


@dataclass(frozen=True, slots=True)
class Append:
    """Give a stream some more of its log."""

    stream: int
    entries: int


@dataclass(frozen=True, slots=True)
class Project:
    """Let a replica project some streams, one page each."""

    replica: int
    streams: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Race:
    """Let both replicas project the same streams at once."""

    streams: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class DeleteRow:
    """Somebody deletes a row; it must be folded anew."""

    stream: int


Move = Append | Project | Race | DeleteRow

_streams = st.lists(st.integers(0, 4), min_size=1, max_size=5, unique=True).map(tuple)
MOVES = st.lists(
    st.one_of(
        st.builds(Append, st.integers(0, 4), st.integers(1, 10)),
        st.builds(Append, st.integers(0, 4), st.integers(1, 10)),
        st.builds(Project, st.integers(0, 1), _streams),
        st.builds(Race, _streams),
        st.builds(DeleteRow, st.integers(0, 4)),
    ),
    max_size=25,
)


class World:
    """A universe under way: what has been appended so far, and two replicas that project it."""

    def __init__(
        self, redis: Redis, engine: AsyncEngine, prefix: str, page_bytes: int, cache_bytes: int
    ) -> None:
        self.redis = redis
        self.engine = engine
        self.keys = Keys(prefix)
        self.page_bytes = page_bytes
        self.replicas = [self._replica(cache_bytes) for _ in range(2)]

    def _replica(self, cache_bytes: int) -> Projector:
        log = Log(
            self.redis,
            self.keys,
            strategies.types,
            max_payload_bytes=16 * 1024 * 1024,
            page_bytes=self.page_bytes,
        )
        store, blocked = Store(self.engine, strategies), BlockedStreams(self.engine, strategies)
        return Projector(strategies, log, store, blocked, RowCache(cache_bytes))

    async def append(self, stream_id: str, entries: list[Entry]) -> None:
        producer = client_as(self.redis, PRODUCER)
        for event_id, fields in entries:
            await producer.xadd(self.keys.log(stream_id), fields, id=event_id)  # type: ignore[arg-type]

    async def delete_row(self, stream_id: str) -> None:
        async with self.engine.begin() as connection:
            await connection.execute(
                text("DELETE FROM stream_projections WHERE stream_id = :stream"), {"stream": stream_id}
            )

    async def catch_up(self, streams: list[str]) -> None:
        """Project until nothing is left, knowing nothing from before: a cached row may have been deleted."""
        replica = self._replica(cache_bytes=0)
        for _ in range(1_000):
            if not streams:
                return
            results = await replica.project_batch(streams)
            streams = [s for s, r in results.items() if r.outcome in (Outcome.MORE, Outcome.LOST)]
        raise AssertionError(f"{streams} never get to the end")


async def project_if_alone(replica: Projector, streams: list[str]) -> None:
    """Project, or come to nothing because another replica has changed claims in between."""
    with suppress(ClaimRaceError):
        await replica.project_batch(streams)


async def play(world: World, universe: Universe, moves: list[Move]) -> None:
    """Make the moves, then append and project whatever is left."""
    names = list(universe)
    left = {stream_id: list(log) for stream_id, log in universe.items()}

    def chosen(numbers: tuple[int, ...]) -> list[str]:
        return list(dict.fromkeys(names[number % len(names)] for number in numbers))

    for move in moves:
        match move:
            case Append(stream, entries):
                stream_id = names[stream % len(names)]
                await world.append(stream_id, left[stream_id][:entries])
                del left[stream_id][:entries]
            case Project(replica, streams):
                await world.replicas[replica].project_batch(chosen(streams))
            case Race(streams):
                async with asyncio.TaskGroup() as tasks:
                    for projector in world.replicas:
                        tasks.create_task(project_if_alone(projector, chosen(streams)))
            case DeleteRow(stream):
                await world.delete_row(names[stream % len(names)])
    for stream_id, rest in left.items():
        await world.append(stream_id, rest)
    await world.catch_up(names)


class Lab:
    """Servers and tables for one example after another."""

    def __init__(self, redis_url: str, database_url: str, prefix: str) -> None:
        self._runner = asyncio.Runner()
        self._redis = make_client(redis_url)
        self._engine = make_engine(parse_database_url(database_url), pool_size=3, application_name="law")
        self._prefix = prefix

    def check(self, universe: Universe, moves: list[Move], page_bytes: int, cache_bytes: int) -> None:
        """Play an example and compare."""
        self._runner.run(self._check(universe, moves, page_bytes, cache_bytes))

    async def _check(self, universe: Universe, moves: list[Move], page_bytes: int, cache_bytes: int) -> None:
        await empty_tables(engine_as(self._engine, OWNER))
        admin = client_as(self._redis, ADMINISTRATOR)
        if keys := await admin.keys(f"{self._prefix}*"):
            await admin.delete(*keys)
        await play(World(self._redis, self._engine, self._prefix, page_bytes, cache_bytes), universe, moves)
        assert differences(await read_table(self._engine), single_reader(universe)) == []

    def close(self) -> None:
        self._runner.run(self._redis.aclose())
        self._runner.run(self._engine.dispose())
        self._runner.close()


@pytest.fixture
def lab(servers: RunningServers, database_url: str, keys_prefix: str) -> Iterator[Lab]:
    """One event loop and one set of connections for all examples of a test."""
    lab = Lab(servers.redis_url, database_url, keys_prefix)
    yield lab
    lab.close()


LAW = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@LAW
@given(universes(CLAIM_TYPES), MOVES, st.sampled_from(PAGE_BYTES), st.sampled_from(CACHE_BYTES))
def test_claims_are_those_of_a_single_reader(
    lab: Lab, universe: Universe, moves: list[Move], page_bytes: int, cache_bytes: int
) -> None:
    lab.check(universe, moves, page_bytes, cache_bytes)


@LAW
@given(universes(ALL_TYPES), MOVES, st.sampled_from(PAGE_BYTES), st.sampled_from(CACHE_BYTES))
def test_the_table_is_that_of_a_single_reader(
    lab: Lab, universe: Universe, moves: list[Move], page_bytes: int, cache_bytes: int
) -> None:
    lab.check(universe, moves, page_bytes, cache_bytes)
