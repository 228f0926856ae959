"""The rights that the files in `deploy` give, on the servers of the tests.

Each run makes the roles and users of these files under names of its own, so that several runs may share
servers and none touches roles that are in use there. Whoever needs to be somebody else turns the URL, the
client or the environment that it has into theirs with `as_user` and its like. Faults are made, and what no
user may see is looked at, by the administrator of the servers.

Who runs under other rights, and why:

- servers of a test's own (`tests.own_servers`), which it kills and empties: users in Redis would not come
  back with it, and roles are what some of its faults take rights from. What a worker sends there it sends to
  the servers of all other tests, too;
- what operators call in `integration` (rebuilding, verifying, dead letters) beside a replica: it is called
  with the worker's client. `acceptance` runs the commands, each by its own user;
- the benchmarks, which make worlds of their own and are told whose;
- the test kit (`worker.testing`) and `demo`, which own their servers, make tables and empty them;
- clients in tests of what is done where servers refuse, which make users of their own.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import redis as redis_py
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from sqlalchemy import NullPool
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from worker.migrate import migrate

DEPLOY = Path(__file__).parents[1] / "deploy"
ROLES = (DEPLOY / "postgresql" / "roles.sql").read_text(encoding="utf-8")
USERS_FILE = (DEPLOY / "redis" / "users.acl").read_text(encoding="utf-8")
WORKER = "projection_worker"
"""The name of a role in PostgreSQL and of a user in Redis."""
OWNER, ROLE_READER = "projection_worker_owner", "projection_worker_reader"
PRODUCER, OPERATOR, REDIS_READER = "projection_producer", "projection_operator", "projection_reader"
ALL_ROLES = (OWNER, WORKER, ROLE_READER)
ALL_USERS = (PRODUCER, WORKER, OPERATOR, REDIS_READER)

ADMINISTRATOR = "administrator"
"""Who owns a server; no name of a user."""

_ROLE_IN_FILE = re.compile(rf"\b(?:{'|'.join(ALL_ROLES)})\b")
_OURS = re.compile(rf"(?:{'|'.join({*ALL_ROLES, *ALL_USERS})})(?P<run>_t[0-9a-f]{{8}}|)")
_RUNS: Mapping[str, tuple[str, str]] = {
    "run": (WORKER, WORKER),
    "check": (WORKER, WORKER),
    "migrate": (OPERATOR, OWNER),
    "revision": (OPERATOR, OWNER),
}
"""Who runs a command in Redis and in PostgreSQL, where that is no operator with the worker's role."""


class RightsRefusedError(Exception):
    """Whoever the tests are on a server may not make roles or users there."""


def rights_of(user: str) -> list[str]:
    """What the file says of this user."""
    [line] = [line for line in USERS_FILE.splitlines() if line.startswith(f"user {user} ")]
    return line.split()[2:]


@dataclass(frozen=True, slots=True)
class Rights:
    """The roles and users of one run, all with one password.

    ``run`` is what it puts behind the names that are in the files.
    """

    run: str
    password: str

    @classmethod
    def of_own(cls) -> Rights:
        """Names that nobody else has."""
        return cls(f"_t{secrets.token_hex(4)}", secrets.token_hex(16))

    @property
    def roles_sql(self) -> str:
        """The file of roles, with this run's names."""
        return _ROLE_IN_FILE.sub(lambda role: role[0] + self.run, ROLES)

    def named(self, url: str, user: str) -> str:
        """An administrator's URL, for one of our users."""
        return _named(url, user + self.run, self.password)

    def make_roles(self, database_url: str) -> None:
        """Make the roles, and give them their rights in this database. Raises RightsRefusedError."""
        passwords = [f"ALTER ROLE {role}{self.run} PASSWORD '{self.password}'" for role in ALL_ROLES]
        try:
            execute(database_url, self.roles_sql, *passwords)
        except asyncpg.InsufficientPrivilegeError as error:
            raise RightsRefusedError(f"PostgreSQL says: {error.args[0]}") from error

    def grant(self, database_url: str) -> None:
        """Give the roles their rights to what is in this database now."""
        execute(database_url, self.roles_sql)

    def drop_roles(self, database_url: str) -> None:
        """Drop the roles, once all databases in which they had rights are gone."""
        execute(database_url, *(f"DROP ROLE {role}{self.run}" for role in ALL_ROLES))

    def migrate(self, database_url: str) -> None:
        """Do in an empty database what README says: roles, tables as their owner, the rights to these."""
        self.grant(database_url)
        migrate(self.named(database_url, OWNER))
        self.grant(database_url)

    def make_users(self, redis_url: str, prefix: str = "", *, logs: Sequence[str] = ()) -> None:
        """Give all users their rights on keys under a prefix, and on no others. Raises RightsRefusedError.

        ``logs`` are prefixes of logs that a projection declares, which is to see them as well.
        """
        with redis_py.Redis.from_url(redis_url) as client, client.pipeline(transaction=False) as pipeline:
            for user in ALL_USERS:
                rights = [adapted for right in rights_of(user) for adapted in _adapted(right, prefix, logs)]
                command = ("ACL", "SETUSER", user + self.run, "resetkeys", f">{self.password}", *rights)
                pipeline.execute_command(*command)
            replies = pipeline.execute(raise_on_error=False)
        for refusal in (reply for reply in replies if isinstance(reply, redis_py.ResponseError)):
            raise RightsRefusedError(f"Redis says: {refusal}")

    def drop_users(self, redis_url: str) -> None:
        with redis_py.Redis.from_url(redis_url) as client:
            client.execute_command("ACL", "DELUSER", *(user + self.run for user in ALL_USERS))


