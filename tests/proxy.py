"""A proxy in front of a server that sees what clients send, and is as bad a network as a test wants."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from threading import Event, Lock, Thread
from urllib.parse import urlsplit

_DEFAULT_PORTS = {"redis": 6379, "postgresql": 5432}
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True, eq=False)
class _Connection:
    """A client's connection and the one to the server that belongs to it."""

    client: socket.socket
    server: socket.socket
    losing: Event = field(default_factory=Event)

    def hang_up(self) -> None:
        for end in (self.client, self.server):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.client.close()
        self.server.close()


class TcpProxy:
    """Passes everything on until it is told otherwise; in threads of its own, so that nobody waits for it.

    ``sent`` is what clients sent, in pieces as they came, if it is to ``record``. Once a connection has sent
    the bytes ``lose`` (empty: any), it gets no more replies: with ``hang_up`` it is closed when the server
    has replied, else it stays silent. While ``refuse`` is set, new connections are reset, and so they are
    while the server, which may move to another ``server`` address, cannot be reached.
    """

    def __init__(self, url: str, *, record: bool = True) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self.server = (parts.hostname, parts.port or _DEFAULT_PORTS[parts.scheme])
        self._listener = socket.create_server(("127.0.0.1", 0))
        user = parts.netloc.rpartition("@")[0]
        port = self._listener.getsockname()[1]
        self.url = parts._replace(netloc=f"{user}@127.0.0.1:{port}" if user else f"127.0.0.1:{port}").geturl()
        self.sent: list[bytes] = []
        self.lose: bytes | None = None
        self.hang_up = True
        self.lost = 0
        self.refuse = False
        self._record = record
        self._requests_flow, self._replies_flow = Event(), Event()
        self.flow()
        self._lock = Lock()
        self._connections: set[_Connection] = set()
        self._threads: list[Thread] = []
        self._accepting = _started(self._accept)

    def stall(self, *, requests: bool = True) -> None:
        """Hold back replies, and requests too unless told otherwise, until `flow`. Nothing gets lost."""
        self._replies_flow.clear()
        if requests:
            self._requests_flow.clear()

    def flow(self) -> None:
        """Pass on what was held back, and everything from now on."""
        self._requests_flow.set()
        self._replies_flow.set()

    def cut(self) -> None:
        """Hang up on everybody; new connections are welcome."""
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            connection.hang_up()

    def close(self) -> None:
        """Hang up everywhere, for good."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listener.close()
        self.flow()
        self.cut()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        with suppress(OSError):  # The listener was closed.
            while True:
                client, _ = self._listener.accept()
                server = None if self.refuse else self._connect()
                if server is None:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
                    client.close()
                    continue
                self._begin(_Connection(client, server))

    def _connect(self) -> socket.socket | None:
        try:
            return socket.create_connection(self.server)
        except OSError:
            return None

    def _begin(self, connection: _Connection) -> None:
        for end in (connection.client, connection.server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            self._connections.add(connection)
            self._threads = [thread for thread in self._threads if thread.is_alive()]
            self._threads.append(_started(lambda: self._serve(connection)))

    def _serve(self, connection: _Connection) -> None:
        replying = _started(lambda: self._reply(connection))
        self._send(connection)
        replying.join()
        with self._lock:
            self._connections.discard(connection)
        connection.close()

    def _send(self, connection: _Connection) -> None:
        with suppress(OSError):
            while data := connection.client.recv(65536):
                if self._record:
                    self.sent.append(data)
                self._requests_flow.wait()
                if self.lose is not None and self.lose in data:
                    connection.losing.set()
                connection.server.sendall(data)
        connection.hang_up()

    def _reply(self, connection: _Connection) -> None:
        with suppress(OSError):
            while data := connection.server.recv(65536):
                self._replies_flow.wait()
                if not connection.losing.is_set():
                    connection.client.sendall(data)
                    continue
                self.lost += 1
                if self.hang_up:
                    break
        connection.hang_up()


def _started(target: Callable[[], None]) -> Thread:
    thread = Thread(target=target, daemon=True)
    thread.start()
    return thread


@contextmanager
def redis_proxy(redis_url: str) -> Iterator[TcpProxy]:
    """A proxy on a free port that records what is sent, while the block lasts."""
    proxy = TcpProxy(redis_url)
    try:
        yield proxy
    finally:
        proxy.close()
