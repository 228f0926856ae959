"""Leases: which replicas are alive, and which feed partitions each of them reads.

They are soft. A replica that is late in noticing what it has lost, or two that read the same partition, waste
work and harm nothing: what counts is the comparison with the row. So nothing here waits for anybody.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta

from redis.asyncio import Redis

from worker.keys import Keys
from worker.redis_client import Script

LEASE_LIVES = timedelta(seconds=5)
"""How long a replica counts as alive after its last tick."""

# Every tick gives each partition a live holder, and each replica its fair share, at once and for all of them:
# whoever comes, goes or finds somebody dead does the whole handover, and the others only need to look.
#
# KEYS: live replicas, a sorted set by expiry in ms, negative for those that want no partitions; leases, a
# hash. ARGV: this replica, 'share', 'retire' or 'leave', ms that a lease lives, number of partitions.
_TICK = Script("""
local me, wish, lives, partitions = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if wish == 'leave' then
  redis.call('ZREM', KEYS[1], me)
else
  local expiry = string.format('%d', now + lives)
  redis.call('ZADD', KEYS[1], wish == 'share' and expiry or '-' .. expiry, me)
end

local live, sharing, held = {}, {}, {}
local members = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
for at = 1, #members, 2 do
  local name, score = members[at], tonumber(members[at + 1])
  local expiry = math.abs(score)
  -- One that expires later than a new one was alive before the server's clock went back.
  if expiry <= now or expiry > now + lives then
    redis.call('ZREM', KEYS[1], name)
  else
    live[#live + 1] = name
    if score > 0 then
      sharing[#sharing + 1] = name
      held[name] = {}
    end
  end
end

local holders, free = {}, {}
local leases = redis.call('HGETALL', KEYS[2])
for at = 1, #leases, 2 do holders[leases[at]] = leases[at + 1] end
for partition = 0, partitions - 1 do
  local its = held[holders[tostring(partition)]] or free
  its[#its + 1] = partition
end

-- Who holds the most keeps the odd ones, so that as few as possible move.
table.sort(sharing, function(one, other)
  if #held[one] ~= #held[other] then return #held[one] > #held[other] end
  return one < other
end)
local share = {}
for rank, name in ipairs(sharing) do
  share[name] = math.floor(partitions / #sharing) + (rank <= partitions % #sharing and 1 or 0)
  while #held[name] > share[name] do free[#free + 1] = table.remove(held[name]) end
end
for _, name in ipairs(sharing) do
  while #held[name] < share[name] do
    local partition = table.remove(free)
    table.insert(held[name], partition)
    redis.call('HSET', KEYS[2], partition, name)
  end
end
for _, partition in ipairs(free) do redis.call('HDEL', KEYS[2], partition) end
return {held[me] or {}, live}
""")


@dataclass(frozen=True, slots=True)
class Tenure:
    """The partitions that this replica holds, and the names of all replicas that are alive, its own included.

    ``live`` is None where nobody keeps count; then nobody counts as dead.
    """

    partitions: frozenset[int] = frozenset()
    live: frozenset[str] | None = None

    def dead_among(self, consumers: Collection[str]) -> set[str]:
        """Which of these consumers of the group are no live replicas."""
        return set() if self.live is None else set(consumers) - self.live


class Leases:
    """This replica's part in the leases of a projection.

    All of it is in Redis and may be lost: the next tick of each replica makes it again. Time is the server's,
    so that it does not matter whether the replicas' clocks agree.
    """

    def __init__(self, redis: Redis, keys: Keys, *, projection: str, consumer: str) -> None:
        self.partitions = keys.partitions
        self._redis = redis
        self._names = [keys.live_replicas(projection), keys.leases(projection)]
        self._consumer = consumer
        self._wish = "share"

    async def tick(self) -> Tenure:
        """Say that this replica is alive, and how things stand; to be called several times in LEASE_LIVES.

        One that stood still for longer has lost its partitions, and gets its share of them again.
        """
        return await self._tick(self._wish)

    async def retire(self) -> Tenure:
        """Hand all partitions to the others, for good. Until it leaves, this replica must go on ticking.

        It stays alive, so that nobody takes over the hints that it still has in hand.
        """
        self._wish = "retire"
        return await self.tick()

    async def leave(self) -> None:
        """Be no live replica any more: others take the partitions, and the hints that are still pending."""
        await self._tick("leave")

    async def _tick(self, wish: str) -> Tenure:
        lives_ms = int(LEASE_LIVES.total_seconds() * 1000)
        arguments = [self._consumer, wish, lives_ms, self.partitions]
        partitions, live = await _TICK(self._redis, self._names, arguments)
        return Tenure(frozenset(partitions), frozenset(name.decode() for name in live))
