"""Servers behind TLS, with certificates of an authority of the test's own.

The servers in the wheels are built without TLS. So it is spoken by a front, in the event loop of the test,
which asks for the certificates of clients, too, if it is told to; behind it the bytes go on as they are.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote, urlsplit

import trustme

HOST = "localhost"
PASSED = datetime.now(UTC) - timedelta(days=1)
_SSL_REQUEST_BYTES = 8


class Authority:
    """An authority, and the files in which its certificates lie."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self._ca = trustme.CA()
        self.file = folder / "ca.pem"
        self._ca.cert_pem.write_to_path(self.file)

    def issue(self, name: str = HOST, *, until: datetime | None = None) -> tuple[Path, Path]:
        """A certificate for this name, and its key."""
        issued = self._ca.issue_cert(name, not_after=until)
        certificate, key = (self._folder / f"{name}{suffix}" for suffix in (".pem", ".key"))
        certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(key)
        return certificate, key


def server_context(certificate: tuple[Path, Path], clients: Authority | None = None) -> ssl.SSLContext:
    """What a server with this certificate speaks; it wants its clients to have one of theirs."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    if clients is not None:
        context.load_verify_locations(clients.file)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


@asynccontextmanager
async def behind_tls(url: str, context: ssl.SSLContext) -> AsyncIterator[str]:
    """The URL of a front of this server, which is a Redis or a PostgreSQL."""
    parts = urlsplit(url)
    is_postgresql = parts.scheme == "postgresql"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            if is_postgresql:
                await reader.readexactly(_SSL_REQUEST_BYTES)
                writer.write(b"S")
                await writer.start_tls(context)
            await _pass_on(reader, writer, *await asyncio.open_connection(parts.hostname, parts.port))
        writer.transport.abort()

    front = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=None if is_postgresql else context)
    user = parts.netloc.rpartition("@")[0]
    netloc = f"{user}@{HOST}:{front.sockets[0].getsockname()[1]}"
    scheme = parts.scheme if is_postgresql else "rediss"
    try:
        yield parts._replace(scheme=scheme, netloc=netloc).geturl()
    finally:
        front.close()


async def _pass_on(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    server_reader: asyncio.StreamReader,
    server_writer: asyncio.StreamWriter,
) -> None:
    """Until one of them hangs up."""
    pumps = [
        asyncio.create_task(_pump(reader, server_writer)),
        asyncio.create_task(_pump(server_reader, writer)),
    ]
    try:
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
    finally:
        server_writer.transport.abort()
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while data := await source.read(65536):
        sink.write(data)
        await sink.drain()


def with_parameters(url: str, **parameters: object) -> str:
    """The URL with these in its query."""
    query = "&".join(f"{name}={quote(str(value), safe='')}" for name, value in parameters.items())
    return f"{url}?{query}"
