"""HTTP for probes, metrics and the status page: a few paths that tell, and none that does anything.

The server runs in the worker's loop, so that no answer comes while the loop stands still. Every connection is
for one request and has a deadline, and there are only so many: the oldest makes room. So clients that are
slow, or many, hold up each other for a while, and the worker not at all.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import h11
import structlog
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from worker.address import Address
from worker.errors import SettingsError

log = structlog.get_logger("http")

_CONNECTION_SECONDS = 10.0
_MOST_CONNECTIONS = 64
_MOST_HEADER_BYTES = 16 * 1024
_STOP_SECONDS = 1
_TEXT = "text/plain; charset=utf-8"
_HEADERS = [
    (
        "content-security-policy",
        "default-src 'none'; connect-src 'self'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cache-control", "no-store"),
]


@dataclass(frozen=True, slots=True)
class Answer:
    """What is sent back. Text says ``content_type`` by itself."""

    status: int
    body: bytes
    content_type: str = _TEXT

    @classmethod
    def text(cls, status: int, *lines: str) -> Answer:
        """Lines of plain text."""
        return cls(status, "".join(f"{line}\n" for line in lines).encode())


Routes = Mapping[str, Callable[[], Answer]]
"""What is answered at each path. It must not block, nor wait for anybody."""


@asynccontextmanager
async def serve_http(address: Address, routes: Routes) -> AsyncIterator[Address]:
    """Answer GET and HEAD at these paths while the block lasts, and give the address with its real port.

    Raises SettingsError where the address cannot be had.
    """
    listening = _listen(address)
    config = uvicorn.Config(
        _Site(routes),
        http=_Connection,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        log_level="critical",  # Whoever sends nonsense is not to fill the log.
        access_log=False,
        proxy_headers=False,
        server_header=False,
        headers=_HEADERS,
        h11_max_incomplete_event_size=_MOST_HEADER_BYTES,
        timeout_graceful_shutdown=_STOP_SECONDS,
    )
    server = _Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        yield Address(address.host, listening.getsockname()[1])
    finally:
        server.should_exit = True
        await serving


def _listen(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        listening = socket.create_server((address.host, address.port), family=family)
    except OSError as error:  # The host has no such name or address, or the port is taken or not for us.
        raise SettingsError(
            f"WORKER_HTTP_ADDRESS is {address}, where this process cannot listen ({error.strerror}); "
            "give each worker of a host an address of its own, or leave it empty for none."
        ) from None
    listening.setblocking(False)
    return listening


class _Server(uvicorn.Server):
    """A server that leaves signals to the worker."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Connection(H11Protocol):
    """A connection with a deadline, which covers reading the request and sending the answer."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        super().connection_made(transport)
        self.deadline = self.loop.call_later(_CONNECTION_SECONDS, transport.abort)
        if len(self.connections) > _MOST_CONNECTIONS:
            oldest = min(
                (other for other in self.connections if isinstance(other, _Connection)),
                key=lambda other: other.deadline.when(),
            )
            self.connections.discard(oldest)
            oldest.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.deadline.cancel()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        try:
            super().send_400_response(msg)
        except h11.LocalProtocolError:  # It has its answer already: what came behind the request is nonsense.
            self.transport.abort()


Message = MutableMapping[str, Any]


class _Site:
    """The paths as an ASGI application."""

    def __init__(self, routes: Routes) -> None:
        self._routes = routes

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        answer = self._answer(scope["method"], scope["path"])
        headers = [
            (b"content-type", answer.content_type.encode()),
            (b"content-length", str(len(answer.body)).encode()),
            (b"connection", b"close"),
        ]
        if answer.status == 405:
            headers.append((b"allow", b"GET, HEAD"))
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})

    def _answer(self, method: str, path: str) -> Answer:
        route = self._routes.get(path)
        if method not in ("GET", "HEAD"):
            return Answer.text(405, "Only GET and HEAD.")
        if route is None:
            return Answer.text(404, "There is nothing here.")
        try:
            return route()
        except Exception:
            log.exception("http_answer_failed", path=path)
            return Answer.text(500, "The answer could not be made; the worker's log says why.")
