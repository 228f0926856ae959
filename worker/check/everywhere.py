"""Checks of a server, at each of the servers that hold logs: one, or all primaries of a cluster."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from redis.asyncio import Redis

from worker.check.finding import Deployment, Finding
from worker.log_servers import log_servers


async def everywhere(of: Deployment, look: Callable[[Redis], Awaitable[Sequence[Finding]]]) -> list[Finding]:
    """What is found at each server. Nodes are named only where it does not hold for all."""
    servers = await log_servers(of.redis).primaries()
    places: dict[Finding, list[str]] = defaultdict(list)
    for address, redis in servers:
        for finding in await look(redis):
            places[finding].append(address)
    return [
        finding
        if len(addresses) == len(servers)
        else replace(finding, what=f"Of node {', '.join(addresses)}: {finding.what}")
        for finding, addresses in places.items()
    ]
