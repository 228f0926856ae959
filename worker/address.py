"""Where the worker listens: a host and a port, as a setting names them."""

from __future__ import annotations

from dataclasses import dataclass

from worker.errors import SettingsError

_EXAMPLES = "127.0.0.1:9464, 0.0.0.0:9464 or [::]:9464"
LARGEST_PORT = 65_535


@dataclass(frozen=True, slots=True)
class Address:
    """Port 0 is any that is free. An IPv6 address stands without its brackets here."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address | None:
    """Read ``host:port``, with brackets around an IPv6 address; None where the text is empty.

    Raises SettingsError, whose message does not name the variable.
    """
    if not text:
        return None
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    if not colon or not host or any(map(str.isspace, host)) or (":" in host) != bracketed:
        raise SettingsError(f"it is no address; write host and port, such as {_EXAMPLES}, or nothing")
    if not (port.isascii() and port.isdecimal() and int(port) <= LARGEST_PORT):
        raise SettingsError(f"its port is no number up to {LARGEST_PORT}; write for example {_EXAMPLES}")
    return Address(host, int(port))
