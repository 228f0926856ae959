"""The nodes of a Redis Cluster, as a whole."""

from __future__ import annotations

from collections.abc import Sequence

from worker.check.finding import Area, Check, Deployment, Finding, Kind, Severity
from worker.log_servers import log_servers
from worker.trouble import SERVER_ERRORS, Trouble, classify, sentence

CLUSTER_FAILS = Kind(
    "redis-cluster-fails",
    Severity.ERROR,
    "What lies in slots that no node serves can be neither appended to nor projected.",
    "See with CLUSTER NODES which nodes are away, and bring them back or have their replicas take over.",
)
NO_REPLICA = Kind(
    "redis-cluster-no-replica",
    Severity.WARNING,
    "Nothing takes over from such a node when it fails, and what it holds waits for it.",
    "Give each primary a replica (CLUSTER REPLICATE).",
)


async def _state(of: Deployment) -> Sequence[Finding]:
    if not of.keys.on_cluster:
        return []
    try:
        primaries = await log_servers(of.redis).primaries()
    except SERVER_ERRORS:
        return []  # That is for the next check to tell.
    findings: dict[str, Finding] = {}
    for address, redis in primaries:
        try:
            told: bytes = await redis.execute_command("CLUSTER", "INFO")
        except SERVER_ERRORS as error:
            if classify(error) is Trouble.MISCONFIGURED:
                raise
            found = CLUSTER_FAILS.found(f"Node {address} does not answer as it should: {sentence(error)}")
        else:
            info = dict(line.split(":", 1) for line in told.decode().splitlines() if ":" in line)
            if (state := info["cluster_state"]) == "ok":
                continue
            served = int(info["cluster_slots_ok"])
            found = CLUSTER_FAILS.found(f"The cluster is in state {state}; {served:,} slots are served.")
        findings.setdefault(found.what, found)
    return list(findings.values())


async def _replicas(of: Deployment) -> Sequence[Finding]:
    if not of.keys.on_cluster:
        return []
    slots = await of.redis.execute_command("CLUSTER", "SLOTS")
    alone = {f"{host.decode()}:{port}" for _, _, (host, port, *_), *replicas in slots if not replicas}
    return [NO_REPLICA.found(f"Node {address} has no replica.") for address in sorted(alone)]


CHECKS = (
    Check("The state of the cluster", Area.REDIS, _state, (CLUSTER_FAILS,), gate=True),
    Check("The replicas of the cluster", Area.REDIS, _replicas, (NO_REPLICA,)),
)
