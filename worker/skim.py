"""Passing over a deep backlog of hints: all that they say is which streams have news, mostly the same ones.

Reading and acknowledging a hundred thousand hints one by one would take longer than projecting what they tell
of. So the streams that a partition names are collected on the server, each is projected to the end of its
log, and then the group is moved past all these hints at once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from redis.asyncio import Redis

from worker.events import parse_stream_id
from worker.feed import Feed
from worker.hint import Hint
from worker.hinting import hint_streams
from worker.redis_client import Script

_HINTS_A_STEP = 1_000
"""A few milliseconds of the server's time, which nobody else has meanwhile."""
_MOST_STREAMS = 2_500
_MOST_HINTS = 100_000
"""Until all are collected nothing else is read, and no stop is noticed."""

# KEYS: the partition. ARGV: the id after which to look, empty for where the group stands; the group; how many
# hints at most; the types that are projected. Returns the id that it looked after and the one to go on after,
# how many hints there were, the streams that those of such types, or of none, name, each once, and how many
# hints name no stream.
_COLLECT = Script("""
local after, projected = ARGV[1], {['']=true}
for at = 4, #ARGV do projected[ARGV[at]] = true end
if after == '' then
  local groups = redis.pcall('XINFO', 'GROUPS', KEYS[1])
  for _, group in ipairs(groups.err and {} or groups) do
    local info = {}
    for at = 1, #group, 2 do info[group[at]] = group[at + 1] end
    if info['name'] == ARGV[2] then after = info['last-delivered-id'] end
  end
  if after == '' then return redis.error_reply('NOGROUP No such consumer group ' .. ARGV[2]) end
end
local began = after
local hints = redis.call('XRANGE', KEYS[1], '(' .. after, '+', 'COUNT', ARGV[3])
local seen, streams, mute = {}, {}, 0
for _, hint in ipairs(hints) do
  local fields, stream, type = hint[2], nil, ''
  for at = 1, #fields, 2 do
    if fields[at] == 'stream' then stream = fields[at + 1] end
    if fields[at] == 'type' then type = fields[at + 1] end
  end
  if not stream then
    mute = mute + 1
  elseif projected[type] and not seen[stream] then
    seen[stream] = true
    streams[#streams + 1] = stream
  end
  after = hint[1]
end
return {began, after, #hints, streams, mute}
""")

# Only from where the group stood when the hints were collected: if another replica has read some of them
# since, or the feed was made anew, they are read like any others. Redis 7 counts what a group has read, and
# can go on counting if it is told.
#
# KEYS: the partition. ARGV: the group, where it stood, the id to move it to, and how many hints that passes
# over. Returns whether it was moved.
_MOVE_PAST = Script("""
local groups = redis.pcall('XINFO', 'GROUPS', KEYS[1])
for _, group in ipairs(groups.err and {} or groups) do
  local info = {}
  for at = 1, #group, 2 do info[group[at]] = group[at + 1] end
  if info['name'] == ARGV[1] and info['last-delivered-id'] == ARGV[2] then
    local move = {'XGROUP', 'SETID', KEYS[1], ARGV[1], ARGV[3]}
    local read = info['entries-read']
    if read and info['lag'] then
      move[#move + 1] = 'ENTRIESREAD'
      move[#move + 1] = read + ARGV[4]
    end
    redis.call(unpack(move))
    return 1
  end
end
return 0
""")


@dataclass(slots=True)
class _Skim:
    """Hints of one partition that are to be passed over, those after ``begin`` up to ``end``, and the streams
    still to project. ``mute`` counts those that say nothing."""

    begin: bytes
    end: bytes
    hints: int = 0
    mute: int = 0
    streams: set[str] = field(default_factory=set)


class Skims:
    """The skims of this replica, one a partition at most. The feed does not read a partition meanwhile.

    The group is moved only once every stream has been projected by a pass that began after its hint was seen,
    or has got another hint, since one with a long log, or a locked row, would hold up all later hints.
    Dying anywhere before leaves all hints to whoever reads the partition next; he finds most of their streams
    done. Two replicas that skim the same hints waste work. A skim is forgotten when its partition goes to
    another replica or the group is joined again.
    """

    def __init__(self, redis: Redis, feed: Feed, types: Collection[str]) -> None:
        self._redis = redis
        self._feed = feed
        self._types = sorted(types)
        self._skims: dict[int, _Skim] = {}

    async def begin(self) -> list[Hint]:
        """Collect the streams of every partition whose last read was full, as hints to be settled here."""
        hints: list[Hint] = []
        for partition in self._feed.take_full():
            skim = await self._collect(partition)
            if skim.streams and self._feed.set_aside(partition, skim.end):
                self._skims[partition] = skim
                hints += [Hint(partition, skim.end, s, "", skimmed=True) for s in skim.streams]
        return hints

    async def _collect(self, partition: int) -> _Skim:
        skim, count = _Skim(b"", b""), _HINTS_A_STEP
        while count == _HINTS_A_STEP and len(skim.streams) < _MOST_STREAMS and skim.hints < _MOST_HINTS:
            arguments = [skim.end, self._feed.group, _HINTS_A_STEP, *self._types]
            began, skim.end, count, spelled, mute = await _COLLECT(
                self._redis, [self._feed.names[partition]], arguments
            )
            skim.begin = skim.begin or began
            streams = [parse_stream_id(raw) for raw in spelled]
            skim.streams.update(stream_id for stream_id in streams if stream_id is not None)
            skim.hints += count
            skim.mute += mute + streams.count(None)
        return skim

    async def settle(self, hints: Iterable[Hint]) -> None:
        """These streams have been projected to their end. Moves the group where they were the last ones."""
        for partition, streams in _by_partition(hints).items():
            skim = self._skims.get(partition)
            if skim is None or self._feed.aside(partition) != skim.end:
                continue  # Forgotten: who skims next finds nothing to do for these streams.
            skim.streams.difference_update(s for s, end in streams if end == skim.end)
            if not skim.streams:
                await self._pass_over(partition, skim)

    async def _pass_over(self, partition: int, skim: _Skim) -> None:
        names, arguments = [self._feed.names[partition]], [skim.begin, skim.end, skim.hints]
        if await _MOVE_PAST(self._redis, names, [self._feed.group, *arguments]):
            self._feed.malformed += skim.mute
        if self._skims.get(partition) is skim:  # else the group was joined again, and another skim has begun
            del self._skims[partition]
        self._feed.take_back(partition, skim.end)

    async def put_off(self, hints: Sequence[Hint]) -> None:
        """These streams are not done yet, and may not be for long. Each gets a hint of its own, once, so that
        it holds up no others."""
        held_up = [hint.stream_id for hint in hints if self._is_held_up_by(hint)]
        await hint_streams(self._redis, self._feed.keys, held_up)
        await self.settle(hints)

    def _is_held_up_by(self, hint: Hint) -> bool:
        skim = self._skims.get(hint.partition)
        if skim is None or skim.end != hint.id or self._feed.aside(hint.partition) != skim.end:
            return False
        return hint.stream_id in skim.streams


def _by_partition(hints: Iterable[Hint]) -> dict[int, list[tuple[str, bytes]]]:
    by_partition: dict[int, list[tuple[str, bytes]]] = defaultdict(list)
    for hint in hints:
        by_partition[hint.partition].append((hint.stream_id, hint.id))
    return by_partition
