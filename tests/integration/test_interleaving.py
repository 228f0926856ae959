"""The replicas that tests halt between two statements."""

from __future__ import annotations

import asyncio

from sqlalchemy import text

from tests.interleaving import HaltingReplica
from tests.waiting import wait_until


async def test_a_replica_that_is_closed_ends_even_if_it_swallowed_that_before_its_halt(
    database_url: str,
) -> None:
    replica = HaltingReplica("replica", database_url)
    working = asyncio.Event()

    async def swallow_and_go_on() -> None:
        working.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            async with replica.engine.connect() as connection:
                await connection.execute(text("SELECT 1"))

    replica.start(swallow_and_go_on, halt_at=0)
    await wait_until(working.is_set, "it to work")
    async with asyncio.timeout(5):
        await replica.close()
    assert replica.finished
