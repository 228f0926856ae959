"""HTTP as an outsider speaks it: bytes in, bytes out, well-formed or not."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass

from worker.address import Address

ANSWER_SECONDS = 20


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back; header names are in small letters."""

    status: int
    headers: dict[str, str]
    body: bytes


async def send(address: Address, request: bytes) -> bytes:
    """Send these bytes, and give all that comes back until the server closes the connection."""
    async with asyncio.timeout(ANSWER_SECONDS):
        reader, writer = await asyncio.open_connection(address.host, address.port)
        try:
            writer.write(request)
            received = b""
            while chunk := await reader.read(65_536):
                received += chunk
            return received
        except ConnectionError:  # The server had enough of us before we had sent everything.
            return received
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()


async def ask(address: Address, path: str, method: str = "GET", headers: str = "") -> Reply:
    """One request, as a client that means well sends it."""
    request = f"{method} {path} HTTP/1.1\r\nHost: somewhere\r\n{headers}\r\n"
    return parse(await send(address, request.encode()))


def parse(received: bytes) -> Reply:
    """The one answer that these bytes are."""
    head, _, body = received.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    return Reply(int(status.split()[1]), {name.lower(): value for name, value in headers.items()}, body)
