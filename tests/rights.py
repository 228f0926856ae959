"""Servers on which everybody has the rights that `deploy` gives them, and no others."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import redis as redis_py

from tests.acceptance.commands import environment
from tests.own_servers import own_postgresql, own_redis

DEPLOY = Path(__file__).parents[1] / "deploy"
ROLES = (DEPLOY / "postgresql" / "roles.sql").read_text(encoding="utf-8")
USERS_FILE = (DEPLOY / "redis" / "users.acl").read_text(encoding="utf-8")
PASSWORD = "secret"
WORKER = "projection_worker"
"""The name of a role in PostgreSQL and of a user in Redis."""
OWNER, ROLE_READER = "projection_worker_owner", "projection_worker_reader"
PRODUCER, OPERATOR, REDIS_READER = "projection_producer", "projection_operator", "projection_reader"


@dataclass(frozen=True, slots=True)
class Guarded:
    """Both servers, as an administrator reaches them; ``redis_as`` and ``as_role`` are for everybody else."""

    redis_url: str
    database_url: str

    def redis_as(self, user: str) -> str:
        return _as(self.redis_url, user)

    def as_role(self, role: str) -> str:
        return _as(self.database_url, role)

    def environment(self, user: str, role: str, **variables: str) -> dict[str, str]:
        """The environment of a command that this user and this role run."""
        urls = {"REDIS_URL": self.redis_as(user), "DATABASE_URL": self.as_role(role)}
        return environment(**urls, WORKER_SWEEP_SECONDS="0.2", **variables)

    def commands_used(self) -> set[str]:
        """The commands that Redis has run for anybody since it started, without their subcommands."""
        with redis_py.Redis.from_url(self.redis_url) as client:
            return {name.removeprefix("cmdstat_").partition("|")[0] for name in client.info("commandstats")}


def rights_of(user: str) -> list[str]:
    """What the file says of this user."""
    [line] = [line for line in USERS_FILE.splitlines() if line.startswith(f"user {user} ")]
    return line.split()[2:]


@contextmanager
def guarded_servers() -> Iterator[Guarded]:
    """Start both servers, and make their users and roles with a password each."""
    with own_redis() as redis, own_postgresql() as postgresql:
        with redis_py.Redis.from_url(redis.url) as client:
            for user in (PRODUCER, WORKER, OPERATOR, REDIS_READER):
                client.execute_command("ACL", "SETUSER", user, f">{PASSWORD}", *rights_of(user))
        guarded = Guarded(redis.url, postgresql.url)
        passwords = (f"ALTER ROLE {role} PASSWORD '{PASSWORD}'" for role in (OWNER, WORKER, ROLE_READER))
        execute(guarded.database_url, ROLES, *passwords)
        yield guarded


def _as(url: str, user: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=f"{user}:{PASSWORD}@{parts.netloc.rpartition('@')[2]}").geturl()


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
