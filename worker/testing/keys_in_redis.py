"""The keys of a test, on one server or on all nodes of a cluster."""

from __future__ import annotations

from redis.asyncio import Redis

from worker.keys import Keys
from worker.log_servers import log_servers
from worker.redis_client import make_client

_SCAN_KEYS = 1_000


async def ping(url: str) -> None:
    """Raise what a server does that does not answer."""
    redis = make_client(url)
    try:
        await redis.ping()
    finally:
        await redis.aclose()


async def delete_all(redis: Redis, prefix: str) -> None:
    """Delete all keys of a deployment, its own names on a cluster too. Its prefix must be no pattern."""
    servers = log_servers(redis)
    for beginning in {prefix, Keys(prefix, on_cluster=True).feed_partitions.partition("}")[0]}:
        async for names in servers.scan(f"{beginning}*", _SCAN_KEYS):
            await servers.ask([(name, ("DEL", name)) for name in names])


async def delete_all_at(url: str, prefix: str) -> None:
    """The same for whoever has no client."""
    redis = make_client(url)
    try:
        await delete_all(redis, prefix)
    finally:
        await redis.aclose()
