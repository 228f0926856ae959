"""Suspects: streams that were being projected when a replica died, and how often that happened in a row.

An event may kill the process that applies it, by taking all memory or never ending; whoever takes over dies
in turn. So every replica writes down which streams it has in flight, and whoever finds it dead counts a death
for each of them. A pass that ends clears its streams. A replica that only seemed dead, since it was frozen or
nobody could reach Redis for a while, takes its deaths back. All of it is in Redis and may be lost: then the
counting begins anew.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Any

import orjson
import structlog
from redis.asyncio import Redis

from worker.keys import Keys
from worker.redis_client import Script, pairs, pipelined, refused

log = structlog.get_logger("batches")

_SUSPECTED_AFTER = 3
_CONVICTED_AFTER = 6
_FORGET_AFTER = timedelta(days=1)

# One script, so that two replicas that find a third one dead count its death once.
#
# KEYS: what is in flight; suspects. ARGV: ms after which suspects are forgotten, then the dead replicas.
_BURY = Script("""
local buried = {}
for at = 2, #ARGV do
  local streams = redis.call('HGET', KEYS[1], ARGV[at])
  if streams then
    for _, stream in ipairs(cjson.decode(streams)) do
      redis.call('HINCRBY', KEYS[2], stream, 1)
      redis.call('PEXPIRE', KEYS[2], ARGV[1])
    end
    redis.call('HDEL', KEYS[1], ARGV[at])
    buried[#buried + 1] = ARGV[at]
  end
end
return buried
""")

# KEYS: suspects. ARGV: streams.
_REVIVE = Script("""
for _, stream in ipairs(ARGV) do
  if redis.call('HINCRBY', KEYS[1], stream, -1) <= 0 then redis.call('HDEL', KEYS[1], stream) end
end
""")


class Suspects:
    """What this replica has in flight, and what is held against streams.

    ``begin`` must come before the first look at a stream's log, and ``end`` after the last thing that is done
    for it. What is held against streams is read now and then, by `refresh`.
    """

    def __init__(self, redis: Redis, keys: Keys, *, projection: str, consumer: str) -> None:
        self._redis = redis
        self._in_flight = keys.in_flight(projection)
        self._suspects = keys.suspects(projection)
        self._consumer = consumer
        self._deaths: dict[str, int] = {}
        self._told: Sequence[str] = ()

    def deaths(self, stream_id: str) -> int:
        """How many replicas have died in a row while they projected the stream, as of the last `refresh`."""
        return self._deaths.get(stream_id, 0)

    def suspected(self, stream_id: str) -> bool:
        """Whether the stream is to be projected alone."""
        return self.deaths(stream_id) >= _SUSPECTED_AFTER

    def convicted(self, stream_id: str) -> bool:
        """Whether the stream has killed replicas that projected nothing else."""
        return self.deaths(stream_id) >= _CONVICTED_AFTER

    async def begin(self, stream_ids: Sequence[str]) -> None:
        """Write down what is in flight from now on, in place of what was."""
        if not stream_ids:
            return
        is_new = await self._redis.hset(self._in_flight, self._consumer, orjson.dumps(stream_ids).decode())
        if is_new:
            await self._revive()
        self._told = stream_ids

    async def end(self, stream_ids: Collection[str], *, tell: Sequence[Any] = ()) -> None:
        """Nothing is in flight any more, and these streams have done no harm.

        ``tell`` is a command that goes the same way; whether the server takes it makes no difference.
        """
        cleared = [stream_id for stream_id in stream_ids if self._deaths.pop(stream_id, 0)]
        if cleared:
            await self._redis.hdel(self._suspects, *cleared)
        hdel = ("HDEL", self._in_flight, self._consumer)
        *_, was_in_flight = await pipelined(self._redis, [tuple(tell), hdel] if tell else [hdel])
        if refused(was_in_flight):
            raise was_in_flight
        if not was_in_flight:
            await self._revive()
        self._told = ()

    async def _revive(self) -> None:
        """Take back the deaths that were counted for what we had told, if we were buried alive."""
        if self._told:
            log.warning("buried_alive", streams=len(self._told))
            await _REVIVE(self._redis, [self._suspects], self._told)

    async def at_work(self) -> list[str]:
        """The replicas that have something in flight, as far as they have told."""
        return [name.decode() for name in await self._redis.execute_command("HKEYS", self._in_flight)]

    async def bury(self, dead: Collection[str]) -> None:
        """Count a death for what was in flight with these replicas, and read what is held against streams."""
        if dead:
            ttl = int(_FORGET_AFTER.total_seconds() * 1000)
            for consumer in await _BURY(self._redis, [self._in_flight, self._suspects], [ttl, *dead]):
                log.warning("replica_died_at_work", replica=consumer.decode())
        await self.refresh()

    async def refresh(self) -> None:
        """Read what is held against streams."""
        stored = await self._redis.execute_command("HGETALL", self._suspects)
        self._deaths = {stream_id.decode(): int(deaths) for stream_id, deaths in pairs(stored)}
