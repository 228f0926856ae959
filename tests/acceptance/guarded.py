"""Servers of a test's own, with roles and users under the names that `deploy` gives them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import redis as redis_py

from tests.acceptance.commands import environment
from tests.own_servers import own_postgresql, own_redis
from tests.rights import PLAIN


@dataclass(frozen=True, slots=True)
class Guarded:
    """Both servers, as an administrator reaches them; ``redis_as`` and ``as_role`` are for everybody else."""

    redis_url: str
    database_url: str

    def redis_as(self, user: str) -> str:
        return PLAIN.named(self.redis_url, user)

    def as_role(self, role: str) -> str:
        return PLAIN.named(self.database_url, role)

    def environment(self, user: str, role: str, **variables: str) -> dict[str, str]:
        """The environment of a command that this user and this role run."""
        urls = {"REDIS_URL": self.redis_as(user), "DATABASE_URL": self.as_role(role)}
        return environment(**urls, WORKER_SWEEP_SECONDS="0.2", **variables)

    def commands_used(self) -> set[str]:
        """The commands that Redis has run for anybody since it started, without their subcommands."""
        with redis_py.Redis.from_url(self.redis_url) as client:
            return {name.removeprefix("cmdstat_").partition("|")[0] for name in client.info("commandstats")}


@contextmanager
def guarded_servers() -> Iterator[Guarded]:
    """Start both servers, and make their users and roles with a password each."""
    with own_redis() as redis, own_postgresql() as postgresql:
        PLAIN.make_users(redis.url)
        PLAIN.make_roles(postgresql.url)
        yield Guarded(redis.url, postgresql.url)
