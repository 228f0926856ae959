"""The message by which workers tell, over Redis and after a commit, which streams may have moved.

It only wakes up who waits: whoever misses one finds out by looking.
"""

from __future__ import annotations

from collections.abc import Collection

import orjson

MAX_MESSAGE_BYTES = 32 * 1024


def write_moved(stream_ids: Collection[str]) -> bytes:
    """A JSON array of stream ids; empty, which says that any may have moved, where it would get too long."""
    if sum(map(len, stream_ids)) <= MAX_MESSAGE_BYTES:
        message = orjson.dumps(list(stream_ids))
        if len(message) <= MAX_MESSAGE_BYTES:
            return message
    return b"[]"


def read_moved(message: bytes | str) -> Collection[str] | None:
    """The streams that a message names; None if any may have moved. So it is if the message is nobody's."""
    try:
        stream_ids = orjson.loads(message)
    except orjson.JSONDecodeError:
        return None
    named = isinstance(stream_ids, list) and all(isinstance(stream_id, str) for stream_id in stream_ids)
    return stream_ids if named and stream_ids else None
