"""A proxy in front of Redis that sees what clients send and can lose the replies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit


class RedisProxy:
    """Passes everything on until it is told otherwise.

    ``sent`` is what clients sent, in pieces as they came. While ``lose`` is set, the connection on which its
    bytes were sent gets no more replies: with ``hang_up`` it is closed once the server has replied, else it
    just stays silent.
    """

    def __init__(self, redis_url: str) -> None:
        self._server = urlsplit(redis_url)
        self.url = ""
        self.sent: list[bytes] = []
        self.lose: bytes | None = None
        self.hang_up = True
        self.lost = 0

    def listens_at(self, port: int) -> None:
        """Note the port under which clients find the proxy."""
        user = self._server.netloc.rpartition("@")[0]
        netloc = f"{user}@127.0.0.1:{port}" if user else f"127.0.0.1:{port}"
        self.url = self._server._replace(netloc=netloc).geturl()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client's connection."""
        server_reader, server_writer = await asyncio.open_connection(self._server.hostname, self._server.port)
        losing = asyncio.Event()
        pumps = [
            asyncio.create_task(self._send(reader, server_writer, losing)),
            asyncio.create_task(self._reply(server_reader, writer, losing)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.wait(pumps)
            for end in (writer, server_writer):
                end.close()

    async def _send(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, losing: asyncio.Event
    ) -> None:
        while data := await reader.read(65536):
            self.sent.append(data)
            if self.lose is not None and self.lose in data:
                losing.set()
            writer.write(data)
            await writer.drain()

    async def _reply(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, losing: asyncio.Event
    ) -> None:
        while data := await reader.read(65536):
            if losing.is_set():
                self.lost += 1
                if self.hang_up:
                    return
                continue
            writer.write(data)
            await writer.drain()


@asynccontextmanager
async def redis_proxy(redis_url: str) -> AsyncIterator[RedisProxy]:
    """A proxy on a free port, while the block lasts."""
    proxy = RedisProxy(redis_url)
    connections: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        with suppress(OSError):
            await proxy.serve(reader, writer)
        connections.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    proxy.listens_at(server.sockets[0].getsockname()[1])
    async with server:
        yield proxy
        server.close()
        for connection in list(connections):
            connection.cancel()
        if connections:
            await asyncio.wait(connections)
