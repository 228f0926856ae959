"""What can happen to a PostgreSQL under a worker, how it is mended, and what the worker says meanwhile."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from urllib.parse import urlsplit

import asyncpg

from tests.own_servers import OwnServer

PASSWORD = "right"


@dataclass(frozen=True)
class Site:
    """A database with a user for the worker who may do no more than it must."""

    server: OwnServer
    url: str
    user: str

    @property
    def database(self) -> str:
        return urlsplit(self.url).path.removeprefix("/")

    @property
    def worker_url(self) -> str:
        parts = urlsplit(self.url)
        return parts._replace(netloc=f"{self.user}:{PASSWORD}@{parts.netloc.rpartition('@')[2]}").geturl()

    async def run(self, *statements: str, inside: bool = True) -> None:
        """Do what an administrator may do, in the database or, from ``inside`` another one, to it."""
        url = self.url if inside else self.server.url
        connection = await asyncpg.connect(url)
        try:
            for statement in statements:
                await connection.execute(statement.format(user=self.user, database=self.database))
        finally:
            await connection.close()

    async def cut_off(self) -> None:
        """End the worker's sessions."""
        await self.run(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = '{user}'"
        )


class Fault:
    """What happens to the server, how it is mended, and what the worker is to say meanwhile."""

    words: tuple[str, ...] = ()
    doing: str = "projecting"

    async def cause(self, site: Site) -> None:
        raise NotImplementedError

    async def mend(self, site: Site) -> None:
        raise NotImplementedError


class Stopped(Fault):
    async def cause(self, site: Site) -> None:
        await asyncio.to_thread(site.server.stop)

    async def mend(self, site: Site) -> None:
        await asyncio.to_thread(site.server.start)


class Killed(Stopped):
    async def cause(self, site: Site) -> None:
        await asyncio.to_thread(site.server.kill)


class Frozen(Fault):
    words = ("TimeoutError",)

    async def cause(self, site: Site) -> None:
        site.server.freeze()

    async def mend(self, site: Site) -> None:
        site.server.thaw()


@dataclass(frozen=True)
class Altered(Fault):
    """Something that an administrator does and undoes. With ``cut`` open sessions are ended afterwards."""

    what: str
    back: str
    words: tuple[str, ...]
    cut: bool = False
    inside: bool = True
    doing: str = "projecting"

    async def cause(self, site: Site) -> None:
        await site.run(*self.what.split("; "), inside=self.inside)
        if self.cut:
            await site.cut_off()

    async def mend(self, site: Site) -> None:
        await site.run(*self.back.split("; "), inside=self.inside)


FAULTS: dict[str, Fault] = {
    "stopped": Stopped(),
    "killed": Killed(),
    "frozen": Frozen(),
    "read-only": Altered(
        "ALTER SYSTEM SET default_transaction_read_only = on; SELECT pg_reload_conf()",
        "SET default_transaction_read_only = off; "
        "ALTER SYSTEM RESET default_transaction_read_only; SELECT pg_reload_conf()",
        ("25006",),
    ),
    "sessions stay read-only": Altered(
        "ALTER DATABASE {database} SET default_transaction_read_only = on",
        "SET default_transaction_read_only = off; "
        "ALTER DATABASE {database} RESET default_transaction_read_only",
        ("25006",),
        cut=True,
    ),
    "out of connections": Altered(
        "ALTER ROLE {user} CONNECTION LIMIT 0", "ALTER ROLE {user} CONNECTION LIMIT -1", ("53300",), cut=True
    ),
    "right revoked": Altered(
        "REVOKE UPDATE ON stream_projections FROM {user}",
        "GRANT UPDATE ON stream_projections TO {user}",
        ("permission denied for table stream_projections", "Grant the worker's user"),
    ),
    "table missing": Altered(
        "ALTER TABLE stream_projections RENAME TO elsewhere",
        "ALTER TABLE elsewhere RENAME TO stream_projections",
        ('relation "stream_projections" does not exist', "projection-worker migrate"),
    ),
    "column missing": Altered(
        "ALTER TABLE stream_projections RENAME COLUMN message_count TO elsewhere",
        "ALTER TABLE stream_projections RENAME COLUMN elsewhere TO message_count",
        ('column "message_count" does not exist',),
    ),
    "rows refused": Altered(
        "ALTER TABLE stream_projections ADD CONSTRAINT nothing CHECK (message_count < 0) NOT VALID",
        "ALTER TABLE stream_projections DROP CONSTRAINT nothing",
        ("PostgreSQL refuses all rows", "Mend the table"),
        doing="writing rows",
    ),
    "not migrated": Altered(
        "ALTER TABLE projection_worker_schema RENAME TO elsewhere",
        "ALTER TABLE elsewhere RENAME TO projection_worker_schema",
        ("no schema", "projection-worker migrate"),
    ),
    "wrong password": Altered(
        "ALTER ROLE {user} PASSWORD 'wrong'",
        f"ALTER ROLE {{user}} PASSWORD '{PASSWORD}'",
        ("password authentication failed", "DATABASE_URL"),
        cut=True,
    ),
    "database missing": Altered(
        "ALTER ROLE {user} CONNECTION LIMIT 0; "
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = '{user}'; "
        "ALTER DATABASE {database} RENAME TO {database}_elsewhere; "
        "ALTER ROLE {user} CONNECTION LIMIT -1",
        "ALTER DATABASE {database}_elsewhere RENAME TO {database}",
        ("does not exist", "Create the database"),
        inside=False,
    ),
}
