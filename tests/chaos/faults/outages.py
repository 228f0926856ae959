"""Faults after which PostgreSQL has to start again."""

from __future__ import annotations

import asyncio
import os
import random
import signal

import asyncpg

from tests.chaos.faults.fault import Target, faults
from tests.chaos.servers import WORKERS_ROLE
from tests.chaos.world import World
from tests.waiting import wait_until

_RECOVERY_SECONDS = 60


async def postgresql_restarted(world: World, rng: random.Random) -> None:
    """PostgreSQL rolls back what is under way, stops, and is back at once."""
    await asyncio.to_thread(world.postgresql.stop)
    await asyncio.to_thread(world.postgresql.start)


async def postgresql_stopped(world: World, rng: random.Random) -> None:
    """PostgreSQL is away for some seconds."""
    await asyncio.to_thread(world.postgresql.stop)
    await asyncio.sleep(rng.uniform(1, 7))
    await asyncio.to_thread(world.postgresql.start)


async def postgresql_crashed(world: World, rng: random.Random) -> None:
    """A session's process is killed: PostgreSQL throws everybody out and recovers from its log."""
    connection = await world.postgresql.connect()
    victim = await connection.fetchval(
        "SELECT coalesce((SELECT pid FROM pg_stat_activity WHERE usename = $1 ORDER BY state LIMIT 1),"
        " pg_backend_pid())",
        WORKERS_ROLE,
    )
    os.kill(victim, signal.SIGKILL)
    await wait_until(connection.is_closed, "PostgreSQL to hang up", _RECOVERY_SECONDS)

    async def answers() -> bool:
        try:
            await world.postgresql.execute("SELECT")
        except (asyncpg.PostgresError, OSError):
            return False
        return True

    await wait_until(answers, "PostgreSQL to recover", _RECOVERY_SECONDS)


FAULTS = faults(Target.POSTGRESQL, postgresql_restarted, postgresql_stopped, postgresql_crashed)
