"""Where the worker of `dev` shows its status page."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace

from worker.address import Address, parse_address
from worker.errors import SettingsError
from worker.settings import Settings, variable

_VARIABLE = variable("http_address")
_DEFAULT = parse_address(Settings.model_fields["http_address"].default)
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared with, not listened at


@dataclass(frozen=True, slots=True)
class StatusPage:
    """The variables that the worker must be given, and the page's URL; None where there is no page."""

    variables: Mapping[str, str]
    url: str | None


def choose_status_page(environ: Mapping[str, str]) -> StatusPage:
    """As the environment says; else at the default address or, where that is taken, at a free port."""
    if (chosen := environ.get(_VARIABLE)) is not None:
        return StatusPage({}, _url(chosen))
    assert _DEFAULT is not None
    try:
        socket.create_server((_DEFAULT.host, _DEFAULT.port)).close()
    except OSError:
        free = str(replace(_DEFAULT, port=_free_port(_DEFAULT.host)))
        return StatusPage({_VARIABLE: free}, _url(free))
    return StatusPage({}, _url(str(_DEFAULT)))


def _free_port(host: str) -> int:
    with socket.create_server((host, 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


def _url(text: str) -> str | None:
    """The page's URL as a browser on this host opens it; None also where the worker refuses the address."""
    try:
        address = parse_address(text)
    except SettingsError:
        return None
    if address is None or address.port == 0:  # a port that only the worker's log tells
        return None
    return f"http://{Address(_EVERYWHERE.get(address.host, address.host), address.port)}/"
