"""Extents of logs, as far as no server is needed."""

from __future__ import annotations

from redis.asyncio import Redis

from worker.extent import read_extents
from worker.log_servers import log_servers


async def test_for_the_extents_of_no_logs_the_server_is_not_asked() -> None:
    nowhere = Redis(host="127.0.0.1", port=1)
    assert await read_extents(log_servers(nowhere), []) == []
