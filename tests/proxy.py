"""A proxy in front of Redis that sees what clients send and can lose the replies."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Event, Lock, Thread
from urllib.parse import urlsplit


class RedisProxy:
    """Passes everything on until it is told otherwise; in threads of its own, so that nobody waits for it.

    ``sent`` is what clients sent, in pieces as they came. Once a connection has sent the bytes ``lose``, it
    gets no more replies: with ``hang_up`` it is closed when the server has replied, else it stays silent.
    """

    def __init__(self, redis_url: str) -> None:
        url = urlsplit(redis_url)
        assert url.hostname is not None
        self._server = (url.hostname, url.port or 6379)
        self._listener = socket.create_server(("127.0.0.1", 0))
        user = url.netloc.rpartition("@")[0]
        port = self._listener.getsockname()[1]
        self.url = url._replace(netloc=f"{user}@127.0.0.1:{port}" if user else f"127.0.0.1:{port}").geturl()
        self.sent: list[bytes] = []
        self.lose: bytes | None = None
        self.hang_up = True
        self.lost = 0
        self._lock = Lock()
        self._sockets: list[socket.socket] = [self._listener]
        self._threads: list[Thread] = []
        self._start(self._accept)

    def _start(self, target: object, *args: object) -> None:
        thread = Thread(target=target, args=args, daemon=True)  # type: ignore[arg-type]
        with self._lock:
            self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):  # The listener was closed.
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                with self._lock:
                    self._sockets += [client, server]
                losing = Event()
                self._start(self._send, client, server, losing)
                self._start(self._reply, server, client, losing)

    def _send(self, client: socket.socket, server: socket.socket, losing: Event) -> None:
        with suppress(OSError):
            while data := client.recv(65536):
                self.sent.append(data)
                if self.lose is not None and self.lose in data:
                    losing.set()
                server.sendall(data)
        _hang_up(client, server)

    def _reply(self, server: socket.socket, client: socket.socket, losing: Event) -> None:
        with suppress(OSError):
            while data := server.recv(65536):
                if not losing.is_set():
                    client.sendall(data)
                    continue
                self.lost += 1
                if self.hang_up:
                    break
        _hang_up(client, server)

    def close(self) -> None:
        """Hang up everywhere."""
        _hang_up(*self._sockets)
        for thread in self._threads:
            thread.join()
        for end in self._sockets:
            end.close()


def _hang_up(*ends: socket.socket) -> None:
    for end in ends:
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


@contextmanager
def redis_proxy(redis_url: str) -> Iterator[RedisProxy]:
    """A proxy on a free port, while the block lasts."""
    proxy = RedisProxy(redis_url)
    try:
        yield proxy
    finally:
        proxy.close()
