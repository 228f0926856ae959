"""The worker's own Redis client, and its few differences from redis-py's defaults."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

from redis.asyncio import Redis
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.client import NEVER_DECODE
from redis.exceptions import NoScriptError, RedisError, ResponseError

from worker.certificates import check_certificates
from worker.errors import SettingsError

READ_BLOCK = timedelta(seconds=0.5)
"""How long a read of the feed waits for hints, and so how late it may notice a stop or a new partition."""

_SOCKET_TIMEOUT_SECONDS = 10.0
_SCHEMES = ("redis://", "rediss://", "unix://")
_PARAMETERS = {"db", "protocol", "client_name"}
_TLS_PARAMETERS = {
    "ssl_ca_certs",
    "ssl_certfile",
    "ssl_keyfile",
    "ssl_password",
    "ssl_cert_reqs",
    "ssl_check_hostname",
}
_RAW_COMMANDS = ("XRANGE", "XREVRANGE", "XREADGROUP", "XAUTOCLAIM", "XPENDING")


def check_redis_url(url: str) -> None:
    """Raise SettingsError, without repeating the URL, which may hold a password, for one that would not do.

    Parameters that change how replies look or how long they may take are not for the environment to set.
    """
    try:
        options, parts = parse_url(url), urlsplit(url)
    except ValueError:
        options, parts = None, urlsplit("")
    nameless = parts.scheme != "unix" and parts.path.strip("/") and "db" not in (options or {})
    if options is None or not url.startswith(_SCHEMES) or nameless:
        raise SettingsError(
            "REDIS_URL is not understood; write it as redis://:password@host:6379/0, rediss://... or "
            "unix:///path/to/socket?db=0."
        )
    known = {name for name in parse_qs(parts.query) if name in _PARAMETERS or name.startswith("ssl_")}
    if unknown := parse_qs(parts.query).keys() - known:
        raise SettingsError(
            f"REDIS_URL has parameters that are not understood: {', '.join(sorted(unknown))}. "
            f"Only {', '.join(sorted(_PARAMETERS))} and ssl_... are."
        )
    if str(options.get("protocol", 2)) not in ("2", "3"):  # redis-py below 8 leaves it as text
        raise SettingsError("REDIS_URL asks for a protocol that Redis does not speak; it may be 2 or 3.")
    _check_tls(parts.scheme, {name: str(value) for name, value in options.items() if name.startswith("ssl_")})


def _check_tls(scheme: str, options: Mapping[str, str]) -> None:
    if scheme != "rediss":
        if options:
            raise SettingsError(
                f"REDIS_URL has {', '.join(sorted(options))}, but begins with {scheme}://: write rediss://."
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


def make_client(url: str) -> Redis:
    """A client that never repeats a command and leaves replies of streams as the server sent them.

    redis-py repeats by default, but a repeated XREADGROUP hides hints whose reply was lost. Its reply shapes
    differ between protocols and settings, so the modules that read streams take them raw. The socket timeout
    exceeds READ_BLOCK, or a quiet feed would look like a dead server.
    """
    client = Redis.from_url(
        url,
        decode_responses=False,
        retry=Retry(NoBackoff(), 0),
        socket_timeout=_SOCKET_TIMEOUT_SECONDS,
        socket_connect_timeout=_SOCKET_TIMEOUT_SECONDS,
    )
    for command in _RAW_COMMANDS:
        client.set_response_callback(command, _raw)
    return client


def reading_client(redis: Redis) -> Redis:
    """The connections of an application's client, with replies of streams as `make_client` leaves them.

    Only for `pipelined`, which asks for bytes where the connections would decode.
    """
    client: Redis = Redis(connection_pool=redis.connection_pool)
    for command in _RAW_COMMANDS:
        client.set_response_callback(command, _raw)
    return client


def _raw(response: Any, **kwargs: Any) -> Any:
    return response


async def renew(redis: Redis, error: BaseException) -> None:
    """Give up connections that are still up but lead to a server that refuses, such as a master no more.

    Connections in use are not touched: who uses one meets the same error soon. Never raises.
    """
    if isinstance(error, ResponseError):
        with suppress(RedisError, OSError):  # What cannot even be closed is given up all the same.
            await redis.connection_pool.disconnect(inuse_connections=False)


class Script:
    """A Lua script, sent as a whole only when the server does not know it: at first, and after a restart."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()

    async def __call__(self, redis: Redis, keys: Sequence[str], arguments: Sequence[Any] = ()) -> Any:
        """Run it; its reply as the server sends it, in bytes also where the client would decode."""
        rest = (len(keys), *keys, *arguments)
        try:
            return await redis.execute_command("EVALSHA", self._sha, *rest, **{NEVER_DECODE: []})
        except NoScriptError:
            return await redis.execute_command("EVAL", self._source, *rest, **{NEVER_DECODE: []})


async def pipelined(redis: Redis, commands: list[tuple[Any, ...]]) -> list[Any]:
    """The replies of several commands sent at once, outside a transaction.

    A command that the server refuses gives its error in place of a reply; connection errors are raised.
    """
    if not commands:
        return []
    async with redis.pipeline(transaction=False) as pipeline:
        for command in commands:
            pipeline.execute_command(*command, **{NEVER_DECODE: []})
        return await pipeline.execute(raise_on_error=False)


def refused(reply: Any) -> bool:
    """Whether a reply of `pipelined` is a refusal."""
    return isinstance(reply, RedisError)


def pairs(reply: Any) -> Iterator[tuple[Any, Any]]:
    """The pairs of a map, which comes as a mapping in RESP3 and as a list in RESP2 (nested or flat)."""
    if not reply:
        return
    if isinstance(reply, Mapping):
        yield from reply.items()
    elif isinstance(reply[0], list | tuple):
        yield from reply
    else:
        yield from zip(reply[::2], reply[1::2], strict=True)
