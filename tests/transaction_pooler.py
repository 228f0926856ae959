"""A pooler in front of PostgreSQL that lends a server session for one transaction.

It knows nothing of prepared statements, like PgBouncer in transaction mode before its version 1.21; or, if it
is told to keep them, prepares them again where it takes a client to.
"""

from __future__ import annotations

import asyncio
import struct
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

_SSL_REQUEST = 80877103
_READY, _TERMINATE, _PARSE, _IDLE = b"Z", b"X", b"P", b"I"
_SYNC = b"S\0\0\0\4"


@dataclass(eq=False)
class _Client:
    """A client, and the session that it has at present."""

    writer: StreamWriter
    session: _Session | None = None
    statements: dict[bytes, bytes] = field(default_factory=dict)


@dataclass(eq=False)
class _Session:
    """A session of the server, and the client that has it at present.

    So many answers are to be kept from the client as are ``unasked``.
    """

    reader: StreamReader
    writer: StreamWriter
    client: _Client | None
    statements: set[bytes] = field(default_factory=set)
    unasked: int = 0

    def prepare(self, client: _Client) -> None:
        """Have the statements of a client that are not there."""
        for name in client.statements.keys() - self.statements:
            self.writer.write(client.statements[name] + _SYNC)
            self.unasked += 1
        self.statements |= client.statements.keys()


@dataclass
class _Pooler:
    host: str
    port: int
    keeps_statements: bool
    idle: asyncio.Queue[_Session]
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    writers: list[StreamWriter] = field(default_factory=list)

    async def serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        """One client from its first byte to its last; it brings a session, authenticated as it is itself."""
        self.writers.append(writer)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            startup = await _untyped(reader)
            if struct.unpack("!I", startup[4:8])[0] == _SSL_REQUEST:
                writer.write(b"N")
                startup = await _untyped(reader)
            client = _Client(writer)
            servers_reader, servers_writer = await asyncio.open_connection(self.host, self.port)
            self.writers.append(servers_writer)
            client.session = _Session(servers_reader, servers_writer, client)
            servers_writer.write(startup)
            self.tasks.add(asyncio.create_task(self.give_back(client.session)))
            while (message := await _typed(reader))[:1] != _TERMINATE:
                if client.session is None:
                    client.session = await self.idle.get()
                    client.session.client = client
                    client.session.prepare(client)
                if message[:1] == _PARSE and self.keeps_statements:
                    self.note(message, client, client.session)
                client.session.writer.write(message)
        writer.close()

    def note(self, message: bytes, client: _Client, session: _Session) -> None:
        """Remember a statement that has a name."""
        if name := message[5:].partition(b"\0")[0]:
            client.statements[name] = message
            session.statements.add(name)

    async def give_back(self, session: _Session) -> None:
        """Pass on what a session says; when its transaction is over, it is for others."""
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                message = await _typed(session.reader)
                client = session.client
                assert client is not None
                if session.unasked:
                    session.unasked -= message[:1] == _READY
                    continue
                if message[:1] == _READY and message[-1:] == _IDLE:
                    client.session = session.client = None
                    self.idle.put_nowait(session)
                client.writer.write(message)


async def _untyped(reader: StreamReader) -> bytes:
    length = await reader.readexactly(4)
    return length + await reader.readexactly(struct.unpack("!I", length)[0] - 4)


async def _typed(reader: StreamReader) -> bytes:
    return await reader.readexactly(1) + await _untyped(reader)


@asynccontextmanager
async def transaction_pooler(
    url: str, *, keeps_statements: bool = False, in_turn: bool = False
) -> AsyncIterator[str]:
    """The URL by which to reach this database through a pooler.

    It lends its sessions ``in_turn``, or that which came back last.
    """
    parts = urlsplit(url)
    assert parts.hostname
    idle: asyncio.Queue[_Session] = asyncio.Queue() if in_turn else asyncio.LifoQueue()
    pooler = _Pooler(parts.hostname, parts.port or 5432, keeps_statements, idle)
    server = await asyncio.start_server(pooler.serve, "127.0.0.1", 0)
    try:
        user = parts.netloc.rpartition("@")[0]
        yield parts._replace(netloc=f"{user}@127.0.0.1:{server.sockets[0].getsockname()[1]}").geturl()
    finally:
        server.close()
        for writer in pooler.writers:
            writer.close()
        await asyncio.gather(*pooler.tasks)
