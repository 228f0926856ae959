"""A Redis behind sentinels: whether another server can take over, and what that would lose."""

from __future__ import annotations

from collections.abc import Sequence

from redis.asyncio.sentinel import SentinelConnectionPool
from redis.exceptions import ResponseError

from worker.check.finding import Area, Check, Deployment, Finding, Kind, Severity

NO_REPLICA = Kind(
    "redis-no-replica",
    Severity.WARNING,
    "If the master ends, the sentinels have no server to put in its place.",
    "Start a replica, or see in its log why it does not follow.",
)
LOSES_AT_FAILOVER = Kind(
    "redis-failover-loses",
    Severity.WARNING,
    "A master that is cut off from its replicas goes on taking events, and loses them once it is demoted; "
    "streams whose rows are further are diverged.",
    "Set min-replicas-to-write to 1 on every server, and min-replicas-max-lag to few seconds.",
)


async def _failover(of: Deployment) -> Sequence[Finding]:
    if not isinstance(of.redis.connection_pool, SentinelConnectionPool):
        return []
    info = await of.redis.info("replication")
    findings = []
    if not int(info["connected_slaves"]):
        findings.append(NO_REPLICA.found("The master has no replica."))
    try:
        least = await of.redis.config_get("min-replicas-to-write")
    except ResponseError:  # Servers that others run for you do not tell.
        return findings
    if least.get("min-replicas-to-write") == "0":
        findings.append(LOSES_AT_FAILOVER.found("min-replicas-to-write is 0."))
    return findings


CHECKS = (Check("Redis's failover", Area.REDIS, _failover, (NO_REPLICA, LOSES_AT_FAILOVER)),)
