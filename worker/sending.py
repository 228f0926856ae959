"""One round trip on one connection: commands that are sent once, whatever the client would do by itself."""

from __future__ import annotations

import asyncio
import socket
import struct
from asyncio import StreamWriter
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ConnectionError,
    ReadOnlyError,
    ResponseError,
)

Command = tuple[Any, ...]
"""A command and its arguments."""

REFUSALS = (ResponseError, AuthenticationError, BusyLoadingError)
"""What a server answers that has understood a command and will not do it. (The last two are connection errors
to redis-py.)"""

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class NotSentError(ConnectionError):
    """There was no connection to send a command on, so that it was done nowhere."""


def read_only(error: BaseException) -> ReadOnlyError | None:
    """The refusal of a master that is none any more, which this error is or stands for.

    redis-py's clients of sentinels turn it into a ConnectionError, which sounds as if the reply was lost.
    """
    for at in (error, error.__context__):
        if isinstance(at, ReadOnlyError):
            return at
    return None


async def exchange(connection: AbstractConnection, commands: Sequence[Command]) -> list[Any]:
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


def transaction(entry: Command, hints: Sequence[Command]) -> list[Command]:
    """The commands that append an entry to a log and its hints to the feed, or neither."""
    return [("MULTI",), entry, *hints, ("EXEC",)]


def reply_to_log_entry(replies: list[Any]) -> Any:
    """What became of the log's entry: its id; the error that says why there is none; None where a watched key
    had changed.

    The replies are those to `transaction`, or to the log's entry alone.
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
