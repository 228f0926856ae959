"""How far a log reaches, and what is known of what was removed from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from worker.events import EventId
from worker.log_servers import LogServers
from worker.redis_client import Script, pairs

# An id to look for is asked for from the server's side, too: the entry itself may be large.
_EXTENTS = Script("""
local function first(reply) return reply[1] and reply[1][1] or false end
local extents = {}
for at, key in ipairs(KEYS) do
  local info = redis.pcall('XINFO', 'STREAM', key)
  if info.err and redis.call('EXISTS', key) == 0 then
    extents[at] = 0
  elseif info.err then
    if string.sub(info.err, 1, 9) ~= 'WRONGTYPE' then return info end
    extents[at] = 1
  else
    local wanted = ARGV[at]
    extents[at] = {
      info, first(redis.call('XRANGE', key, '-', '+', 'COUNT', 1)),
      first(redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1)),
      (wanted == '' or first(redis.call('XRANGE', key, wanted, wanted))) and 1 or 0,
    }
    -- The entries themselves stay here.
    for i = 1, #info, 2 do
      if info[i] == 'first-entry' or info[i] == 'last-entry' then info[i + 1] = false end
    end
  end
end
return extents
""")


@dataclass(frozen=True, slots=True)
class Extent:
    """What a log is known to reach over, and what was removed from it.

    ``exists`` is False where there is no key. ``first_id`` and ``last_id`` are its first and last entry, None
    where it has none. ``newest_id`` is the highest id that it ever gave out, though its entry may be gone.
    ``newest_deleted`` is the highest id that XDEL took out, "0-0" for none; None where the server does not
    tell (before Redis 7.0). ``whole`` says that nothing was ever removed; False also where it cannot be told.
    ``holds`` says whether it holds the entry that was asked for, True if none was. Of a key that is no stream
    it says that it exists, and nothing else.
    """

    exists: bool
    first_id: str | None = None
    last_id: str | None = None
    newest_id: str | None = None
    newest_deleted: str | None = None
    whole: bool = False
    holds: bool = True

    @property
    def is_no_stream(self) -> bool:
        """Whether the key holds something else."""
        return self.exists and self.newest_id is None

    def trimmed_beyond(self, event_id: str) -> bool:
        """Whether it begins after this event since something was removed; else it was begun anew there."""
        starts_later = self.first_id is not None and EventId.parse(self.first_id) > EventId.parse(event_id)
        return starts_later and not self.whole


async def read_extents(servers: LogServers, logs: Sequence[tuple[str, str | None]]) -> list[Extent]:
    """The extents of logs by their keys, each with the id of an entry to look for, or None."""
    if not logs:
        return []  # Nearly every pass has none to ask for.
    replies = await servers.run(_EXTENTS, [], [(name, [wanted or ""]) for name, wanted in logs])
    return [_extent(reply, wanted) for reply, (_, wanted) in zip(replies, logs, strict=True)]


def _extent(reply: Any, wanted: str | None) -> Extent:
    if reply in (0, 1):
        return Extent(exists=bool(reply), holds=wanted is None)
    info, first, last, holds = reply
    told = dict(pairs(info))
    deleted = told.get(b"max-deleted-entry-id")
    return Extent(
        exists=True,
        first_id=first.decode() if first else None,
        last_id=last.decode() if last else None,
        newest_id=told[b"last-generated-id"].decode(),
        newest_deleted=deleted.decode() if deleted is not None else None,
        whole=told.get(b"entries-added") == told[b"length"],
        holds=bool(holds),
    )
