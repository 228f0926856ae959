"""A socket such as systemd has: what a service tells it, datagram by datagram."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Listening:
    """The socket, and all that it has been told so far."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.told: list[dict[str, str]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self._socket.setblocking(False)

    def hear(self) -> list[dict[str, str]]:
        """What came in since the last call: the lines of each datagram."""
        news: list[dict[str, str]] = []
        while True:
            try:
                datagram = self._socket.recv(65536).decode()
            except BlockingIOError:
                self.told += news
                return news
            news.append(dict(line.split("=", 1) for line in datagram.split("\n")))

    def heard(self, name: str, words: str = "") -> bool:
        """Whether it was told, at any time, a value of this name with these words in it."""
        self.hear()
        return any(words in lines[name] for lines in self.told if name in lines)

    def close(self) -> None:
        self._socket.close()


@contextmanager
def listening(folder: Path | None) -> Iterator[Listening]:
    """Listen at a path in this folder, or at an abstract address."""
    manager = Listening(str(folder / "notify") if folder else f"@test-{secrets.token_hex(8)}")
    try:
        yield manager
    finally:
        manager.close()
