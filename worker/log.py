"""Reading logs, page by page. Nothing here writes."""

from __future__ import annotations

from asyncio import Future, shield
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from redis.asyncio import Redis

from worker.events import (
    UNPROJECTED,
    UNTYPED,
    AnyEvent,
    EventTypes,
    OtherEntry,
    SkippedEvent,
    parse_entry,
    type_field,
)
from worker.extent import Extent, read_extents
from worker.keys import Keys
from worker.log_servers import log_servers
from worker.overlap import Turns
from worker.redis_client import refused
from worker.stream_glob import ALL_STREAMS, StreamGlob
from worker.traceparent import Traceparents

RawEntry = Sequence[Any]
"""An entry as the server sends it: its id, then its fields ``[name, value, ...]``."""

MAX_PAYLOAD_MEGABYTES: Final = 16
PAGE_MEGABYTES: Final = 32
"""What is usual; deployments may set it otherwise."""

_FIRST_ENTRIES = 8
_MIN_ENTRIES = 2  # The entry to start from, and one more.
_MAX_ENTRIES = 4_000
_ENTRY_BYTES_AT_FIRST = 16_000.0
_ENTRY_OVERHEAD_BYTES = 50


@dataclass(frozen=True, slots=True)
class PageRequest:
    """A stream and where to begin: an event id, inclusive, or None for the start of its log."""

    stream_id: str
    start: str | None


@dataclass(frozen=True, slots=True)
class ReadTerms:
    """What a read keeps to: no more than a ``share`` of the bytes that may be read at a time, and no payload
    is decoded until ``before_decoding`` is done.
    """

    share: float = 1
    before_decoding: Future[None] | None = None

    async def may_decode(self) -> None:
        """Wait until payloads may be decoded; what ``before_decoding`` raises is raised."""
        if self.before_decoding:
            await shield(self.before_decoding)  # Others wait for it, too.


_UNBOUND: Final = ReadTerms()


@dataclass(frozen=True, slots=True)
class Page:
    """Consecutive entries of one log.

    ``first_id`` and ``last_id`` are those of the entries read, of whatever type, and None where there were
    none; ``events`` only those of projected types, without the entry to start from, which is known already.
    ``ended`` says that the page reaches the end of the log as it was at the time. ``refusal`` is set, and all
    else empty, where the key is no stream. ``untyped`` counts entries whose type is missing or not UTF-8,
    ``mended`` values of the events that could not be stored as they were.
    """

    first_id: str | None
    last_id: str | None
    events: Sequence[AnyEvent]
    ended: bool
    refusal: str | None = None
    untyped: int = 0
    mended: int = 0

    def up_to_first_event(self) -> Page:
        """The page without what follows its first event."""
        if len(self.events) <= 1:
            return self
        first = self.events[0]
        mended = 0 if isinstance(first, SkippedEvent) else first.mended
        return replace(self, last_id=str(first.id), events=(first,), ended=False, mended=mended)


@dataclass(frozen=True, slots=True)
class Finding:
    """What `Log.find_projected` says of one log.

    ``news`` is also true where the entry to start from is gone, since then somebody must look closely.
    ``oldest`` is the first such event, where that is known. ``read_to`` is the id up to which the log holds
    nothing to project; ``untyped`` is how many entries up to there have no type.
    """

    stream_id: str
    news: bool
    oldest: str | None = None
    read_to: str | None = None
    untyped: int = 0


@dataclass(frozen=True, slots=True)
class Counted:
    """How many events of projected types a page of a log holds, and the first of them; else as `Page`."""

    events: int
    oldest: str | None
    last_id: str | None
    ended: bool


@dataclass(frozen=True, slots=True)
class _RawPage:
    """Consecutive entries as the server sent them, and about how many bytes one of them takes."""

    entries: Sequence[RawEntry]
    ended: bool
    mean: float = 0.0
    refusal: str | None = None


