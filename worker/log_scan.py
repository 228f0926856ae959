"""Looking over all logs, without reading them: which there are, and where they end. Nothing here writes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Final

from redis.asyncio import Redis

from worker.events import parse_stream_id
from worker.keys import Keys
from worker.redis_client import Script
from worker.stream_glob import ALL_STREAMS, StreamGlob

NO_STREAM: Final = "no stream"
"""In place of an event id: the key holds something else."""

_SCAN_KEYS = 500

# XREVRANGE from the client would send the whole last entry of every log, only to learn its id.
#
# Empty where there is none. ARGV: what to say of a key that holds something else.
_LAST_IDS = Script("""
local ids = {}
for at, key in ipairs(KEYS) do
  local last = redis.pcall('XREVRANGE', key, '+', '-', 'COUNT', 1)
  if last.err and string.sub(last.err, 1, 9) ~= 'WRONGTYPE' then return last end
  ids[at] = last.err and ARGV[1] or last[1] and last[1][1] or ''
end
return ids
""")


# One step of SCAN with the last id of each log, one after the other, as above.
#
# ARGV: cursor, pattern, how many keys, how long their prefix is, what to say of a key that is no stream.
_SCAN_ENDS = Script("""
local step = redis.call('SCAN', ARGV[1], 'MATCH', ARGV[2], 'COUNT', ARGV[3])
local found = {step[1]}
for _, key in ipairs(step[2]) do
  local last = redis.pcall('XREVRANGE', key, '+', '-', 'COUNT', 1)
  if last.err and string.sub(last.err, 1, 9) ~= 'WRONGTYPE' then return last end
  found[#found + 1] = string.sub(key, ARGV[4] + 1)
  found[#found + 1] = last.err and ARGV[5] or last[1] and last[1][1] or ''
end
return found
""")


class LogScan:
    """All logs under a key prefix whose streams a projection takes, whatever is in them."""

    def __init__(self, redis: Redis, keys: Keys, streams: StreamGlob = ALL_STREAMS) -> None:
        self._redis = redis
        self._keys = keys
        self._prefix_bytes = len(keys.log_prefix.encode())
        self._streams = streams
        self._pattern = streams.redis_pattern(keys.log_prefix)

    async def all_streams(self) -> AsyncGenerator[list[str], None]:
        """The streams of all keys of logs, step by step, as `scan` finds them; one may come twice."""
        cursor, done = 0, False
        while not done:
            cursor, stream_ids, _ = await self.scan(cursor, _SCAN_KEYS)
            done = cursor == 0
            yield stream_ids

    async def scan(self, cursor: int, count: int) -> tuple[int, list[str], list[bytes]]:
        """One step through all keys of logs: the next cursor (0: done), stream ids, and keys that spell none.

        Keys that hold something else than a stream are among them; `last_ids` tells. As with SCAN, a key may
        come twice, and one that exists all the time comes at least once.
        """
        cursor, names = await self._redis.scan(cursor, match=self._pattern, count=count)
        streams: list[str] = []
        unusable: list[bytes] = []
        for name in names:
            assert isinstance(name, bytes)
            stream_id = parse_stream_id(name[self._prefix_bytes :])
            if stream_id is None:
                unusable.append(name)
            elif self._streams.covers(stream_id):
                streams.append(stream_id)
        return int(cursor), streams, unusable

    async def scan_ends(self, cursor: int, count: int) -> tuple[int, dict[bytes, bytes]]:
        """One step through all keys of logs as the server sends it: the next cursor, and what follows the
        prefix in the name of each key, with the id of its last entry: empty where there is none, NO_STREAM
        where the key holds something else."""
        arguments = [cursor, self._pattern, count, self._prefix_bytes, NO_STREAM]
        cursor, *found = await _SCAN_ENDS(self._redis, [], arguments)
        ends = zip(found[::2], found[1::2], strict=True)
        return int(cursor), {raw: end for raw, end in ends if self._streams.covers_raw(raw)}

    async def last_ids(self, stream_ids: Sequence[str]) -> list[str | None]:
        """The id of each log's last entry; None where there is no log, or an empty one; or NO_STREAM."""
        names = [self._keys.log(stream_id) for stream_id in stream_ids]
        return [reply.decode() or None for reply in await _LAST_IDS(self._redis, names, [NO_STREAM])]
