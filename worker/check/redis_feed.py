"""What stands in Redis: the feed and who reads it, and a look at the keys of logs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

from redis.exceptions import NoPermissionError, ResponseError

from worker.check.finding import Area, Check, Deployment, Finding, Kind, Severity
from worker.events import parse_stream_id
from worker.feed_backlog import feed_backlog
from worker.log_scan import NO_STREAM, LogScan
from worker.projection import Projection
from worker.redis_client import pairs, pipelined, refused

_NEARLY_FULL = 0.9
_BEHIND_SECONDS = 60.0
_ABANDONED_MS = 60_000
_TOLD_AT_MOST = 5
_SCAN_STEPS, _SCAN_KEYS = 20, 500

PARTITIONS_DIFFER = Kind(
    "feed-partitions-differ",
    Severity.ERROR,
    "A worker with another number than the deployment's refuses to run, and a producer's hints go astray.",
    "Set WORKER_FEED_PARTITIONS to the deployment's number, for producers too.",
)
KEY_UNUSABLE = Kind(
    "feed-key-unusable",
    Severity.ERROR,
    "Hints cannot be written there, and events wait for the sweep.",
    "Delete the key.",
)
NEAR_CAP = Kind(
    "feed-near-cap",
    Severity.WARNING,
    "At its cap the feed drops its oldest hints, and what they told waits for the sweep.",
    "Start more workers, or see why those that run do not get on; then raise WORKER_FEED_MAX_LENGTH.",
)
BEHIND = Kind(
    "group-behind",
    Severity.WARNING,
    "Rows are that much older than their logs.",
    "See with `projection-worker status` whether replicas are alive and ready, and start more.",
)
ABANDONED = Kind(
    "hints-abandoned",
    Severity.WARNING,
    "Live replicas take over such hints within seconds, so there is none that could.",
    "Start a worker of this projection, or delete the group (XGROUP DESTROY) if there is to be none.",
)
LOG_KEYS_UNUSABLE = Kind(
    "log-keys-unusable",
    Severity.WARNING,
    "Such keys can never be projected.",
    "See who makes them, and give these or the logs another prefix.",
)


async def _partitions(of: Deployment) -> Sequence[Finding]:
    keys, ours = of.keys, of.keys.partitions
    try:
        stored = await of.redis.get(keys.feed_partitions)
    except ResponseError as error:
        if not str(error).startswith("WRONGTYPE"):
            raise
        remedy = f"Delete {keys.feed_partitions}; the next worker that starts makes it again."
        return [PARTITIONS_DIFFER.found(f"Key {keys.feed_partitions} holds no number.", remedy)]
    if stored is None:  # The first worker that starts fixes the number.
        return []
    if not stored.isdigit():
        remedy = f"Set {keys.feed_partitions} to the deployment's number."
        return [PARTITIONS_DIFFER.found(f"Key {keys.feed_partitions} holds no number.", remedy)]
    if int(stored) == ours:
        return []
    remedy = f"Set WORKER_FEED_PARTITIONS={int(stored)}."
    return [
        PARTITIONS_DIFFER.found(f"The deployment reads {int(stored)} partitions, not {ours} as here.", remedy)
    ]


async def _lengths(of: Deployment) -> Sequence[Finding]:
    keys, findings = of.keys, []
    names = [keys.feed(partition) for partition in range(keys.partitions)]
    # Not XLEN, to which the worker has no right.
    replies = await pipelined(of.redis, [("XINFO STREAM", name) for name in names])
    for name, reply in zip(names, replies, strict=True):
        if refused(reply):
            if str(reply).startswith("WRONGTYPE"):
                findings.append(KEY_UNUSABLE.found(f"Key {name} is no stream."))
            elif isinstance(reply, NoPermissionError):
                raise reply
            continue  # There are no hints yet.
        length = reply["length"]
        if length > _NEARLY_FULL * keys.feed_max_length:
            cap = f"WORKER_FEED_MAX_LENGTH is {keys.feed_max_length:,}"
            findings.append(NEAR_CAP.found(f"Key {name} holds {length:,} hints, and {cap}."))
    return findings


async def _groups(of: Deployment) -> Sequence[Finding]:
    findings = []
    for projection in of.projections:
        backlog = await feed_backlog(of.redis, of.keys, projection.name)
        if backlog.oldest_seconds > _BEHIND_SECONDS:
            hints = f"{backlog.waiting or 0:,} hints wait and {backlog.pending:,} are pending"
            oldest = f"the oldest for {backlog.oldest_seconds:,.0f} s"
            findings.append(BEHIND.found(f"Projection {projection.name}: {hints}, {oldest}."))
        findings += await _abandoned(of, projection)
    return findings


async def _abandoned(of: Deployment, projection: Projection) -> list[Finding]:
    """Hints that dead replicas took, and nobody took over."""
    keys, group = of.keys, projection.name
    seconds, microseconds = await of.redis.time()
    live = await of.redis.execute_command("ZRANGE", keys.live_replicas(group), 0, -1, "WITHSCORES")
    now_ms = seconds * 1000 + microseconds // 1000
    alive = {name for name, expires in _scores(live) if abs(expires) > now_ms}
    names = [keys.feed(partition) for partition in range(keys.partitions)]
    asked = [("XINFO", "CONSUMERS", name, group) for name in names]
    dead = [
        (name, info[b"name"])
        for name, reply in zip(names, await pipelined(of.redis, asked), strict=True)
        if not refused(reply)  # There is no such group, or no such key.
        for info in (dict(pairs(consumer)) for consumer in reply)
        if info[b"pending"] and info[b"name"] not in alive
    ]
    commands = [("XPENDING", n, group, "IDLE", _ABANDONED_MS, "-", "+", 1, consumer) for n, consumer in dead]
    replies = await pipelined(of.redis, commands)
    left = {
        consumer for (_, consumer), reply in zip(dead, replies, strict=True) if reply and not refused(reply)
    }
    return [
        ABANDONED.found(
            f"Projection {group}: replica {consumer.decode(errors='replace')} is gone, and hints that it "
            "took are pending still."
        )
        for consumer in sorted(left)[:_TOLD_AT_MOST]
    ]


def _scores(reply: Any) -> list[tuple[bytes, float]]:
    """Members of a sorted set with their scores, in either protocol."""
    return [(member, float(score)) for member, score in pairs(reply)]


async def _log_keys(of: Deployment) -> Sequence[Finding]:
    findings: dict[str, Finding] = {}
    for projection in of.projections:
        keys = projection.keys(of.keys)
        if keys.log_prefix in findings:
            continue
        seen, unusable, steps = 0, [], 0
        async with aclosing(LogScan(of.redis, keys).scan_ends(_SCAN_KEYS)) as sample:
            async for ends in sample:
                seen, steps = seen + len(ends), steps + 1
                unusable += [n for n, end in ends.items() if _is_unusable(n, end)]
                if steps == _SCAN_STEPS:
                    break
        if unusable:
            example = repr(unusable[0][:100])[1:]
            findings[keys.log_prefix] = LOG_KEYS_UNUSABLE.found(
                f"Of {seen:,} keys that begin with {keys.log_prefix}, {len(unusable):,} are no streams or "
                f"have names that cannot be a row's, for example {example}."
            )
    return list(findings.values())


def _is_unusable(name: bytes, end: bytes) -> bool:
    return end == NO_STREAM.encode() or parse_stream_id(name) is None


CHECKS = (
    Check("The number of feed partitions", Area.REDIS, _partitions, (PARTITIONS_DIFFER,)),
    Check("The length of the feed", Area.REDIS, _lengths, (KEY_UNUSABLE, NEAR_CAP)),
    Check("The groups on the feed", Area.REDIS, _groups, (BEHIND, ABANDONED)),
    Check("A sample of the keys of logs", Area.REDIS, _log_keys, (LOG_KEYS_UNUSABLE,)),
)
