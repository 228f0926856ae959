"""What ``REDIS_URL`` names: one server, sentinels that know which is the master, or nodes of a cluster."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from typing import Any, NoReturn
from urllib.parse import parse_qs, unquote

from redis.asyncio.connection import parse_url

from worker.address import LARGEST_PORT, Address
from worker.certificates import check_certificates
from worker.errors import SettingsError

_SENTINEL_PORT, _SERVER_PORT = 26_379, 6_379
_URL = re.compile(
    r"(?P<scheme>[a-z+]+)://(?:(?P<account>[^/?#]*)@)?(?P<hosts>[^/?#@]*)(?P<path>/[^?#]*)?(?:\?(?P<query>[^#]*))?"
)
_ADDRESS = re.compile(r"(?:\[(?P<ipv6>[^\]]+)\]|(?P<host>[\w.-]+))(?::(?P<port>[0-9]{1,5}))?", re.ASCII)
_PARAMETERS = {"db", "protocol", "client_name"}
_SENTINEL_PARAMETERS = {"sentinel_username", "sentinel_password"}
_TLS_PARAMETERS = {
    "ssl_ca_certs",
    "ssl_certfile",
    "ssl_keyfile",
    "ssl_password",
    "ssl_cert_reqs",
    "ssl_check_hostname",
}
_SENTINEL_FORM = "redis+sentinel://:password@host1:26379,host2:26379/service-name/0"
_CLUSTER_FORM = "redis+cluster://:password@host1:6379,host2:6379"
_FORMS = {
    "redis": "redis://:password@host:6379/0",
    "rediss": "rediss://:password@host:6379/0",
    "unix": "unix:///path/to/socket?db=0",
    "redis+sentinel": _SENTINEL_FORM,
    "rediss+sentinel": _SENTINEL_FORM.replace("redis", "rediss", 1),
    "redis+cluster": _CLUSTER_FORM,
    "rediss+cluster": _CLUSTER_FORM.replace("redis", "rediss", 1),
}

Options = Mapping[str, Any]
"""Of a connection, as redis-py calls them: username, password, db, protocol, client_name and ssl_...

