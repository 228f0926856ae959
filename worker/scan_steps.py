"""Looking over the keys of logs of one server, step by step."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from worker.redis_client import Script, pipelined

NO_STREAM: Final = "no stream"
"""In place of an event id: the key holds something else."""

# XREVRANGE from the client would send the whole last entry of every log, only to learn its id.
#
# Empty where there is none. ARGV: what to say of a key that holds something else.
LAST_IDS = Script("""
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
# ARGV: cursor, pattern, how many keys, what to say of a key that is no stream.
_SCAN_ENDS = Script("""
local step = redis.call('SCAN', ARGV[1], 'MATCH', ARGV[2], 'COUNT', ARGV[3])
local found = {step[1]}
for _, key in ipairs(step[2]) do
  local last = redis.pcall('XREVRANGE', key, '+', '-', 'COUNT', 1)
  if last.err and string.sub(last.err, 1, 9) ~= 'WRONGTYPE' then return last end
  found[#found + 1] = key
  found[#found + 1] = last.err and ARGV[4] or last[1] and last[1][1] or ''
end
return found
""")


async def scan_names(redis: Redis, pattern: str, count: int) -> AsyncGenerator[Sequence[bytes], None]:
    """All keys, about ``count`` at a time."""
    cursor: Any = 0
    while True:
        cursor, names = await scan_step(redis, cursor, pattern, count)
        yield names
        if int(cursor) == 0:
            return


async def scan_step(redis: Redis, cursor: Any, pattern: str, count: int) -> tuple[Any, Sequence[bytes]]:
    """One step: the next cursor, 0 after the last one, and keys."""
    [reply] = await pipelined(redis, [("SCAN", cursor, "MATCH", pattern, "COUNT", count)])
    if isinstance(reply, RedisError):
        raise reply
    cursor, names = reply
    return cursor, names


async def scan_step_ends(
    redis: Redis, cursor: Any, pattern: str, count: int
) -> tuple[Any, dict[bytes, bytes]]:
    """The same, with the id of the last entry of each: empty where there is none, or NO_STREAM."""
    cursor, *found = await _SCAN_ENDS(redis, [], [cursor, pattern, count, NO_STREAM])
    return cursor, dict(zip(found[::2], found[1::2], strict=True))