PLAIN = Rights("", "secret")
"""On servers that are the test's own, the names may be those of the files."""


def _adapted(right: str, prefix: str, logs: Sequence[str]) -> Iterator[str]:
    """A right as README says that it be written for a key prefix, and for other prefixes of logs."""
    if right[0] not in "~&":
        yield right
        return
    yield f"{right[0]}{prefix}{right[1:]}"
    if right == "~stream:*":
        yield from (f"~{prefix}{log}*" for log in logs)


def as_user(url: str, user: str) -> str:
    """The URL of an administrator or one of our users, for another of them.

    Any other URL stays as it is: that of a server that a test has for itself, or where no users may be made.
    """
    parts = urlsplit(url)
    address = parts.netloc.rpartition("@")[2]
    ours = _OURS.fullmatch(parts.username or "")
    of = _runs.get(ours["run"] if ours else parts.netloc)
    if of is None:
        return url
    if user != ADMINISTRATOR:
        password = parts.password if ours else of.rights.password
        return _named(url, user + of.rights.run, password or "")
    admin = of.redis_admin if parts.scheme.startswith("redis") else of.database_admin
    credentials, at, _ = admin.rpartition("@")
    return parts._replace(netloc=f"{credentials}{at}{address}").geturl()


@dataclass(frozen=True, slots=True)
class _Run:
    """What is known of a run: its rights, and host and credentials of the administrators of its servers."""

    rights: Rights
    redis_admin: str
    database_admin: str


_runs: dict[str, _Run] = {}
"""By what a run puts behind the names of its users, and by host and credentials of its administrators."""


def know(rights: Rights, *, redis_url: str = "", database_url: str = "") -> None:
    """Have `as_user` know the users and administrators of those servers on which a run has made users."""
    of = _Run(rights, urlsplit(redis_url).netloc, urlsplit(database_url).netloc)
    _runs.update(dict.fromkeys(filter(None, (rights.run, of.redis_admin, of.database_admin)), of))


def environment_for(command: str, env: Mapping[str, str]) -> dict[str, str]:
    """The environment of one of our users, for those who run this command; an administrator's stays."""
    user, role = _RUNS.get(command, (OPERATOR, WORKER))
    changed = {"REDIS_URL": user, "DATABASE_URL": role}
    return {
        name: as_user(value, changed[name])
        if name in changed and _OURS.fullmatch(urlsplit(value).username or "")
        else value
        for name, value in env.items()
    }


def client_as(redis: Redis, user: str, *, kept: bool = False) -> Redis:
    """The same client, as the administrator or one of our users.

    It has a connection only while it sends a command, so that nobody need close it; ``kept``, which saves the
    two milliseconds that this takes, its connections are for the caller to disconnect.
    """
    pool = redis.connection_pool
    given = pool.connection_kwargs
    name, password = given.get("username") or "", given.get("password") or ""
    credentials = f"{name}:{password}@" if name or password else ""
    known = f"redis://{credentials}{given.get('host')}:{given.get('port')}"
    url = as_user(known, user)
    if url == known:
        return redis
    named = urlsplit(url)
    options = {**given, "username": named.username, "password": named.password}
    of_its_own = ConnectionPool if kept else _PassingPool
    client = Redis(connection_pool=of_its_own(pool.connection_class, **options))
    for command, callback in redis.response_callbacks.items():
        client.set_response_callback(str(command), callback)
    return client


class _PassingPool(ConnectionPool):
    """Ends connections that are given back."""

    async def release(self, connection: AbstractConnection) -> None:
        await connection.disconnect()
        await super().release(connection)


def engine_as(engine: AsyncEngine, role: str) -> AsyncEngine:
    """The database of an engine, as another of our roles; it needs no disposal either."""
    url = as_user(engine.url.render_as_string(hide_password=False), role)
    return create_async_engine(url, poolclass=NullPool)


def _named(url: str, user: str, password: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=f"{user}:{password}@{parts.netloc.rpartition('@')[2]}").geturl()


def execute(url: str, *statements: str) -> None:
    """Run statements as whoever this URL names, each by itself."""
    _asked(url, statements, None)


def fetch(url: str, query: str) -> list[Mapping[str, Any]]:
    """The rows that a query gives to whoever this URL names."""
    return _asked(url, (), query)


def _asked(url: str, statements: Sequence[str], query: str | None) -> list[Mapping[str, Any]]:
    async def ask() -> list[Mapping[str, Any]]:
        connection = await asyncpg.connect(url)
        try:
            for statement in statements:
                await connection.execute(statement)
            return list(await connection.fetch(query)) if query else []
        finally:
            await connection.close()

    return asyncio.run(ask())
