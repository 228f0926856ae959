"""The Redis server: whether it keeps what it is given."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from worker.check.everywhere import everywhere
from worker.check.finding import NOT_TOLD, Area, Check, Deployment, Finding, Kind, Severity
from worker.trouble import SERVER_ERRORS, sentence

_FLOOR, _TELLS_ALL = (6, 2), (7, 0)
_NEARLY_FULL = 0.9

UNREACHABLE = Kind(
    "redis-unreachable",
    Severity.ERROR,
    "Without Redis nothing is projected, and nothing else of it could be checked.",
    "Start Redis, or mend REDIS_URL and the network on the way.",
)
TOO_OLD = Kind(
    "redis-too-old",
    Severity.ERROR,
    "The worker uses commands that came with Redis 6.2.",
    "Upgrade Redis to 6.2 or later.",
)
TELLS_LESS = Kind(
    "redis-tells-less",
    Severity.INFO,
    "Before Redis 7.0 waiting hints are counted up to 10,000 a partition only, hints that the cap dropped "
    "unread are left to the next sweep, and a log that was trimmed cannot be told from one begun anew.",
    "Upgrade Redis to 7.0 or later when there is an occasion.",
)
KEEPS_NOTHING = Kind(
    "redis-keeps-nothing",
    Severity.WARNING,
    "The logs are the truth, and a restart of Redis loses all of them.",
    "Set appendonly to yes, and appendfsync to everysec or always.",
)
SNAPSHOTS_ONLY = Kind(
    "redis-snapshots-only",
    Severity.WARNING,
    "A crash loses all events since the last snapshot, and streams whose rows are further are diverged.",
    "Set appendonly to yes, and appendfsync to everysec or always.",
)
LEAVES_IT_TO_THE_SYSTEM = Kind(
    "redis-appendfsync-no",
    Severity.WARNING,
    "A crash of the host loses what the system has not written, about half a minute, and streams whose rows "
    "are further are diverged.",
    "Set appendfsync to everysec or always.",
)
LOSES_A_SECOND = Kind(
    "redis-appendfsync-everysec",
    Severity.INFO,
    "A crash of the host loses up to a second of events, and streams whose rows are further are diverged.",
    "Set appendfsync to always if that must not be.",
)
LAST_SAVE_FAILED = Kind(
    "redis-save-failed",
    Severity.ERROR,
    "What came since then is in memory only, and Redis may refuse writes until it can save again.",
    "See Redis's own log, as a rule for a full disk or a missing right, and mend that.",
)
EVICTS = Kind(
    "redis-evicts",
    Severity.ERROR,
    "A full Redis then throws away whole logs, and with them events for ever.",
    "Set maxmemory-policy to noeviction.",
)
MAY_EVICT = Kind(
    "redis-may-evict",
    Severity.WARNING,
    "A full Redis then throws away keys that expire, or, once maxmemory is set, any: logs may be among them.",
    "Set maxmemory-policy to noeviction.",
)
NEARLY_FULL = Kind(
    "redis-nearly-full",
    Severity.WARNING,
    "A full Redis takes no more events, or throws logs away.",
    "Raise maxmemory, or trim and delete logs that nobody needs.",
)


async def _reach(of: Deployment) -> Sequence[Finding]:
    try:
        await of.redis.ping()
    except SERVER_ERRORS as error:
        return [UNREACHABLE.found(f"Redis does not answer as it should: {sentence(error)}")]
    return []


async def _version(redis: Redis) -> Sequence[Finding]:
    version = str((await redis.info("server"))["redis_version"])
    numbers = tuple(int(part) for part in version.split(".")[:2])
    if numbers < _FLOOR:
        return [TOO_OLD.found(f"Redis is of version {version}.")]
    return [TELLS_LESS.found(f"Redis is of version {version}.")] if numbers < _TELLS_ALL else []


async def _persistence(redis: Redis) -> Sequence[Finding]:
    info = await redis.info("persistence")
    findings = [
        LAST_SAVE_FAILED.found(f"The last {what} failed.")
        for field, what in (
            ("rdb_last_bgsave_status", "snapshot"),
            ("aof_last_write_status", "write to the append-only file"),
            ("aof_last_bgrewrite_status", "rewrite of the append-only file"),
        )
        if info.get(field, "ok") != "ok"
    ]
    if info["aof_enabled"]:
        policy = await _setting(redis, "appendfsync")
        kind = {None: NOT_TOLD, "no": LEAVES_IT_TO_THE_SYSTEM, "everysec": LOSES_A_SECOND}.get(policy)
        return [*findings, kind.found(f"appendfsync is {policy or 'not told'}.")] if kind else findings
    snapshots = await _setting(redis, "save")
    if snapshots is None:
        return [*findings, NOT_TOLD.found("Redis has no append-only file, and hides whether it saves.")]
    if snapshots:
        return [*findings, SNAPSHOTS_ONLY.found(f"There are only snapshots, by the rule {snapshots!r}.")]
    return [*findings, KEEPS_NOTHING.found("Redis has neither an append-only file nor snapshots.")]


async def _setting(redis: Redis, name: str) -> str | None:
    """A setting of the server; None where it does not tell, as those that others run for you."""
    try:
        return str((await redis.config_get(name))[name])
    except (ResponseError, KeyError):
        return None


async def _memory(redis: Redis) -> Sequence[Finding]:
    info = await redis.info("memory")
    policy, limit, used = info["maxmemory_policy"], int(info["maxmemory"]), int(info["used_memory"])
    findings = []
    if policy != "noeviction":
        kind = EVICTS if limit and policy.startswith("allkeys") else MAY_EVICT
        findings.append(kind.found(f"maxmemory-policy is {policy}, maxmemory {_megabytes(limit)}."))
    if limit and used > _NEARLY_FULL * limit:
        findings.append(NEARLY_FULL.found(f"{_megabytes(used)} of {_megabytes(limit)} are in use."))
    return findings


def _megabytes(count: int) -> str:
    return f"{count / 1024 / 1024:,.0f} MiB" if count else "without limit"


CHECKS = (
    Check("Redis answers", Area.REDIS, _reach, (UNREACHABLE,), gate=True),
    Check("Redis's version", Area.REDIS, partial(everywhere, look=_version), (TOO_OLD, TELLS_LESS)),
    Check(
        "Redis's persistence",
        Area.REDIS,
        partial(everywhere, look=_persistence),
        (KEEPS_NOTHING, SNAPSHOTS_ONLY, LEAVES_IT_TO_THE_SYSTEM, LOSES_A_SECOND, LAST_SAVE_FAILED),
    ),
    Check("Redis's memory", Area.REDIS, partial(everywhere, look=_memory), (EVICTS, MAY_EVICT, NEARLY_FULL)),
)
