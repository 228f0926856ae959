"""Producers' side: append one event to its log, and hint to the workers that the stream has news."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any
from weakref import WeakKeyDictionary

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError

from worker.errors import EmitError, FeedPartitionsError, InvalidEventError, OutcomeUnknownError
from worker.events import MAX_STREAM_ID_BYTES, parse_stream_id
from worker.keys import Keys

_DEFAULT_KEYS = Keys()

# Pools on which the number of partitions was found to agree, and for which keys.
_agreed: WeakKeyDictionary[object, set[Keys]] = WeakKeyDictionary()


async def emit(
    redis: Redis,
    stream_id: str,
    operation_id: str,
    event_type: str,
    event_data: Mapping[str, Any],
    *,
    projected_types: Collection[str] | None = None,
    keys: Keys = _DEFAULT_KEYS,
) -> str:
    """Append one event to the log of ``stream_id`` and return its event id.

    ``operation_id`` may be empty. Values of ``event_data`` that JSON cannot represent are written as their
    ``str()``. For the types in ``projected_types`` (None: for every type) a hint is appended to the feed in
    the same MULTI, so that workers learn of the event at once; without a hint they find it in a sweep.

    The commands are sent once, whatever retries the client was made with, so one call never appends twice.

    Raises InvalidEventError, FeedPartitionsError or EmitError when nothing was appended, and
    OutcomeUnknownError when the connection was lost after the commands had been sent: then the event may
    stand in the log. To be safe, give each operation its own ``operation_id`` and look for it at the end of
    the log (``XREVRANGE``) before calling again.
    """
    data = encode_event(stream_id, operation_id, event_type, event_data)
    log_entry = ("XADD", keys.log(stream_id), "*", "op", operation_id, "type", event_type, "data", data)
    if projected_types is not None and event_type not in projected_types:
        commands: list[tuple[str, ...]] = [log_entry]
    else:
        feed = keys.feed(keys.partition(stream_id))
        cap = ("MAXLEN", "~", str(keys.feed_max_length))
        hint = ("XADD", feed, *cap, "*", "stream", stream_id, "type", event_type)
        commands = [("MULTI",), log_entry, hint, ("EXEC",)]
    await _agree_on_partitions(redis, keys)
    reply = await _send_once(redis, commands)
    return reply.decode("ascii")


def encode_event(stream_id: str, operation_id: str, event_type: str, event_data: Mapping[str, Any]) -> str:
    """The ``data`` field of an event. Raises InvalidEventError for what no log may hold."""
    for name, text in (("stream id", stream_id), ("operation id", operation_id), ("type", event_type)):
        if not isinstance(text, str):
            raise InvalidEventError(f"The {name} must be a string, not {type(text).__name__}.")
    try:
        spelled = stream_id.encode()
        operation_id.encode()
        event_type.encode()
    except UnicodeEncodeError:
        raise InvalidEventError(
            "Stream id, operation id and type must be text that UTF-8 can spell."
        ) from None
    if parse_stream_id(spelled) is None:
        raise InvalidEventError(
            f"Stream id of {len(spelled)} bytes: it must hold no NUL and at most {MAX_STREAM_ID_BYTES} bytes."
        )
    if not event_type:
        raise InvalidEventError("The event type is empty; give one, such as 'user_message'.")
    if not isinstance(event_data, Mapping):
        raise InvalidEventError(f"Event data must be a mapping, not {type(event_data).__name__}.")
    try:
        return json.dumps(event_data, default=_as_text, allow_nan=False, separators=(",", ":"))
    except (ValueError, TypeError, RecursionError):
        pass  # NaN, infinities, keys of other types, mappings that are no dict; or no JSON at all.
    try:
        return json.dumps(_representable(event_data), default=str, separators=(",", ":"))
    except (ValueError, RecursionError):
        raise InvalidEventError(
            "Event data contain themselves, are nested too deeply, or hold a number of too many digits."
        ) from None


def _as_text(value: Any) -> str:
    if isinstance(value, Mapping):
        raise TypeError("A mapping that is no dict becomes an object, not text.")
    return str(value)


def _representable(value: Any) -> Any:
    """The same value with what JSON cannot represent as its ``str()``, keys included."""
    if isinstance(value, Mapping):
        return {
            key if isinstance(key, str | int | bool | None) else str(key): _representable(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_representable(item) for item in value]
    if isinstance(value, float) and value - value != 0:
        return str(value)
    return value


async def _agree_on_partitions(redis: Redis, keys: Keys) -> None:
    """Refuse to hint where no worker would look. The first worker that starts fixes the number."""
    agreed = _agreed.setdefault(redis.connection_pool, set())
    if keys in agreed:
        return
    try:
        stored = await redis.get(keys.feed_partitions)
    except NoPermissionError:
        agreed.add(keys)  # A producer that may only append cannot ask; a wrong partition only costs time.
        return
    except RedisError as error:
        raise EmitError(f"Redis could not be asked for the number of feed partitions: {error}.") from error
    if stored is None:
        return
    if not stored.isdigit():
        raise FeedPartitionsError(f"Key {keys.feed_partitions} holds no number: set it to {keys.partitions}.")
    if int(stored) != keys.partitions:
        raise FeedPartitionsError(
            f"This producer spreads hints over {keys.partitions} feed partitions, the workers read "
            f"{int(stored)}: give emit Keys(partitions={int(stored)})."
        )
    agreed.add(keys)


async def _send_once(redis: Redis, commands: list[tuple[str, ...]]) -> bytes:
    """Send the commands on one connection of the client's pool, once, and return the log entry's id.

    The client's own ways of sending retry after a lost reply, which would append a second entry.
    """
    pool = redis.connection_pool
    try:
        connection = await pool.get_connection()
    except (RedisError, OSError) as error:
        raise EmitError(f"Redis could not be reached; nothing was appended: {error}.") from error
    try:
        return await _exchange(connection, commands)
    except (RedisError, OSError, TimeoutError) as error:
        if isinstance(error, ResponseError | AuthenticationError):
            raise EmitError(f"Redis refused the event; nothing was appended: {error}.") from error
        raise OutcomeUnknownError(
            f"The reply was lost ({error}): the outcome is unknown. Look for the operation id in the log "
            "before emitting the event again."
        ) from error
    finally:
        await pool.release(connection)


async def _exchange(connection: AbstractConnection, commands: list[tuple[str, ...]]) -> bytes:
    """One round trip: the id of the log's entry. A connection whose replies were not all read is closed."""
    whole = False
    replies: list[Any] = []
    try:
        await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
        for _ in commands:
            try:
                replies.append(await connection.read_response(disable_decoding=True))
            except ResponseError as error:
                replies.append(error)
        whole = True
    finally:
        if not whole:
            await connection.disconnect(nowait=True)
    appended = _reply_to_log_entry(replies)
    if isinstance(appended, Exception):
        raise appended
    assert isinstance(appended, bytes)
    return appended


def _reply_to_log_entry(replies: list[Any]) -> Any:
    """What became of the log's entry: its id, or the error that says why there is none."""
    if len(replies) == 1:
        return replies[0]
    begun, log_entry, _, executed = replies
    if isinstance(begun, ResponseError):
        # Without the right to MULTI each command ran by itself, and the log's entry may well be there.
        return log_entry
    if isinstance(executed, ResponseError):
        return next(reply for reply in replies if isinstance(reply, ResponseError))  # The first says why.
    return executed[0]