What was not in the URL is not in here.
"""


@dataclass(frozen=True, slots=True)
class Server:
    """One server; where it is, and whether by TLS, is among the options, too (``connection_class``)."""

    options: Options = field(repr=False)


@dataclass(frozen=True, slots=True)
class Sentinels:
    """Sentinels, which know what server is the master of this service now; never empty."""

    addresses: tuple[Address, ...]
    service: str
    tls: bool
    """To the sentinels and to the servers."""
    options: Options = field(repr=False)
    """Of connections to the servers."""
    sentinel_options: Options = field(repr=False)
    """Of connections to the sentinels."""


@dataclass(frozen=True, slots=True)
class ClusterNodes:
    """Nodes of a cluster, any of which know all others; never empty. A cluster has no db but 0."""

    addresses: tuple[Address, ...]
    tls: bool
    options: Options = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Parts:
    """A URL cut into pieces, for urllib knows no more than one host; ``account`` is user and password."""

    scheme: str
    account: str = field(repr=False)
    hosts: str
    path: str
    query: str = field(repr=False)

    @property
    def tls(self) -> bool:
        return self.scheme.startswith("rediss")

    @property
    def server_scheme(self) -> str:
        """The scheme of one server that is connected to likewise."""
        return self.scheme.partition("+")[0]


RedisUrl = Server | Sentinels | ClusterNodes


def parse_redis_url(url: str) -> RedisUrl:
    """Raise SettingsError, without repeating the URL, which may hold a password, for one that would not do.

    Parameters that change how replies look or how long they may take are not for the environment to set.
    Files that TLS needs are looked into.
    """
    scheme = url.partition("://")[0]
    if scheme not in _FORMS:
        raise SettingsError(f"REDIS_URL is not understood; write it as {', '.join(_FORMS.values())}.")
    read = _URL.fullmatch(url)
    if read is None:
        _misunderstood(scheme)
    parts = _Parts(**read.groupdict(default=""))
    _check_parameters(parts)
    _, _, kind = scheme.partition("+")
    if kind == "sentinel":
        return _sentinels(parts)
    return _cluster(parts) if kind == "cluster" else _server(parts)


def names_cluster(url: str) -> bool:
    """Whether a URL is one of a cluster, right or wrong as the rest of it may be."""
    return url.partition("://")[0].endswith("+cluster")


def _misunderstood(scheme: str) -> NoReturn:
    raise SettingsError(
        f"REDIS_URL is not understood; write it as {_FORMS[scheme]}, with an IPv6 address in brackets, and "
        "percent-encode what is no letter or digit in a password."
    ) from None


def _check_parameters(parts: _Parts) -> None:
    names = parse_qs(parts.query, keep_blank_values=True).keys()
    known = _PARAMETERS | (_SENTINEL_PARAMETERS if parts.scheme.endswith("+sentinel") else set())
    unknown = {name for name in names if name not in known and not name.startswith("ssl_")}
    if not unknown:
        return
    if "@" in parts.query and not parts.account:
        _misunderstood(parts.scheme)  # A ? in a password: its rest is no name of a parameter to be shown.
    raise SettingsError(
        f"REDIS_URL has parameters that are not understood: {', '.join(sorted(unknown))}. "
        f"Only {', '.join(sorted(known))} and ssl_... are."
    )


def _server(parts: _Parts) -> Server:
    options = _options(parts, parts.scheme, parts.hosts, parts.path)
    if (parts.scheme != "unix" and not _is_db(parts.path.strip("/"))) or "," in parts.hosts:
        _misunderstood(parts.scheme)
    return Server(options)


def _sentinels(parts: _Parts) -> Sentinels:
    addresses = _addresses(parts, _SENTINEL_PORT)
    service, _, db = parts.path.removeprefix("/").partition("/")
    if not service:
        raise SettingsError(
            "REDIS_URL does not say which master it means: write the name of the service that the sentinels "
            f"monitor behind them, as in {_FORMS[parts.scheme]}."
        )
    parameters = parse_qs(parts.query)
    if db and "db" in parameters:
        raise SettingsError("REDIS_URL says twice what db it means: write it behind the service, or as ?db=.")
    if not _is_db(db):
        _misunderstood(parts.scheme)
    options = _options(parts, parts.server_scheme, "host", f"/{db}")
    own = {name: parameters[name][0] for name in _SENTINEL_PARAMETERS & parameters.keys()}
    return Sentinels(
        addresses,
        unquote(service),
        tls=parts.tls,
        options=_without(options, "host", "connection_class", *own),
        sentinel_options={name: value for name, value in options.items() if name.startswith("ssl_")}
        | {name.removeprefix("sentinel_"): value for name, value in own.items()},
    )


def _cluster(parts: _Parts) -> ClusterNodes:
    addresses = _addresses(parts, _SERVER_PORT)
    options = _options(parts, parts.server_scheme, "host", parts.path)
    if parts.path.strip("/") not in ("", "0") or options.get("db", 0) != 0:
        raise SettingsError(
            f"REDIS_URL asks a cluster for a db, but it has none but 0: write {_FORMS[parts.scheme]}."
        )
    return ClusterNodes(
        addresses,
        tls=parts.tls,
        options=_without(options, "host", "connection_class", "db"),
    )


def _options(parts: _Parts, scheme: str, host: str, path: str) -> dict[str, Any]:
    """What redis-py understands of the URL, were it one of this one host."""
    account = f"{parts.account}@" if parts.account else ""
    try:
        options: dict[str, Any] = dict(parse_url(f"{scheme}://{account}{host}{path}?{parts.query}"))
    except ValueError:
        _misunderstood(parts.scheme)
    if options.get("db", 0) < 0:
        _misunderstood(parts.scheme)
    if "protocol" in options:  # redis-py below 8 leaves it as text, whatever it says
        if not str(options["protocol"]).isdecimal():
            _misunderstood(parts.scheme)
        options["protocol"] = int(options["protocol"])
        if options["protocol"] not in (2, 3):
            raise SettingsError("REDIS_URL asks for a protocol that Redis does not speak; it may be 2 or 3.")
    _check_tls(parts, {name: str(value) for name, value in options.items() if name.startswith("ssl_")})
    return options


def _is_db(text: str) -> bool:
    return not text or (text.isascii() and text.isdecimal())


def _without(options: Options, *names: str) -> Options:
    return {name: value for name, value in options.items() if name not in names}


def _addresses(parts: _Parts, default_port: int) -> tuple[Address, ...]:
    return tuple(_address(parts.scheme, text, default_port) for text in parts.hosts.split(","))


def _address(scheme: str, text: str, default_port: int) -> Address:
    read = _ADDRESS.fullmatch(text)
    if read is None or not 0 < (port := int(read["port"] or default_port)) <= LARGEST_PORT:
        _misunderstood(scheme)
    try:
        return Address(read["host"] or str(IPv6Address(read["ipv6"])), port)
    except ValueError:
        _misunderstood(scheme)


def _check_tls(parts: _Parts, options: Mapping[str, str]) -> None:
    if not parts.tls:
        if options:
            secure = "rediss" if parts.scheme == "unix" else parts.scheme.replace("redis", "rediss")
            raise SettingsError(
                f"REDIS_URL has {', '.join(sorted(options))}, but begins with {parts.scheme}://: "
                f"write {secure}://."
            )
        return
    if unknown := options.keys() - _TLS_PARAMETERS:
        raise SettingsError(
            f"REDIS_URL has parameters that are not understood: {', '.join(sorted(unknown))}. "
            f"Of those for TLS only {', '.join(sorted(_TLS_PARAMETERS))} are."
        )
    if options.get("ssl_cert_reqs", "required") not in ("none", "optional", "required"):
        raise SettingsError("REDIS_URL has a wrong ssl_cert_reqs; it may be required, optional or none.")
    check_certificates(
        "REDIS_URL",
        authorities=options.get("ssl_ca_certs"),
        certificate=options.get("ssl_certfile"),
        key=options.get("ssl_keyfile"),
        password=options.get("ssl_password"),
    )
