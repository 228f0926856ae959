"""Producers' side: append one event to its log, and hint to the workers that the stream has news."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from redis.asyncio import Redis
from redis.exceptions import RedisError

from worker.attempt import Attempt, Since
from worker.errors import EmitError, InvalidEventError, OutcomeUnknownError
from worker.events import MAX_STREAM_ID_BYTES, EventId, parse_stream_id
from worker.keys import Keys
from worker.redis_client import of_no_master, renew
from worker.sending import REFUSALS, agree_on_partitions, exchange, refusal, reply_to_log_entry
from worker.settle import EMIT_AGAIN, settle
from worker.traceparent import current_traceparent

K = TypeVar("K")
V = TypeVar("V")

_DEFAULT_KEYS = Keys()
_MOST_REMEMBERED = 10_000

# Events that may stand in their logs or not, and since when; by identity.
_unsettled: OrderedDict[int, Since] = OrderedDict()
# The last entry that each pool's producers know of in each log.
_last_ids: WeakKeyDictionary[object, OrderedDict[str, str]] = WeakKeyDictionary()


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
    the same MULTI, so that workers learn of the event at once; without a hint they find it in a sweep. Where
    an OpenTelemetry span is recorded, the entry of such an event names it in ``traceparent``.

    One call never appends twice: the commands are sent once, whatever retries the client was made with.
    Raises InvalidEventError, FeedPartitionsError or EmitError when nothing was appended, and
    OutcomeUnknownError when the reply did not come, because the connection was lost or the client's
    ``socket_timeout`` went by: then the event may stand in the log, or get there yet.

    To call again with the same arguments is safe, if the operation id is not empty. After a call that ended
    in OutcomeUnknownError, or was cancelled (as `asyncio.timeout` does), one with the same stream, operation,
    type and data in the same process is the same event once more: it looks in the log, by the server's clock
    back to shortly before the first call, returns the id of the entry that it finds, and appends only where
    there is none (`worker.settle` says why nothing can come in between). So do not give up on an event and
    emit another that is the same in everything. Without operation id a second call appends a second event.

    Looking takes the rights to WATCH, TIME and XREVRANGE. An entry that was deleted meanwhile is appended
    again.
    """
    hinted = projected_types is None or event_type in projected_types
    attempt = Attempt(
        stream_id,
        operation_id,
        event_type,
        data=encode_event(stream_id, operation_id, event_type, event_data),
        hinted=hinted,
        keys=keys,
        since=Since(after=_known_of(redis).get(keys.log(stream_id))),
        # Nobody looks at it in other entries, which are the most.
        traceparent=current_traceparent() if hinted else None,
    )
    if operation_id and _unsettled and (earlier := _unsettled.get(attempt.identity)):
        return await _settle(redis, replace(attempt, since=earlier))
    await agree_on_partitions(redis, keys)
    event_id = await _send_once(redis, attempt)
    _note_last_id(redis, attempt, event_id)
    return event_id


async def emit_again(redis: Redis, unknown: OutcomeUnknownError) -> str:
    """The id of the event that `emit` may or may not have appended; it then stands in the log once.

    The same as calling `emit` again with the same arguments, for who has only the error. It may also serve
    another client, or come late. Calling it twice does no harm.

    Raises OutcomeUnknownError while Redis does not answer, EmitError when Redis refuses the event and no
    attempt has appended it, and InvalidEventError for an event without operation id.
    """
    if not unknown.attempt.operation_id:
        raise InvalidEventError(
            "An event without operation id cannot be told from others like it: look at the end of its log "
            "before you emit it again, and give operation ids to events that matter."
        )
    return await _settle(redis, unknown.attempt)


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


async def _settle(redis: Redis, attempt: Attempt) -> str:
    try:
        event_id = await settle(redis, attempt)
    except OutcomeUnknownError:
        raise
    except EmitError:
        _unsettled.pop(attempt.identity, None)
        raise
    _unsettled.pop(attempt.identity, None)
    _note_last_id(redis, attempt, event_id)
    return event_id


async def _send_once(redis: Redis, attempt: Attempt) -> str:
    """Send the commands on one connection of the client's pool, once, and return the log entry's id.

    The client's own ways of sending repeat after a lost reply, which would append a second entry.
    """
    pool = redis.connection_pool
    try:
        connection = await pool.get_connection()
    except (RedisError, OSError) as error:
        raise EmitError(f"Redis could not be reached; nothing was appended: {error}.") from error
    try:
        try:
            replies = await exchange(
                connection, attempt.transaction if attempt.hinted else [attempt.log_entry]
            )
        finally:
            await pool.release(connection)
    except BaseException as error:
        if attempt.operation_id:
            _remember(_unsettled, attempt.identity, attempt.since)
        if isinstance(error, RedisError | OSError):
            raise OutcomeUnknownError(_unknown(error, attempt), attempt) from error
        raise
    appended = reply_to_log_entry(replies)
    if isinstance(appended, REFUSALS):
        if of_no_master(appended):
            await renew(redis, appended)
        raise EmitError(refusal(appended)) from appended
    return str(appended, "ascii")


def _unknown(error: Exception, attempt: Attempt) -> str:
    if attempt.operation_id:
        remedy = EMIT_AGAIN
    else:
        remedy = "It has no operation id, so look at the end of the log before emitting it again."
    return f"The reply was lost ({error}), so the event may stand in the log or not. {remedy}"


def _known_of(redis: Redis) -> OrderedDict[str, str]:
    return _last_ids.setdefault(redis.connection_pool, OrderedDict())


def _note_last_id(redis: Redis, attempt: Attempt, event_id: str) -> None:
    """Remember that this entry is there: an event that is emitted later is a later one, however alike."""
    if attempt.operation_id:
        known = _known_of(redis)
        last_id = known.get(attempt.log)
        if last_id is None or EventId.parse(last_id) < EventId.parse(event_id):
            _remember(known, attempt.log, event_id)


def _remember(memory: OrderedDict[K, V], key: K, value: V) -> None:
    """Note something; what was noted longest ago is forgotten."""
    memory[key] = value
    memory.move_to_end(key)
    if len(memory) > _MOST_REMEMBERED:
        memory.popitem(last=False)