class Log:
    """The logs of one projection: its streams under the key prefix, as events of its types.

    Only scanning heeds ``streams``; who names a stream must know whether the projection takes it.

    ``redis`` is the client of the feed, which knows where the logs are. Redis bounds a read in entries only.
    Here it is bounded in bytes, by the size of the entries seen before. ``traceparents``, if any, gets to
    know those of projected entries that are read.
    """

    def __init__(
        self, redis: Redis, keys: Keys, types: Collection[str], *, max_payload_bytes: int, page_bytes: int,
        streams: StreamGlob = ALL_STREAMS, traceparents: Traceparents | None = None,
    ) -> None:  # fmt: skip
        self.keys = keys
        self.redis = redis
        self._servers = log_servers(redis)
        self._types = EventTypes(types)
        self._max_payload_bytes = max_payload_bytes
        self._page_bytes = page_bytes
        self._entry_bytes = _ENTRY_BYTES_AT_FIRST
        self.streams = streams
        self._traceparents = traceparents

    async def read(self, requests: Sequence[PageRequest], terms: ReadTerms = _UNBOUND) -> list[Page]:
        """One page of each log, in order, all of them on these terms."""
        pages: list[Page] = []
        raw_pages = await self._read(requests, terms.share)
        await terms.may_decode()
        turns = Turns()
        for request, raw in zip(requests, raw_pages, strict=True):
            pages.append(self._page(request.start, raw))
            await turns.take()
        return pages

    def _page(self, start: str | None, raw: _RawPage) -> Page:
        if not raw.entries:
            return Page(None, None, (), ended=True, refusal=raw.refusal)
        known = start is not None and raw.entries[0][0] == start.encode()
        events: list[AnyEvent] = []
        untyped = mended = 0
        types, max_payload_bytes = self._types, self._max_payload_bytes
        for raw_id, fields in raw.entries[known:] if known else raw.entries:
            event_type = types[type_field(fields)]
            if event_type is UNPROJECTED:
                continue
            if event_type is UNTYPED:
                untyped += 1
                continue
            event = parse_entry(raw_id, event_type, fields, max_payload_bytes)
            mended += event.mended
            events.append(event)
        if self._traceparents is not None:
            self._note_traceparents(raw.entries[known:], self._traceparents)
        first_id, last_id = raw.entries[0][0].decode(), raw.entries[-1][0].decode()
        return Page(first_id, last_id, events, ended=raw.ended, untyped=untyped, mended=mended)

    def _note_traceparents(self, entries: Sequence[RawEntry], traceparents: Traceparents) -> None:
        """Apart from the reading itself, which is as fast for who exports no traces."""
        for _, fields in entries:
            if len(fields) > 6 and not isinstance(self._types[type_field(fields)], OtherEntry):
                traceparents.note(fields)

    async def _read(self, requests: Sequence[PageRequest], share: float = 1) -> list[_RawPage]:
        """Entries of each log, all together about a ``share`` of ``page_bytes`` at most.

        A few entries of each come first. They tell how large a log's entries are, and so how many more of
        them there is room for, if it goes on.
        """
        pages = await self._read_beginnings(requests)
        longer = [at for at, page in enumerate(pages) if not page.ended]
        already = sum(page.mean * len(page.entries) for page in pages)
        room = (share * self._page_bytes - already) / max(len(longer), 1)
        counts = [min(_MAX_ENTRIES, int(room / pages[at].mean)) for at in longer]
        going_on = {at: count for at, count in zip(longer, counts, strict=True) if count > 1}
        # Again from the last entry on, which shows that the log is still the same.
        ranges = [(requests[at].stream_id, pages[at].entries[-1][0]) for at in going_on]
        for at, rest in zip(going_on, await self._read_entries(ranges, *going_on.values()), strict=True):
            if rest.entries and rest.entries[0][0] == pages[at].entries[-1][0]:
                entries = [*pages[at].entries, *rest.entries[1:]]
                pages[at] = _RawPage(entries, rest.ended, pages[at].mean)
        return pages

    async def _read_beginnings(self, requests: Sequence[PageRequest]) -> list[_RawPage]:
        """The first few entries of each log."""
        pages: list[_RawPage] = []
        waiting = list(requests)
        while waiting:
            count = max(
                _MIN_ENTRIES, min(_FIRST_ENTRIES, int(self._page_bytes / len(waiting) / self._entry_bytes))
            )
            at_once = max(1, int(self._page_bytes / count / self._entry_bytes))
            pages += await self._read_entries(
                [(r.stream_id, r.start or "-") for r in waiting[:at_once]], count
            )
            del waiting[:at_once]
        return pages

    async def _read_entries(self, ranges: Sequence[tuple[str, str | bytes]], *counts: int) -> list[_RawPage]:
        """Up to ``counts`` entries of each log, from an id on; one count serves for all."""
        each = counts if len(counts) == len(ranges) else counts * len(ranges)
        commands = [
            (log := self.keys.log(stream_id), ("XRANGE", log, start, "+", "COUNT", count))
            for (stream_id, start), count in zip(ranges, each, strict=True)
        ]
        pages: list[_RawPage] = []
        for reply, count in zip(await self._servers.ask(commands), each, strict=True):
            if _is_no_stream(reply):
                pages.append(_RawPage((), ended=True, refusal=str(reply)))
                continue
            mean = _mean_bytes(reply)
            pages.append(_RawPage(reply, len(reply) < count, mean))
            if reply:  # A running mean that rises at once and sinks slowly.
                self._entry_bytes = max(mean, self._entry_bytes + (mean - self._entry_bytes) / 16)
        return pages

    async def entry(self, stream_id: str, event_id: str) -> Sequence[bytes] | None:
        """The fields of one entry as they stand in the log; None where there is no such entry or no log."""
        log = self.keys.log(stream_id)
        [reply] = await self._servers.ask([(log, ("XRANGE", log, event_id, event_id))])
        return None if _is_no_stream(reply) or not reply else reply[0][1]

    async def extents(self, stream_ids: Mapping[str, str | None]) -> dict[str, Extent]:
        """The extent of each log; for each stream, the id of an entry to look for, or None."""
        found = await read_extents(
            self._servers, [(self.keys.log(s), wanted) for s, wanted in stream_ids.items()]
        )
        return dict(zip(stream_ids, found, strict=True))

    async def count_projected(self, request: PageRequest) -> Counted:
        """How much one page of a log holds to be projected. Nothing is decoded."""
        [raw] = await self._read([request])
        if not raw.entries:
            return Counted(0, None, None, ended=True)
        known = request.start is not None and raw.entries[0][0] == request.start.encode()
        projected = [
            raw_id
            for raw_id, fields in raw.entries[known:]
            if not isinstance(self._types[type_field(fields)], OtherEntry)
        ]
        oldest = projected[0].decode() if projected else None
        return Counted(len(projected), oldest, raw.entries[-1][0].decode(), ended=raw.ended)

    async def find_projected(self, requests: Sequence[PageRequest]) -> list[Finding]:
        """For each log, whether it holds an event of a projected type after ``start``. Nothing is decoded.

        Most logs that hold one hold it near the beginning, so only the rest are read in large pages.
        """
        findings: dict[str, Finding] = {}
        read = self._read_beginnings
        while requests:
            further: list[PageRequest] = []
            for request, page in zip(requests, await read(requests), strict=True):
                before = findings.get(request.stream_id)
                finding = self._find(request, page.entries, untyped=before.untyped if before else 0)
                findings[request.stream_id] = finding
                if not finding.news and not page.ended:
                    further.append(PageRequest(request.stream_id, finding.read_to))
            requests, read = further, self._read
        return list(findings.values())

    def _find(self, request: PageRequest, entries: Sequence[RawEntry], untyped: int) -> Finding:
        last = entries[-1][0].decode() if entries else request.start
        if request.start is not None:
            if not entries or entries[0][0].decode() != request.start:
                return Finding(request.stream_id, news=True)
            entries = entries[1:]
        for raw_id, fields in entries:
            event_type = self._types[type_field(fields)]
            if not isinstance(event_type, OtherEntry):
                return Finding(request.stream_id, news=True, oldest=raw_id.decode())
            untyped += event_type is UNTYPED
        return Finding(request.stream_id, news=False, read_to=last, untyped=untyped)


def _is_no_stream(reply: Any) -> bool:
    """Whether a key holds something else than a stream; any other refusal is the server's and is raised."""
    if not refused(reply):
        return False
    if str(reply).startswith("WRONGTYPE"):
        return True
    raise reply


def _mean_bytes(entries: Sequence[RawEntry]) -> float:
    """About how many bytes an entry takes, by the first few of them."""
    some = entries[:_FIRST_ENTRIES]
    total = sum([sum(map(len, fields)) for _, fields in some])
    return total / len(some) + _ENTRY_OVERHEAD_BYTES if some else 0.0
