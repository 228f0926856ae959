"""Settling an attempt whose outcome is unknown: find its event in the log, or append it after all.

Why that gives neither two entries nor none
===========================================

Once an attempt has failed, its connection is aborted (`worker.sending`): either all of its bytes have reached
the server's side, where they may wait as long as the server is stalled, or the server will never get the last
of them, and does nothing.

If they wait there, a server that resumes takes them up no later than what came afterwards on any other
connection: the socket was ready first. So when a question that was asked afterwards is answered, they
have been dealt with, in the same turn of the server's loop at the latest (with several I/O threads the order
within a turn is not fixed). Therefore the log is watched (WATCH) while it is searched, and the event is
appended, one round trip later, only if nobody else has appended anything meanwhile; else the search goes on.

That leaves proxies that answer for the server and hold back what they were given: behind one that goes on
sending for a client that is gone, an attempt may still arrive after all this.

An entry is this event if operation, type and data are the same and it is no older than the first attempt, by
the server's own clock. Events of one operation that are alike are told apart by order: what the first attempt
knew to be in the log before it is not looked at.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from worker.attempt import Attempt
from worker.errors import EmitError, OutcomeUnknownError
from worker.events import EventId
from worker.sending import REFUSALS, agree_on_partitions, exchange, refusal, reply_to_log_entry

EMIT_AGAIN = (
    "This process may emit it again with the same operation id, type and data: then it is looked for first. "
    "Any other must look at the end of the log itself."
)

_CLOCK_MARGIN_MS = 60_000  # for a server whose clock was set, or another server after a failover
_ROUNDS = 50
_FIRST_ENTRIES = 8
_MAX_ENTRIES = 1_000
_PAGE_BYTES = 1_000_000


async def settle(redis: Redis, attempt: Attempt) -> str:
    """The id of the event, which then stands in the log once. May be called again after any error.

    Raises EmitError when neither this nor any earlier attempt has appended it, FeedPartitionsError, and
    OutcomeUnknownError when that is still unknown.
    """
    try:
        await agree_on_partitions(redis, attempt.keys)
        connection = await redis.connection_pool.get_connection()
    except (EmitError, RedisError, OSError) as error:
        raise _still_unknown(attempt, f"Redis could not be reached: {error}") from error
    try:
        return await _settle_on(connection, attempt)
    except (RedisError, OSError) as error:
        raise _still_unknown(attempt, f"the reply was lost: {error}") from error
    finally:
        await redis.connection_pool.release(connection)


def _still_unknown(attempt: Attempt, why: str) -> OutcomeUnknownError:
    return OutcomeUnknownError(
        f"It is still unknown whether the event stands in the log ({why}). {EMIT_AGAIN}", attempt
    )


async def _settle_on(connection: AbstractConnection, attempt: Attempt) -> str:
    search = _Search(connection, attempt)
    try:
        for _ in range(_ROUNDS):
            if (found := await search.run()) is not None:
                # Where no transaction was possible it may lack its hint. A second one does no harm.
                with suppress(RedisError, OSError):  # The sweep finds what no hint told.
                    await exchange(connection, [*attempt.hints, ("UNWATCH",)])
                return found
            appended = reply_to_log_entry(await exchange(connection, attempt.transaction))
            if isinstance(appended, REFUSALS):
                raise EmitError(refusal(appended)) from appended
            if appended is not None:
                return str(appended, "ascii")
    except BaseException:
        await connection.disconnect(nowait=True)  # It may still be watching.
        raise
    raise _still_unknown(attempt, "others append to that log all the time")


class _Search:
    """Looks for an attempt's event, newest entries first; once more, only at what has come since."""

    def __init__(self, connection: AbstractConnection, attempt: Attempt) -> None:
        self._connection = connection
        self._attempt = attempt
        self._start: str | None = None

    async def run(self) -> str | None:
        """The event's id, or None; from now on the connection watches the log."""
        _, now = await self._ask(("WATCH", self._attempt.log), ("TIME",))
        start = self._start or self._first_start(int(now[0]) * 1000)
        end, count = "+", _FIRST_ENTRIES
        while True:
            [entries] = await self._ask(("XREVRANGE", self._attempt.log, end, start, "COUNT", str(count)))
            if entries and end == "+":
                self._start = f"({entries[0][0].decode()}"
            for raw_id, fields in entries:
                if self._attempt.is_entry(fields):
                    return str(raw_id, "ascii")
            if len(entries) < count:
                return None
            end = f"({entries[-1][0].decode()}"
            mean = sum(len(part) for _, fields in entries for part in fields) / len(entries)
            count = max(1, min(_MAX_ENTRIES, int(_PAGE_BYTES / max(mean, 1))))

    def _first_start(self, now_ms: int) -> str:
        since = self._attempt.since
        earliest = EventId(max(0, now_ms - since.elapsed_ms - _CLOCK_MARGIN_MS), 0)
        if since.after is not None and EventId.parse(since.after) > earliest:
            return f"({since.after}"
        return str(earliest)

    async def _ask(self, *commands: tuple[str, ...]) -> list[Any]:
        replies = await exchange(self._connection, list(commands))
        for reply in replies:
            if isinstance(reply, REFUSALS):
                raise _still_unknown(self._attempt, f"Redis does not let us look: {reply}") from reply
        return replies
