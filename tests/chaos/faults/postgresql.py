"""Faults of PostgreSQL that leave it running: to its sessions, rows and rights. See also `outages`."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from tests.chaos.faults.fault import Target, faults
from tests.chaos.servers import WORKERS_ROLE
from tests.chaos.world import World

_TERMINATE = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{WORKERS_ROLE}'"


async def sessions_terminated(world: World, rng: random.Random) -> None:
    """All sessions of the replicas are terminated."""
    await world.postgresql.execute(_TERMINATE)


async def sessions_terminated_in_a_burst(world: World, rng: random.Random) -> None:
    """Whatever does something is terminated, for a second or two: that hits every statement, COMMIT too."""
    async with _session(world) as session:
        end = time.monotonic() + rng.uniform(0.5, 2)
        while time.monotonic() < end:
            await session.execute(f"{_TERMINATE} AND state <> 'idle' AND random() < 0.3")


async def server_read_only(world: World, rng: random.Random) -> None:
    """The server allows no writes, and after a while does again; sessions that last go along with it."""
    await world.postgresql.execute(
        "ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()"
    )
    try:
        await asyncio.sleep(rng.uniform(1, 6))
    finally:
        await world.postgresql.execute(
            "ALTER SYSTEM RESET default_transaction_read_only", "SELECT pg_reload_conf()"
        )


async def sessions_read_only(world: World, rng: random.Random) -> None:
    """Sessions that begin now may not write, for as long as they last, as on a standby that was promoted."""
    await world.postgresql.execute(
        f"ALTER ROLE {WORKERS_ROLE} SET default_transaction_read_only = on", _TERMINATE
    )
    try:
        await asyncio.sleep(rng.uniform(1, 4))
    finally:
        await world.postgresql.execute(f"ALTER ROLE {WORKERS_ROLE} RESET default_transaction_read_only")


async def out_of_connections(world: World, rng: random.Random) -> None:
    """Every session is terminated, and the server has no connections left for others."""
    await world.postgresql.execute(f"ALTER ROLE {WORKERS_ROLE} CONNECTION LIMIT 0", _TERMINATE)
    try:
        await asyncio.sleep(rng.uniform(1, 6))
    finally:
        await world.postgresql.execute(f"ALTER ROLE {WORKERS_ROLE} CONNECTION LIMIT -1")


async def rows_locked(world: World, rng: random.Random) -> None:
    """A transaction holds some rows, sometimes for longer than anybody waits for a lock."""
    async with _session(world) as session, session.transaction():
        await session.execute(
            "SELECT FROM stream_projections ORDER BY random() LIMIT $1 FOR UPDATE", rng.choice([1, 3, 100])
        )
        await asyncio.sleep(rng.choice([1, 3, 7]))


async def table_locked(world: World, rng: random.Random) -> None:
    """A transaction holds the whole table, as some migrations do."""
    async with _session(world) as session, session.transaction():
        await session.execute("LOCK TABLE stream_projections IN ACCESS EXCLUSIVE MODE")
        await asyncio.sleep(rng.choice([1, 3, 7]))


async def deadlocks(world: World, rng: random.Random) -> None:
    """Somebody locks rows in any order, again and again, and waits longer than others before giving way."""
    async with _session(world) as session:
        await session.execute("SET deadlock_timeout = '20s'")
        found = await session.fetch("SELECT stream_id FROM stream_projections")
        stream_ids = [row["stream_id"] for row in found]
        end = time.monotonic() + rng.uniform(2, 5)
        while time.monotonic() < end:
            async with session.transaction():
                for stream_id in rng.sample(stream_ids, min(len(stream_ids), 6)):
                    await session.execute(
                        "SELECT FROM stream_projections WHERE stream_id = $1 FOR UPDATE", stream_id
                    )
                    await asyncio.sleep(0.05)


@asynccontextmanager
async def _session(world: World) -> AsyncIterator[asyncpg.Connection]:
    session = await world.postgresql.connect()
    try:
        yield session
    finally:
        await session.close()


FAULTS = faults(
    Target.POSTGRESQL,
    sessions_terminated,
    sessions_terminated_in_a_burst,
    server_read_only,
    sessions_read_only,
    out_of_connections,
    rows_locked,
    table_locked,
    deadlocks,
)
