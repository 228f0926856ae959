"""Where streams stand, as their rows and logs tell somebody who waits for an event. Nothing here writes.

An application gives its own engine and client, made in whatever way: statements are SQLAlchemy's own, and
replies of Redis are taken raw.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from redis.asyncio import Redis
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from worker.events import EventId
from worker.extent import Extent
from worker.keys import Keys
from worker.letters import stops
from worker.log_servers import log_servers
from worker.projection import Projection
from worker.redis_client import Script

T = TypeVar("T")

_ROWS_A_QUERY = 1_000
_LOGS_A_SCRIPT = 100
_BYTES_A_SCRIPT = 1024 * 1024
"""What one script reads at most, and one entry more of each log: the server answers nobody else meanwhile."""

# The log is read backwards, from the awaited event to the position, up to the first entry that is projected.
#
# KEYS: logs. ARGV: bytes to read; how many types are projected; these; then for each log the id to begin at
# (as XREVRANGE takes it) and the position, empty where there is none.
_LOOK = Script("""
local room, types = tonumber(ARGV[1]), tonumber(ARGV[2])
local projected = {}
for at = 3, 2 + types do projected[ARGV[at]] = true end

local function type_and_size(fields)
  local found, size = nil, 0
  for at = 1, #fields, 2 do
    if fields[at] == 'type' then found = fields[at + 1] end
    size = size + #fields[at] + #fields[at + 1]
  end
  return found, size
end

