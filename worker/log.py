"""Reading and scanning logs. Nothing here writes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from worker.events import Event, UndecodableEvent, field, parse_entry, parse_stream_id
from worker.keys import Keys
from worker.redis_client import pipelined, refused

RawEntry = Sequence[Any]
"""An entry as the server sends it: its id, then its fields ``[name, value, ...]``."""

_MAX_PAGE_ENTRIES = 1_000
_MIN_PAGE_ENTRIES = 2  # The entry to start from, and one more.

# XREVRANGE from the client would send the whole last entry of every log, only to learn its id.
_LAST_IDS = """
local ids = {}
for at, key in ipairs(KEYS) do
  local last = redis.pcall('XREVRANGE', key, '+', '-', 'COUNT', 1)
  ids[at] = not last.err and last[1] and last[1][1] or false
end
return ids
"""
_LAST_IDS_SHA = hashlib.sha1(_LAST_IDS.encode(), usedforsecurity=False).hexdigest()


@dataclass(frozen=True, slots=True)
class PageRequest:
    """A stream and where to begin: an event id, inclusive, or None for the start of its log."""

    stream_id: str
    start: str | None


@dataclass(frozen=True, slots=True)
class Page:
    """Consecutive entries of one log.

    ``first_id`` and ``last_id`` are those of the entries read, of whatever type, and None where there were
    none; ``events`` only those of projected types. ``ended`` says that the page reaches the end of the log
    as it was at the time. ``refusal`` is set, and all else empty, where the key is no stream.
    """

    first_id: str | None
    last_id: str | None
    events: Sequence[Event | UndecodableEvent]
    ended: bool
    refusal: str | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """What `Log.find_projected` says of one log.

    ``news`` is also true where the entry to start from is gone, since then somebody must look closely.
    ``oldest`` is the first such event, where that is known. ``read_to`` is the id up to which the log holds
    nothing to project.
    """

    stream_id: str
    news: bool
    oldest: str | None = None
    read_to: str | None = None


class Log:
    """The logs of one projection: all streams under the key prefix, as events of its types.

    A read is bounded in bytes as well as in entries: the number of entries asked for follows the size of
    those seen lately.
    """

    def __init__(
        self, redis: Redis, keys: Keys, types: Collection[str], *, max_payload_bytes: int, page_bytes: int
    ) -> None:
        self.keys = keys
        self._redis = redis
        self._types = {event_type.encode(): event_type for event_type in types}
        self._max_payload_bytes = max_payload_bytes
        self._page_bytes = page_bytes
        self._entry_bytes = 1_000.0  # A running mean that rises at once and sinks slowly.

    async def read(self, requests: Sequence[PageRequest]) -> list[Page]:
        """One page of each log, in the order of the requests."""
        count = self._page_entries(len(requests))
        replies = await pipelined(
            self._redis,
            [("XRANGE", self.keys.log(r.stream_id), r.start or "-", "+", "COUNT", count) for r in requests],
        )
        return [self._page(reply, count) for reply in replies]

    def _page_entries(self, logs: int) -> int:
        share = self._page_bytes / max(logs, 1)
        return max(_MIN_PAGE_ENTRIES, min(_MAX_PAGE_ENTRIES, int(share / self._entry_bytes)))

    def _page(self, reply: Any, count: int) -> Page:
        if refused(reply):
            return Page(None, None, (), ended=True, refusal=str(reply))
        if not reply:
            return Page(None, None, (), ended=True)
        self._measure(reply)
        events = [
            event
            for raw_id, fields in reply
            if (event := parse_entry(raw_id, fields, self._types, self._max_payload_bytes)) is not None
        ]
        return Page(reply[0][0].decode(), reply[-1][0].decode(), events, ended=len(reply) < count)

    def _measure(self, entries: Sequence[RawEntry]) -> None:
        total = sum(len(part) for _, fields in entries for part in fields)
        mean = total / len(entries) + 50
        self._entry_bytes = max(mean, self._entry_bytes + (mean - self._entry_bytes) / 16)

    async def first_ids(self, stream_ids: Sequence[str]) -> list[str | None]:
        """The id of each log's first entry; None where there is no log, or an empty one."""
        commands = [("XRANGE", self.keys.log(s), "-", "+", "COUNT", 1) for s in stream_ids]
        replies = await pipelined(self._redis, commands)
        return [None if refused(reply) or not reply else reply[0][0].decode() for reply in replies]

    async def last_ids(self, stream_ids: Sequence[str]) -> list[str | None]:
        """The id of each log's last entry; None where there is no log, or an empty one."""
        names = [self.keys.log(stream_id) for stream_id in stream_ids]
        try:
            replies = await self._redis.evalsha(_LAST_IDS_SHA, len(names), *names)
        except NoScriptError:  # The first time, and after every restart of the server.
            await self._redis.script_load(_LAST_IDS)
            replies = await self._redis.evalsha(_LAST_IDS_SHA, len(names), *names)
        return [reply.decode() if reply else None for reply in replies]

    async def find_projected(self, requests: Sequence[PageRequest]) -> list[Finding]:
        """For each log, whether it holds an event of a projected type after ``start``. Nothing is decoded."""
        findings: dict[str, Finding] = {}
        while requests:
            count = self._page_entries(len(requests))
            commands = [
                ("XRANGE", self.keys.log(r.stream_id), r.start or "-", "+", "COUNT", count) for r in requests
            ]
            further: list[PageRequest] = []
            for request, reply in zip(requests, await pipelined(self._redis, commands), strict=True):
                finding = self._find(request, [] if refused(reply) else reply)
                findings[request.stream_id] = finding
                if not finding.news and not refused(reply) and len(reply) == count:
                    further.append(PageRequest(request.stream_id, finding.read_to))
            requests = further
        return list(findings.values())

    def _find(self, request: PageRequest, entries: Sequence[RawEntry]) -> Finding:
        last = entries[-1][0].decode() if entries else request.start
        if request.start is not None:
            if not entries or entries[0][0].decode() != request.start:
                return Finding(request.stream_id, news=True)
            entries = entries[1:]
        for raw_id, fields in entries:
            if field(fields, b"type") in self._types:
                return Finding(request.stream_id, news=True, oldest=raw_id.decode())
        return Finding(request.stream_id, news=False, read_to=last)

    async def scan(self, cursor: int, count: int) -> tuple[int, list[str], int]:
        """One step through all logs: the next cursor (0: done), streams, and how many keys were unusable.

        As with SCAN, a stream may come twice, and one that exists all the time comes at least once.
        """
        pattern = re.sub(r"([*?\[\]\\])", r"\\\1", self.keys.log_prefix) + "*"
        cursor, names = await self._redis.scan(cursor, match=pattern, count=count, _type="stream")
        prefix_bytes = len(self.keys.log_prefix.encode())
        parsed = [parse_stream_id(bytes(name[prefix_bytes:])) for name in names if isinstance(name, bytes)]
        streams = [stream_id for stream_id in parsed if stream_id is not None]
        return int(cursor), streams, len(parsed) - len(streams)
