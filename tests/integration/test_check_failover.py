"""`check` finds what would make a failover worse than it must be, with real sentinels."""

from __future__ import annotations

import asyncio

from tests.checking import above_info, look, said
from tests.sentinels import watched_servers

FAILOVER = {"redis-no-replica", "redis-failover-loses"}


async def test_a_master_without_replicas_that_goes_on_alone_is_found() -> None:
    with watched_servers() as watched:
        assert not FAILOVER & above_info(await look(watched.url()))
        await asyncio.to_thread(watched.cut_replication)
        report = await look(watched.url())
        assert above_info(report) >= FAILOVER
        assert "min-replicas-to-write is 0" in said(report, "redis-failover-loses")
