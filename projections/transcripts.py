"""Transcripts read from a conversation's log. Nothing here changes anything in Redis.

Both functions take whatever asyncio client an application has, with or without ``decode_responses``, over
RESP2 or RESP3: the reply is asked for as raw bytes, since one entry with binary junk would make a decoding
client fail for all. They read page by page; the connection's errors reach the caller.

An entry is passed over when it has no type or one that no transcript shows, and when its data are missing or
not a JSON object. Text and numbers come as the log has them, also those that PostgreSQL could not store. What
Python's own decoder cannot hold (about a thousand levels, integers of over 4,300 digits) counts as no JSON.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Coroutine,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager
from itertools import chain
from typing import Any

import orjson
from redis.asyncio import Redis
from redis.client import NEVER_DECODE

from projections.messages import THINKING_TYPES, TRANSCRIPT_TYPES, Thinking, Transcript
from projections.turn import JsonObject
from worker import AnyRedis, Keys

_KEYS = Keys()

# Entries of token deltas are small, those of plans are not: the next page's size follows from the last one's.
_FIRST_PAGE_ENTRIES = 16
_MAX_PAGE_ENTRIES = 1000
_GROWTH = 16
_PAGE_BYTES = 1024 * 1024

_EVENTS_IN_A_ROW = 64

_LONG_INTEGER = b"0" * 19
_AS_ZEROS = bytes(ord("0") if byte in b"0123456789" else 0 for byte in range(256))

_SentEntry = tuple[bytes, list[bytes]]
"""Id and fields, ``[name, value, name, value, ...]``."""

_Page = list[tuple[bytes, str, bytes]]
"""Id, type and data of entries whose types are wanted; the data are not decoded yet."""


async def read_stream_messages(
    redis: AnyRedis, stream_id: str, *, keys: Keys = _KEYS
) -> list[dict[str, Any]]:
    """The conversation's messages in order; none for a stream that has no log.

    Lists and calls that several messages show may be shared objects.
    """
    transcript = Transcript()
    log = _Log(redis, keys.log(stream_id), TRANSCRIPT_TYPES)
    page = await log.next_page()
    while page is not None:
        async with _under_way(log.next_page()) as following:
            for start in range(0, len(page), _EVENTS_IN_A_ROW):
                await asyncio.sleep(0)  # Others have their turns, and so has what is under way.
                for event in _decode_objects(page[start : start + _EVENTS_IN_A_ROW]):
                    transcript.apply(*event)
            page = await following
    return transcript.messages


async def read_stream_thinking(
    redis: AnyRedis, stream_id: str, *, keys: Keys = _KEYS
) -> dict[str, Any] | None:
    """The tool calls that run now, ``{"toolCalls": [payload, ...]}``; None when no turn is going on.

    Reads from the log's end back to the last start or end of a turn, however long the log is.
    """
    thinking = Thinking()
    log = _Log(redis, keys.log(stream_id), THINKING_TYPES, newest_first=True)
    while (page := await log.next_page()) is not None:
        for _, event_type, data in _decode_objects(page):
            if thinking.look_back(event_type, data):
                return thinking.answer
    return thinking.answer


@asynccontextmanager
async def _under_way(reading: Coroutine[Any, Any, _Page | None]) -> AsyncIterator[asyncio.Task[_Page | None]]:
    """A page that comes while there is something else to do."""
    task = asyncio.create_task(reading)
    try:
        yield task
    finally:
        task.cancel()


class _Log:
    """Reads a log page by page. Entries that are appended meanwhile may be among them or not."""

    def __init__(
        self, redis: AnyRedis, log: str, types: Collection[str], *, newest_first: bool = False
    ) -> None:
        self._execute: Callable[..., Awaitable[Any]] = redis.execute_command
        self._log = log.encode()
        command, self._start, self._end = ("XREVRANGE", "+", "-") if newest_first else ("XRANGE", "-", "+")
        # redis-py makes a mapping of every entry, which takes longer than all that happens to it here, unless
        # it does not know the command. Its client of clusters, for one, must know it, to find the node.
        client: object = redis
        self._command = command.encode() if isinstance(client, Redis) else command
        self._types = {event_type.encode(): event_type for event_type in types}
        self._count = _FIRST_PAGE_ENTRIES

    async def next_page(self) -> _Page | None:
        """The entries of the next page whose types are wanted; None after the last page."""
        asked = self._count
        if asked == 0:
            return None
        command = (self._command, self._log, self._start, self._end, "COUNT", asked)
        page = _as_sent(await self._execute(*command, **{NEVER_DECODE: []}))
        wanted, page_bytes = self._choose(page)
        if len(page) < asked:
            self._count = 0
        else:
            self._start = f"({page[-1][0].decode()}"
            room = _PAGE_BYTES * len(page) // max(1, page_bytes)
            self._count = max(1, min(_GROWTH * asked, _MAX_PAGE_ENTRIES, room))
        return wanted

    def _choose(self, page: Sequence[_SentEntry]) -> tuple[_Page, int]:
        """The entries whose types are wanted, and the size of all data. Nothing is decoded."""
        types = self._types
        wanted: _Page = []
        size = 0
        for event_id, fields in page:
            match fields:
                case [_, _, b"type", spelled, b"data", data]:  # as nearly every entry was written
                    pass
                case _:
                    named = dict(zip(fields[::2], fields[1::2], strict=True))
                    spelled, data = named.get(b"type", b""), named.get(b"data", b"")
            size += len(data)
            if spelled in types:
                wanted.append((event_id, types[spelled], data))
        return wanted, size


def _as_sent(page: Sequence[Any]) -> Sequence[_SentEntry]:
    """Entries as the server sends them, whatever the client has made of them."""
    if not page or (isinstance(page[0][1], list) and isinstance(page[0][0], bytes)):
        return page
    return [(_as_bytes(event_id), _flat(fields)) for event_id, fields in page]


def _flat(fields: Any) -> list[bytes]:
    parts = chain.from_iterable(fields.items()) if isinstance(fields, Mapping) else fields
    return [_as_bytes(part) for part in parts]


def _as_bytes(value: bytes | str) -> bytes:
    return value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value


def _decode_objects(page: _Page) -> Iterator[tuple[bytes, str, JsonObject]]:
    """The page's entries whose data hold a JSON object, decoded one by one as they are asked for."""
    # One look at the whole page is cheaper than one at each entry, and nearly always enough.
    suspicious = _has_long_integer(b" ".join([raw for _, _, raw in page]))
    for event_id, event_type, raw in page:
        if suspicious and _has_long_integer(raw):
            value = _decode_with_care(raw)
        else:
            try:
                value = orjson.loads(raw)
            except orjson.JSONDecodeError:
                value = _decode_with_care(raw)
        if isinstance(value, dict):
            yield event_id, event_type, value


def _has_long_integer(raw: bytes) -> bool:
    """Whether so many digits stand in a row that orjson might make a float of an integer."""
    # If so, every fourth byte shows four of them in a row: most text needs no second look.
    if raw[3::4].translate(_AS_ZEROS).find(b"0000") < 0:
        return False
    return raw.translate(_AS_ZEROS).find(_LONG_INTEGER) >= 0


def _decode_with_care(raw: bytes) -> Any:
    # orjson turns integers beyond 64 bits into floats, and refuses NaN, infinities and lone surrogates.
    try:
        return json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
