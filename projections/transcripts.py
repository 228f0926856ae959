"""Transcripts read from a conversation's log. Nothing here changes anything in Redis.

Both functions take whatever asyncio client an application has, with or without ``decode_responses``, over
RESP2 or RESP3: the reply is asked for as raw bytes, since one entry with binary junk would make a decoding
client fail for all. They read page by page; the connection's errors reach the caller.

An entry is passed over when it has no type or one that no transcript shows, and when its data are missing or
not a JSON object. Text and numbers come as the log has them, also those that PostgreSQL could not store. What
Python's own decoder cannot hold (about a thousand levels, integers of over 4,300 digits) counts as no JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import orjson
from redis.asyncio import Redis
from redis.client import NEVER_DECODE

from projections.messages import THINKING_TYPES, TRANSCRIPT_TYPES, Thinking, Transcript
from worker import EventId, Keys

_KEYS = Keys()

# Entries of token deltas are small, those of plans are not: the next page's size follows from the last one's.
_FIRST_PAGE_ENTRIES = 16
_MAX_PAGE_ENTRIES = 1000
_PAGE_BYTES = 1024 * 1024

_LONG_INTEGER = re.compile(rb"\d{19}")


async def read_stream_messages(redis: Redis, stream_id: str, *, keys: Keys = _KEYS) -> list[dict[str, Any]]:
    """The conversation's messages in order; none for a stream that has no log.

    Lists and calls that several messages show may be shared objects.
    """
    transcript = Transcript()
    async with aclosing(_entries(redis, keys.log(stream_id), TRANSCRIPT_TYPES)) as entries:
        async for entry in entries:
            if (data := _decode_object(entry.data)) is not None:
                transcript.apply(entry.id, entry.type, data)
    return transcript.messages


async def read_stream_thinking(redis: Redis, stream_id: str, *, keys: Keys = _KEYS) -> dict[str, Any] | None:
    """The tool calls that run now, ``{"toolCalls": [payload, ...]}``; None when no turn is going on.

    Reads from the log's end back to the last start or end of a turn, however long the log is.
    """
    thinking = Thinking()
    log = keys.log(stream_id)
    async with aclosing(_entries(redis, log, THINKING_TYPES, newest_first=True)) as entries:
        async for entry in entries:
            data = _decode_object(entry.data)
            if data is not None and thinking.look_back(entry.type, data):
                break
    return thinking.answer


@dataclass(frozen=True, slots=True)
class _Entry:
    """An entry of a type that is wanted; its data are not decoded yet."""

    id: EventId
    type: str
    data: bytes | None


async def _entries(
    redis: Redis, log: str, types: Collection[str], *, newest_first: bool = False
) -> AsyncGenerator[_Entry, None]:
    """The log's entries of some types. Entries that are appended meanwhile may be among them or not."""
    spellings = {event_type.encode(): event_type for event_type in types}
    command, start, end = ("XREVRANGE", "+", "-") if newest_first else ("XRANGE", "-", "+")
    count = _FIRST_PAGE_ENTRIES
    while True:
        page = await _read_page(redis, command, log, start, end, count)
        page_bytes = 0
        for raw_id, fields in page:
            data = fields.get(b"data")
            page_bytes += len(data or b"")
            if event_type := spellings.get(fields.get(b"type", b"")):
                yield _Entry(EventId.parse(raw_id), event_type, data)
        if len(page) < count:
            return
        start = f"({page[-1][0].decode()}"
        count = max(1, min(4 * count, _MAX_PAGE_ENTRIES, _PAGE_BYTES * len(page) // max(1, page_bytes)))


async def _read_page(
    redis: Redis, command: str, log: str, start: str, end: str, count: int
) -> list[tuple[bytes, dict[bytes, bytes]]]:
    """Ids and fields of one page, as bytes whatever the client makes of replies otherwise."""
    execute: Callable[..., Awaitable[Any]] = redis.execute_command
    reply = await execute(command, log.encode(), start, end, "COUNT", count, **{NEVER_DECODE: []})
    return [(_as_bytes(raw_id), _fields(fields)) for raw_id, fields in reply]


def _fields(fields: Any) -> dict[bytes, bytes]:
    """Fields by name. redis-py gives a mapping, or the plain list that the server sends."""
    pairs = fields.items() if isinstance(fields, Mapping) else zip(fields[::2], fields[1::2], strict=True)
    return {_as_bytes(name): _as_bytes(value) for name, value in pairs}


def _as_bytes(value: bytes | str) -> bytes:
    return value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value


def _decode_object(raw: bytes | None) -> dict[str, Any] | None:
    """The JSON object that an entry's data hold, or None."""
    if raw is None:
        return None
    try:
        value = _decode(raw)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _decode(raw: bytes) -> Any:
    # orjson turns integers beyond 64 bits into floats, and refuses NaN, infinities and lone surrogates.
    if not _LONG_INTEGER.search(raw):
        try:
            return orjson.loads(raw)
        except orjson.JSONDecodeError:
            pass
    return json.loads(raw.decode("utf-8"))
