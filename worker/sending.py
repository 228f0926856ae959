"""Sending commands once, on one connection of a client that would repeat them by itself."""

from __future__ import annotations

import asyncio
import socket
import struct
from asyncio import StreamWriter
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ConnectionError,
    NoPermissionError,
    RedisError,
    ResponseError,
)

from worker.errors import EmitError, FeedPartitionsError
from worker.keys import Keys
from worker.redis_client import read_only

REFUSALS = (ResponseError, AuthenticationError, BusyLoadingError)
"""What a server answers that has understood a command and will not do it. (The last two are connection errors
to redis-py.)"""

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)

# Pools on which the number of partitions was found to agree, and for which keys.
_agreed: WeakKeyDictionary[object, set[Keys]] = WeakKeyDictionary()


async def agree_on_partitions(redis: Redis, keys: Keys) -> None:
    """Refuse to hint where no worker would look. The first worker that starts fixes the number.

    Raises FeedPartitionsError, or EmitError where it could not be asked for.
    """
    agreed = _agreed.setdefault(redis.connection_pool, set())
    if keys in agreed:
        return
    try:
        stored = await redis.get(keys.feed_partitions)
        if stored is None:
            return
        partitions = int(stored)
    except NoPermissionError:
        agreed.add(keys)  # A producer that may only append cannot ask; a wrong partition only costs time.
        return
    except (ResponseError, ValueError) as error:
        if isinstance(error, ResponseError) and not str(error).startswith("WRONGTYPE"):
            raise _not_asked(error) from error
        raise FeedPartitionsError(
            f"Key {keys.feed_partitions} holds no number: set it to {keys.partitions}."
        ) from None
    except (RedisError, OSError) as error:
        raise _not_asked(error) from error
    if partitions != keys.partitions:
        raise FeedPartitionsError(
            f"This producer spreads hints over {keys.partitions} feed partitions, the workers read "
            f"{partitions}: give emit Keys(partitions={partitions})."
        )
    agreed.add(keys)


def _not_asked(error: Exception) -> EmitError:
    return EmitError(f"Redis could not be asked for the number of feed partitions: {error}.")


async def exchange(connection: AbstractConnection, commands: list[tuple[str, ...]]) -> list[Any]:
    """One round trip: the reply to each command, or the error with which the server refuses it.

    Whatever else is raised, timeouts and cancellation too, the connection is aborted first. No reply is left
    for whoever gets it next, and of the commands no byte that is still on this side will ever be sent: the
    server has all of them by then, or never gets the last of them.
    """
    writer = connection._writer
    replies: list[Any] = []
    whole = False
    try:
        await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
        for _ in commands:
            try:
                replies.append(
                    await connection.read_response(disable_decoding=True, disconnect_on_error=False)
                )
            except REFUSALS as error:
                replies.append(error)
            except ConnectionError as error:
                if (refusal := read_only(error)) is None:
                    raise
                # The connection is closed. What follows is refused likewise, and so is its transaction.
                return replies + [refusal] * (len(commands) - len(replies))
        whole = True
    finally:
        if not whole:
            await _abort(connection, writer)
    return replies


async def _abort(connection: AbstractConnection, writer: StreamWriter | None) -> None:
    """Close a connection, and drop what waits in our buffers.

    redis-py's own way is a close in peace: asyncio, and after it the kernel, would go on sending what they
    hold, and a server that was only stalled would do it long after we have given up.
    """
    if writer is not None:
        if (sock := writer.get_extra_info("socket")) is not None:
            with suppress(OSError):  # It is closed already.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        writer.transport.abort()
    await connection.disconnect(nowait=True)
    await asyncio.sleep(0)  # In which asyncio closes the socket.


def refusal(reply: Exception) -> str:
    """What to say of a server that would not append an event; some of them end their own sentences."""
    return f"Redis refused the event; nothing was appended: {str(reply).rstrip('.')}."


def reply_to_log_entry(replies: list[Any]) -> Any:
    """What became of the log's entry: its id; the error that says why there is none; None where a watched key
    had changed.

    The replies are those to `Attempt.transaction`, or to the log's entry alone.
    """
    if len(replies) == 1:
        return replies[0]
    begun, log_entry, *_, executed = replies
    if isinstance(begun, REFUSALS):
        # Without the right to MULTI each command ran by itself, and the log's entry may well be there.
        return log_entry
    if isinstance(executed, REFUSALS):
        return next(reply for reply in replies if isinstance(reply, REFUSALS))  # The first says why.
    return None if executed is None else executed[0]
