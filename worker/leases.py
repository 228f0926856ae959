"""Leases: which replicas are alive, and which feed partitions each of them reads.

They are soft. A replica that is late in noticing what it has lost, or two that read the same partition, waste
work and harm nothing: what counts is the comparison with the row. To waste little, a partition is taken from
the dead only; a live replica that holds too many lets some go by itself.
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

# Whoever ticks gives every partition that has no live holder to those that hold less than their fair share,
# itself or others, so that one tick hands over all that a dead or leaving replica held.
#
# KEYS: live replicas, a sorted set by expiry in ms, negative for those that want no partitions; leases, a
# hash; replicas that were given hints, a set; the versions that replicas run, a hash. ARGV: this replica,
# what it wishes, ms that a lease lives, number of partitions, its version. Wishes: 'look' changes nothing for
# this replica, 'share' keeps it alive, 'release' lets go what is more than its share, 'retire' lets all go,
# 'leave' is to be alive no more.
_TICK = Script("""
local me, wish, lives, partitions = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local version = tonumber(ARGV[5])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local expires = string.format('%d', now + lives)
if wish == 'leave' then
  redis.call('ZREM', KEYS[1], me)
  redis.call('HDEL', KEYS[4], me)
elseif wish == 'retire' then
  redis.call('ZADD', KEYS[1], '-' .. expires, me)
  redis.call('HSET', KEYS[4], me, version)
elseif wish ~= 'look' then
  redis.call('ZADD', KEYS[1], expires, me)
  redis.call('HSET', KEYS[4], me, version)
end

local live, sharing, held, newer = {}, {}, {}, 0
local members = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
for at = 1, #members, 2 do
  local name, score = members[at], tonumber(members[at + 1])
  local expiry = math.abs(score)
  -- One that expires later than a new one was alive before the server's clock went back.
  if expiry <= now or expiry > now + lives then
    redis.call('ZREM', KEYS[1], name)
    redis.call('SREM', KEYS[3], name)
    redis.call('HDEL', KEYS[4], name)
  else
    live[#live + 1] = name
    if (tonumber(redis.call('HGET', KEYS[4], name)) or 0) > version then newer = 1 end
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
local share, surplus = {}, {}
for rank, name in ipairs(sharing) do
  share[name] = math.floor(partitions / #sharing) + (rank <= partitions % #sharing and 1 or 0)
end
local too_many = wish == 'release' and free or surplus
while held[me] and #held[me] > share[me] do too_many[#too_many + 1] = table.remove(held[me]) end
for _, name in ipairs(sharing) do
  while #held[name] < share[name] and #free > 0 do
    local partition = table.remove(free)
    table.insert(held[name], partition)
    redis.call('HSET', KEYS[2], partition, name)
  end
end
for _, partition in ipairs(free) do redis.call('HDEL', KEYS[2], partition) end
return {held[me] or {}, live, wish ~= 'look' and redis.call('SREM', KEYS[3], me) or 0, #surplus, newer}
""")


@dataclass(frozen=True, slots=True)
class Tenure:
    """The partitions that a replica is to read, and the names of all that are alive, its own included.

    ``given`` says that others have given it hints since its last tick: they are among its own pending ones.
    ``surplus`` is how many partitions more it holds, which nobody reads until it releases them. They need not
    be any that it has read: the reply that gave them to it may have got lost, or it died and came back.
    ``newer`` says that a replica is alive that runs a newer version of the projection.
    """

    partitions: frozenset[int] = frozenset()
    live: frozenset[str] = frozenset()
    given: bool = False
    surplus: int = 0
    newer: bool = False


class Leases:
    """This replica's part in the leases of a projection.

    All of it is in Redis and may be lost: the next tick of each replica makes it again. Time is the server's,
    so that it does not matter whether the replicas' clocks agree.
    """

    def __init__(self, redis: Redis, keys: Keys, *, projection: str, consumer: str, version: int = 1) -> None:
        self.partitions = keys.partitions
        self._redis = redis
        self._names = [
            keys.live_replicas(projection),
            keys.leases(projection),
            keys.given(projection),
            keys.versions(projection),
        ]
        self._version = version
        self._consumer = consumer
        self._wish = "share"

    async def tick(self) -> Tenure:
        """Say that this replica is alive, and how things stand; to be called several times in LEASE_LIVES.

        One that stood still for longer has lost its partitions, and gets a share of them again. One that
        holds more than its share is told to read no more than that; the others get the rest by `release`.
        """
        return await self._tick(self._wish)

    async def release(self) -> Tenure:
        """A tick that hands what is more than a fair share to the others."""
        return await self._tick("release" if self._wish == "share" else self._wish)

    async def retire(self) -> Tenure:
        """Hand all partitions to the others. Until it leaves or resumes, this replica must go on ticking.

        It stays alive, so that nobody takes over the hints that it still has in hand.
        """
        self._wish = "retire"
        return await self.tick()

    async def resume(self) -> Tenure:
        """Have a share again after having retired."""
        self._wish = "share"
        return await self.tick()

    async def dead_among(self, consumers: Collection[str]) -> set[str]:
        """Which of these are no live replicas. This one never is, even if it is late with its tick.

        A replica that comes is alive before its name turns up anywhere else. So get to know the names first.
        """
        return set(consumers) - {self._consumer} - (await self._tick("look")).live

    async def leave(self) -> None:
        """Be no live replica any more: others take the partitions, and the hints that are still pending."""
        await self._tick("leave")

    async def _tick(self, wish: str) -> Tenure:
        lives_ms = int(LEASE_LIVES.total_seconds() * 1000)
        arguments = [self._consumer, wish, lives_ms, self.partitions, self._version]
        partitions, live, given, surplus, newer = await _TICK(self._redis, self._names, arguments)
        names = frozenset(name.decode() for name in live)
        return Tenure(frozenset(partitions), names, bool(given), surplus, bool(newer))
