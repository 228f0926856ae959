"""The connection to PostgreSQL: URLs as people write them, and the engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from sqlalchemy import URL, event, make_url
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from worker.certificates import check_certificates
from worker.errors import SettingsError
from worker.transaction import WorkerConnection
from worker.trouble import Trouble, classify

_DRIVERS = {"postgresql", "postgres", "postgresql+asyncpg"}
_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_CHECKING_MODES = ("require", "verify-ca", "verify-full")
_CERTIFICATES = ("sslrootcert", "sslcert", "sslkey", "sslpassword")
_CONNECT_TIMEOUT_SECONDS = 10
_COMMAND_TIMEOUT_SECONDS = 60  # Above every timeout of the server: only a dead connection gets here.


def parse_database_url(text: str) -> URL:
    """The SQLAlchemy URL for ``postgresql://``, ``postgres://`` or ``postgresql+asyncpg://``.

    A unix socket is written as for libpq, ``postgresql://user@/name?host=/folder``, and so are ``sslmode``,
    ``sslrootcert``, ``sslcert``, ``sslkey`` and ``sslpassword``. Raises SettingsError with a sentence that
    does not repeat the URL, which may hold a password.
    """
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise SettingsError(
            "DATABASE_URL is not a URL; write it as postgresql://user:password@host:5432/name."
        ) from None
    if url.drivername not in _DRIVERS:
        raise SettingsError(
            f"DATABASE_URL begins with {url.drivername}://; only postgresql://, postgres:// and "
            "postgresql+asyncpg:// are understood."
        )
    query = dict(url.query)
    if "sslmode" in query:
        query["ssl"] = query.pop("sslmode")
    if query.get("ssl", "prefer") not in _SSL_MODES:
        raise SettingsError(f"DATABASE_URL has a wrong sslmode; it may be {', '.join(_SSL_MODES)}.")
    if unknown := query.keys() - {"ssl", "host", "port", "application_name", *_CERTIFICATES}:
        raise SettingsError(
            f"DATABASE_URL has parameters that are not understood: {', '.join(sorted(unknown))}. "
            f"Only host, port, application_name, sslmode, {', '.join(_CERTIFICATES)} are."
        )
    return url.set(drivername="postgresql+asyncpg", query=_with_certificates(query))


def _with_certificates(query: Mapping[str, Any]) -> dict[str, Any]:
    """The same parameters, with those on certificates in a DSN, from which alone asyncpg takes them."""
    files = {name: str(query[name]) for name in _CERTIFICATES if name in query}
    if not files:
        return dict(query)
    rest = {name: value for name, value in query.items() if name not in files}
    mode = rest.pop("ssl", None)
    if mode not in _CHECKING_MODES:
        raise SettingsError(
            f"DATABASE_URL has {', '.join(files)}, which nothing looks at without sslmode=verify-full (or "
            "verify-ca, or require): add it."
        )
    check_certificates(
        "DATABASE_URL",
        authorities=files.get("sslrootcert"),
        certificate=files.get("sslcert"),
        key=files.get("sslkey"),
        password=files.get("sslpassword"),
    )
    return {**rest, "dsn": f"postgresql://?{urlencode({'sslmode': mode, **files})}"}


def make_engine(url: URL, *, pool_size: int, application_name: str) -> AsyncEngine:
    """An engine whose transactions are explicitly READ COMMITTED, which the store's locking relies on.

    After any error that asks for a new connection, all connections are renewed before they are used again: a
    session of a server that was demoted stays read-only until it ends.
    """
    name = url.query.get("application_name", application_name)
    connect_args: dict[str, Any] = {
        "timeout": _CONNECT_TIMEOUT_SECONDS,
        "command_timeout": _COMMAND_TIMEOUT_SECONDS,
        "server_settings": {"application_name": name},
        "connection_class": WorkerConnection,
    }
    engine = create_async_engine(
        url.difference_update_query(["application_name"]),
        isolation_level="READ COMMITTED",
        pool_size=pool_size,
        max_overflow=0,
        pool_use_lifo=True,  # Each connection prepares its statements anew: so few of them serve as can.
        pool_pre_ping=False,
        connect_args=connect_args,
    )
    event.listen(engine.sync_engine, "handle_error", _renew_connections)
    return engine


def _renew_connections(context: ExceptionContext) -> None:
    """Have SQLAlchemy treat the connection, and all others that are as old, as lost.

    Of itself it does so for connections that are closed already.
    """
    if classify(context.original_exception) is Trouble.RECONNECT:
        context.is_disconnect = True