local function last_projected(log, from, after)
  local count, read, bytes = 1, 0, 0
  while true do
    local page = redis.call('XREVRANGE', log, from, after, 'COUNT', count)
    for _, entry in ipairs(page) do
      local type, size = type_and_size(entry[2])
      if type and projected[type] then return entry[1], '' end
      read, bytes, room = read + 1, bytes + size, room - size - 50
    end
    if #page < count then return '', '' end
    from = '(' .. page[#page][1]
    if room <= 0 then return '', from end
    count = math.max(1, math.min(100, math.floor(room * read / (bytes + 50 * read))))
  end
end

local found = {}
for at, log in ipairs(KEYS) do
  local from, position = ARGV[types + 1 + 2 * at], ARGV[types + 2 + 2 * at]
  local reply = redis.pcall('XINFO', 'STREAM', log)
  if reply.err then
    found[at] = false
  else
    local info = {}
    for field = 1, #reply, 2 do info[reply[field]] = reply[field + 1] end
    local after = position == '' and '-' or '(' .. position
    local last, go_on = last_projected(log, from, after)
    local holds = position == '' or #redis.call('XRANGE', log, position, position) == 1
    local whole = info['entries-added'] == info['length']
    local first = info['first-entry'] and info['first-entry'][1] or ''
    found[at] = {info['last-generated-id'], last, go_on, holds and 1 or 0, first, whole and 1 or 0}
  end
end
return found
""")


@dataclass(frozen=True, slots=True)
class Stop:
    """An open dead letter that stops a stream, for who runs this version of the projection."""

    event_id: EventId
    event_type: str
    reason: str


@dataclass(frozen=True, slots=True)
class RowStanding:
    """A stream's row: ``position`` None is that of a row without one, or of no row."""

    has_row: bool = False
    position: str | None = None
    stops: tuple[Stop, ...] = ()


@dataclass(frozen=True, slots=True)
class LogQuestion:
    """Which log, where to begin reading it backwards (as XREVRANGE takes it), and down to which position."""

    stream_id: str
    start: str
    position: str | None


@dataclass(frozen=True, slots=True)
class LogStanding:
    """A log between a position and the event that a question began at.

    ``last_id`` is the highest id that the log ever had. ``last_projected`` is the last entry there whose type
    is projected; where it has not been found yet, ``go_on`` is where the next question begins. A log that
    holds the position, or was trimmed beyond it, ``fits`` the row.
    """

    last_id: EventId
    last_projected: EventId | None
    go_on: str | None
    fits: bool


class Rows:
    """Where rows stand. Takes one connection of the engine's pool at a time, without a transaction."""

    def __init__(self, engine: AsyncEngine, projection: Projection) -> None:
        self._engine = engine
        self._projection = projection
        table = engine.dialect.identifier_preparer.format_table(projection.table)
        # One statement, so that a letter is never seen beside the row as it was before it was written.
        self._select = text(f"""
            SELECT a.stream_id, t.stream_id, t.last_event_id, t.version, l.event_id, l.event_type, l.reason
            FROM unnest(CAST(:streams AS text[])) AS a(stream_id)
            LEFT JOIN {table} AS t ON t.stream_id = a.stream_id
            LEFT JOIN dead_letters AS l ON l.projection = :projection AND l.state = 'open'
                AND l.stream_id = a.stream_id COLLATE "C" AND l.version = :version""")
        self._disposed = False
        event.listen(engine.sync_engine, "engine_disposed", self._note_disposal)

    def close(self) -> None:
        """Leave the engine as it was."""
        event.remove(self._engine.sync_engine, "engine_disposed", self._note_disposal)

    def _note_disposal(self, _engine: object) -> None:
        self._disposed = True

    async def look(self, stream_ids: Collection[str]) -> dict[str, RowStanding]:
        """Where each of these streams stands."""
        found: dict[str, RowStanding] = {}
        async with self._engine.connect() as connection:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            for chunk in _chunks(list(stream_ids), _ROWS_A_QUERY):
                await self._look(connection, chunk, found)
            if self._disposed:  # Nobody would close what goes back to a pool that was given up.
                await connection.run_sync(lambda given_up: given_up.detach())
        return found

    async def _look(
        self, connection: AsyncConnection, stream_ids: list[str], found: dict[str, RowStanding]
    ) -> None:
        name, version = self._projection.name, self._projection.version
        rows = await connection.execute(
            self._select, {"streams": stream_ids, "projection": name, "version": version}
        )
        for stream_id, row, position, row_version, event_id, event_type, reason in rows:
            found_stops = found[stream_id].stops if stream_id in found else ()
            if event_id is not None:
                stop = Stop(EventId.parse(event_id), event_type, reason)
                if stops(
                    stop.event_id, version, running=version, position=position, row_version=row_version or 0
                ):
                    found_stops = (*found_stops, stop)
            found[stream_id] = RowStanding(row is not None, position, found_stops)


class Logs:
    """Where logs stand. Takes one connection at a time of each of the client's pools, and repeats nothing."""

    def __init__(self, redis: Redis, keys: Keys, types: Collection[str]) -> None:
        self._servers = log_servers(redis)
        self._keys = keys
        self._types = sorted(types)

    async def look(self, questions: Sequence[LogQuestion]) -> list[LogStanding | None]:
        """The answer to each question; None where there is no log. Raises what redis-py raises."""
        found: list[LogStanding | None] = []
        shared = [_BYTES_A_SCRIPT, len(self._types), *self._types]
        for chunk in _chunks(questions, _LOGS_A_SCRIPT):
            asked = [(self._keys.log(q.stream_id), (q.start, q.position or "")) for q in chunk]
            found += map(_standing, chunk, await self._servers.run(_LOOK, shared, asked))
        return found


def _standing(question: LogQuestion, reply: Any) -> LogStanding | None:
    if reply is None:
        return None
    last_id, last_projected, go_on, holds, first_id, whole = reply
    extent = Extent(exists=True, first_id=first_id.decode() or None, whole=bool(whole), holds=bool(holds))
    trimmed = question.position is not None and extent.trimmed_beyond(question.position)
    return LogStanding(
        last_id=EventId.parse(last_id),
        last_projected=EventId.parse(last_projected) if last_projected else None,
        go_on=go_on.decode() if go_on else None,
        fits=extent.holds or trimmed,
    )


def _chunks(items: Sequence[T], size: int) -> Iterator[list[T]]:
    for at in range(0, len(items), size):
        yield list(items[at : at + size])
