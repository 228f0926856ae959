"""What Redis lets this user do, command by command.

Every command that a worker sends is queued in a MULTI that is then discarded: Redis looks at rights when it
queues, and refuses there. Nothing is run.

The worker itself does without MULTI, and its user may have no right to it. Then commands are run, with such
arguments that they can do nothing: an id that is none, a group that is none. What has no such arguments is
left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, OutOfMemoryError, ReadOnlyError

from worker.check.everywhere import everywhere
from worker.check.finding import NOT_TOLD, Area, Check, Deployment, Finding, Kind, Severity
from worker.keys import Keys
from worker.redis_client import pipelined
from worker.sending import REFUSALS, exchange

RIGHT_MISSING = Kind(
    "redis-right-missing",
    Severity.ERROR,
    "The worker cannot do what it needs the command for.",
    "Grant the user the command, on these keys (ACL SETUSER).",
)
IS_REPLICA = Kind(
    "redis-is-replica",
    Severity.ERROR,
    "A replica takes no writes, so that no hint can be read or acknowledged.",
    "Let REDIS_URL name the master.",
)
REFUSES_WRITES = Kind(
    "redis-refuses-writes",
    Severity.ERROR,
    "No event can be appended, and no hint be read or acknowledged.",
    "Mend what Redis names, as a rule its memory or its disk.",
)

_NO_GROUP, _NO_ID, _NO_NUMBER = "projection-worker-check", "no-id", "no-number"
_ONLY_QUEUED = frozenset({"DEL", "PUBLISH", "SADD", "SETNX"})
"""Whatever their arguments, these do something."""

_REFUSALS = ("MISCONF", "NOREPLICAS", "MASTERDOWN", "CLUSTERDOWN", "OOM")

Trial = tuple[str, tuple[Any, ...]]
"""What a command is for, and the command."""


def trials(keys: Keys, projection: str) -> Iterator[Trial]:
    """Every command that a worker sends for a projection, with the keys that it sends it for.

    Commands inside scripts are among them, since Redis looks at the rights to each. Of those that may be run,
    none has any effect, whatever the keys hold.
    """
    log, feed = keys.log("check"), keys.feed(0)
    yield from (
        ("finding logs", ("SCAN", "0", "MATCH", f"{keys.log_prefix}*", "COUNT", "1")),
        ("reading logs", ("XRANGE", log, "-", "+", "COUNT", "1")),
        ("reading logs", ("XREVRANGE", log, "+", "-", "COUNT", "1")),
        ("reading logs", ("XINFO", "STREAM", log)),
        ("reading logs", ("EXISTS", log)),
        ("reading logs", ("EVAL", "return 1", "1", log)),
        ("agreeing on feed partitions", ("GET", keys.feed_partitions)),
        ("agreeing on feed partitions", ("SETNX", keys.feed_partitions, "1")),
        ("making the group", ("XGROUP", "CREATE", feed, _NO_GROUP, _NO_ID, "MKSTREAM")),
        ("passing over a backlog", ("XGROUP", "SETID", feed, _NO_GROUP, "0")),
        ("removing dead replicas", ("XGROUP", "DELCONSUMER", feed, _NO_GROUP, "check")),
        ("reading hints", ("XREADGROUP", "GROUP", _NO_GROUP, "check", "STREAMS", feed, ">")),
        ("reading hints", ("XRANGE", feed, "-", "+", "COUNT", "1")),
        ("acknowledging hints", ("XACK", feed, _NO_GROUP, "0-1")),
        ("seeing what waits", ("XINFO", "GROUPS", feed)),
        ("seeing what waits", ("XINFO", "STREAM", feed)),
        ("seeing what waits", ("XINFO", "CONSUMERS", feed, _NO_GROUP)),
        ("seeing what waits", ("XPENDING", feed, _NO_GROUP)),
        ("taking over from dead replicas", ("XCLAIM", feed, _NO_GROUP, "check", "0", "0-1")),
        ("taking over from slow replicas", ("XAUTOCLAIM", feed, _NO_GROUP, "check", "0", "0-0")),
        ("trimming the feed", ("XTRIM", feed, "MINID", "~", "0-0")),
        ("hinting", ("XADD", feed, _NO_ID, "stream", "check")),
        ("skimming the feed", ("EVAL", "return 1", "1", feed)),
    )
    if keys.on_cluster:
        yield "finding the nodes of the cluster", ("CLUSTER", "SLOTS")
        yield "following logs to other nodes", ("ASKING",)
    yield from _bookkeeping(keys, projection)


def _bookkeeping(keys: Keys, projection: str) -> Iterator[Trial]:
    live, leases = keys.live_replicas(projection), keys.leases(projection)
    given, suspects = keys.given(projection), keys.suspects(projection)
    sweep_lease, diverged = keys.sweep_lease(projection), keys.diverged(projection)
    yield from (
        ("sharing partitions", ("EVALSHA", "0" * 40, "2", live, leases)),
        ("sharing partitions", ("TIME",)),
        ("sharing partitions", ("ZADD", live, "XX", "0", "check")),
        ("sharing partitions", ("ZREM", live, "check")),
        ("sharing partitions", ("ZRANGE", live, "0", "0", "WITHSCORES")),
        ("sharing partitions", ("HSET", leases, "odd", "in", "number")),
        ("sharing partitions", ("HGET", leases, "check")),
        ("sharing partitions", ("HGETALL", leases)),
        ("sharing partitions", ("HDEL", leases, "check")),
        ("handing over", ("SADD", given, "check")),
        ("handing over", ("SREM", given, "check")),
        ("finding events that kill", ("HKEYS", keys.in_flight(projection))),
        ("counting diverged streams", ("HLEN", keys.diverged(projection))),
        ("finding events that kill", ("HINCRBY", suspects, "check", _NO_NUMBER)),
        ("finding events that kill", ("PEXPIRE", suspects, _NO_NUMBER)),
        ("sweeping", ("SET", sweep_lease, "check", "NX", "XX")),
        ("sweeping", ("GET", sweep_lease)),
        ("sweeping", ("PEXPIRE", sweep_lease, _NO_NUMBER)),
        ("sweeping", ("DEL", sweep_lease)),
        ("sweeping", ("SET", keys.sweep_report(projection), "check", "NX", "XX")),
        ("telling of diverged streams", ("HSCAN", diverged, "0")),
        ("telling how it is", ("HSET", keys.replicas(projection), "odd", "in", "number")),
        ("waking those who wait", ("PUBLISH", keys.moved(projection), "check")),
    )


async def _rights(of: Deployment) -> Sequence[Finding]:
    return await everywhere(of, partial(_rights_at, of))  # Each node of a cluster has users of its own.


async def _rights_at(of: Deployment, redis: Redis) -> Sequence[Finding]:
    findings: dict[str, Finding] = {}
    for projection in of.projections:
        wanted = list(trials(projection.keys(of.keys), projection.name))
        replies = await _queued(redis, [command for _, command in wanted])
        if replies is None:
            wanted = [trial for trial in wanted if trial[1][0] not in _ONLY_QUEUED]
            replies = await pipelined(redis, [command for _, command in wanted])
            untried = f"Whether it may run {', '.join(sorted(_ONLY_QUEUED))} cannot be tried without MULTI"
            findings[untried] = NOT_TOLD.found(f"{untried}, to which this user has no right.")
        for (purpose, command), reply in zip(wanted, replies, strict=True):
            if (finding := _finding(purpose, command, reply)) is not None:
                findings.setdefault(finding.what, finding)
    return list(findings.values())


async def _queued(redis: Redis, commands: Sequence[tuple[Any, ...]]) -> Sequence[Any] | None:
    """What Redis says when it is to queue these commands, of which none is run; None without transactions."""
    pool = redis.connection_pool
    connection = await pool.get_connection()
    try:
        # In a round trip of its own: were it refused, what follows would be run.
        begun, queues = await exchange(connection, [("MULTI",), ("PING",)])
        if begun != b"OK" or not (queues == b"QUEUED" or isinstance(queues, REFUSALS)):
            return None
        return (await exchange(connection, [*commands, ("DISCARD",)]))[:-1]
    finally:
        await connection.disconnect()  # Whatever may still be queued goes with it.
        await pool.release(connection)


def _finding(purpose: str, command: tuple[Any, ...], reply: Any) -> Finding | None:
    if not isinstance(reply, REFUSALS):
        return None
    if isinstance(reply, NoPermissionError):
        name, key = _named(command)
        return RIGHT_MISSING.found(f"Redis lets this user not run {name}{key}, needed for {purpose}.")
    words = str(reply).partition("\n")[0].rstrip(".")
    if isinstance(reply, ReadOnlyError):
        return IS_REPLICA.found(f"Redis is a replica ({words}).")
    if isinstance(reply, OutOfMemoryError) or words.startswith(_REFUSALS):
        return REFUSES_WRITES.found(f"Redis refuses commands ({words}).")
    return None  # What we gave it is wrong, on purpose.


def _named(command: tuple[Any, ...]) -> tuple[str, str]:
    """A command's name, and the key that it is sent for, if there is one."""
    match command:
        case ("XGROUP" | "XINFO", subcommand, key, *_):
            return f"{command[0]} {subcommand}", f" on {key}"
        case ("XREADGROUP", *_):
            return "XREADGROUP", f" on {command[-2]}"
        case ("EVAL" | "EVALSHA", _, _, key, *_):
            return command[0], f" on {key}"
        case ("SCAN" | "TIME" | "ASKING", *_):
            return command[0], ""
        case ("CLUSTER", subcommand):
            return f"CLUSTER {subcommand}", ""
    return command[0], f" on {command[1]}"


CHECKS = (
    Check("What Redis lets the worker do", Area.REDIS, _rights, (RIGHT_MISSING, IS_REPLICA, REFUSES_WRITES)),
)
