"""A client of whichever server is the master of a service, as sentinels tell.

It keeps redis-py's pool, whose connections ask for the master before each of them is made. What asks, and
what is thought of the answer, is ours: redis-py believes the first sentinel that answers, even if what it
names is no master; it keeps connections that were in use during a failover; and it does not tell apart that
no sentinel answers, that none knows the service, and that they refuse the password.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import (
    MasterNotFoundError,
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, ConnectionError, NoPermissionError, RedisError

from worker.address import Address
from worker.redis_url import Sentinels

SENTINEL_SECONDS = 1.0
"""How long one sentinel may take to connect, and to answer, before the next one is asked."""
CONNECT_SECONDS = 3.0
"""How long the master may take to connect: a host that died without a word answers nothing at all."""
ASK_AGAIN_SECONDS = 1.0
"""How long another server may be the master unnoticed, while the old one still answers."""
LEAVE_ALONE_SECONDS = 10.0
"""... and how long sentinels that did not answer are not asked again, while the master still answers."""

_HOST, _PORT = 0, 1


class UnknownServiceError(MasterNotFoundError):
    """Every sentinel that answers knows no service of this name."""


class SentinelRefusalError(AuthenticationError):
    """The sentinels refuse our user and password, want some, or forbid us to ask."""


def client_of_master(sentinels: Sentinels, connection_options: Mapping[str, Any]) -> Redis:
    """A client whose connections lead to the master of that time; sends nothing before it is used.

    When there is no master to be found, commands raise MasterNotFoundError, which is a ConnectionError.
    """
    make_pool: Callable[..., SentinelConnectionPool] = _MasterPool  # redis-py leaves its own untyped
    pool = make_pool(
        sentinels.service,
        _Guide(sentinels),
        connection_class=_TlsConnectionToMaster if sentinels.tls else _ConnectionToMaster,
        **sentinels.options,
        **connection_options,
        socket_connect_timeout=CONNECT_SECONDS,
    )
    return Redis.from_pool(pool)


class _Guide:
    """Asks sentinels for the master, each over a connection for this one question."""

    def __init__(self, sentinels: Sentinels) -> None:
        self._addresses = list(sentinels.addresses)  # The one to ask first stands first.
        self._named_by: dict[tuple[str, int], Address] = {}  # who named this master last
        self._options: dict[str, Any] = {"ssl": sentinels.tls, **sentinels.sentinel_options}

    async def discover_master(self, service: str) -> tuple[str, int]:
        """Host and port of the master. The pool asks for them under this name."""
        errors: list[Exception] = []
        for address in tuple(self._addresses):
            self._move(address, len(self._addresses))  # And there it stays if nobody waits for it any more.
            try:
                master = await self._ask(address, service)
            except (RedisError, OSError) as error:
                errors.append(error)
                continue
            if master is not None:
                self._move(address, 0)
                self._named_by = {master: address}
                return master
        raise _no_master(service, errors, len(self._addresses))

    def doubt(self, master: tuple[str, int]) -> None:
        """Ask who has named this master last of all from now on: it did not do. He may have been left behind.

        Several connections doubt one answer at the same time; more than the first of them change nothing.
        """
        if address := self._named_by.pop(master, None):
            self._move(address, len(self._addresses))

    def _move(self, address: Address, to: int) -> None:
        self._addresses.remove(address)
        self._addresses.insert(to, address)

    async def _ask(self, address: Address, service: str) -> tuple[str, int] | None:
        async with Redis(
            host=address.host,
            port=address.port,
            decode_responses=True,
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=SENTINEL_SECONDS,
            socket_connect_timeout=SENTINEL_SECONDS,
            **self._options,
        ) as sentinel:
            found = await sentinel.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", service)
        return (found[_HOST], int(found[_PORT])) if found else None


def _no_master(service: str, errors: list[Exception], asked: int) -> RedisError:
    if len(errors) < asked:
        return UnknownServiceError(f"No sentinel knows a service {service!r}")
    for error in errors:
        if isinstance(error, AuthenticationError | NoPermissionError):
            return SentinelRefusalError(f"A sentinel refuses us: {str(error).rstrip('.')}")
    return MasterNotFoundError(f"None of {asked} sentinels answers: {errors[-1]}")


class _MasterPool(SentinelConnectionPool):
    """Connections to the master, of which none is used for long after another server has become it.

    The old one may go on as if nothing had happened for ten seconds and more before a sentinel demotes it and
    its clients are cut off. What it is given meanwhile is lost, and what was read of it must not count.
    """

    _to_ask = 0.0  # by the monotonic clock

    async def ensure_connection(self, connection: AbstractConnection) -> None:
        """Make sure that a connection leads to the master, asking who that is if nobody has for a while."""
        if monotonic() >= self._to_ask:
            self._to_ask = monotonic() + ASK_AGAIN_SECONDS  # Others do not wait meanwhile.
            await self._ask_again()
        if not self._leads_to_master(connection):
            await connection.disconnect()
        await super().ensure_connection(connection)

    async def _ask_again(self) -> None:
        try:
            async with asyncio.timeout(SENTINEL_SECONDS):
                master = await self.sentinel_manager.discover_master(self.service_name)
        except (RedisError, TimeoutError):  # Without sentinels there is no failover either.
            self._to_ask = monotonic() + LEAVE_ALONE_SECONDS
            return
        if master != self.master_address:
            self.master_address = master
            await self.disconnect(inuse_connections=False)

    def _leads_to_master(self, connection: AbstractConnection) -> bool:
        return bool(
            self.master_address == (getattr(connection, "host", None), getattr(connection, "port", None))
        )

    async def release(self, connection: AbstractConnection) -> None:
        """Take a connection back, and close it where another server has become the master meanwhile."""
        try:
            if not self._leads_to_master(connection):
                await connection.disconnect()
        finally:  # Cancelled or not: a connection that is not given back counts as in use for ever.
            await super().release(connection)


class _ConnectionToMaster(SentinelManagedConnection):
    async def connect_to(self, address: tuple[str, int]) -> None:
        """Connect to what a sentinel has named the master."""
        self.host, self.port = address
        try:
            await self.connect_check_health(check_health=False, retry_socket_connect=False)
        except (RedisError, OSError):
            self.connection_pool.sentinel_manager.doubt(address)
            raise

    async def on_connect_check_health(self, check_health: bool = True) -> None:
        """Log in, and make sure that this is a master, before anything else is sent.

        HELLO tells it also to users who may neither run ROLE nor INFO.
        """
        await super().on_connect_check_health(check_health=check_health)
        await self.send_command("HELLO", check_health=False)
        told = await self.read_response(disable_decoding=True)
        pairs = told.items() if isinstance(told, dict) else zip(told[::2], told[1::2], strict=True)
        if (b"role", b"master") not in pairs:
            raise ConnectionError(f"{self.host}:{self.port}, which a sentinel names the master, is none")


class _TlsConnectionToMaster(_ConnectionToMaster, SentinelManagedSSLConnection):
    pass
