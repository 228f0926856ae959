"""The way to PostgreSQL: whether it answers, and what a pooler in between makes of sessions.

A pooler that lends server sessions to a transaction at a time keeps no prepared statements, unless it takes
care of them. SQLAlchemy and asyncpg prepare nearly every statement, so this check does without: it talks
in transactions, in which all poolers keep to one session.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from worker.check.finding import Area, Check, Deployment, Finding, Kind, Severity
from worker.trouble import SERVER_ERRORS, sentence, sqlstate

_CONNECT_SECONDS = 5
_CLOSE_SECONDS = 2
_ATTEMPTS = 5
_NO_SUCH_STATEMENT = "26000"

UNREACHABLE = Kind(
    "postgresql-unreachable",
    Severity.ERROR,
    "Without PostgreSQL nothing is projected, and nothing else of it could be checked.",
    "Start PostgreSQL, or mend DATABASE_URL and the network on the way.",
)
POOLED = Kind(
    "postgresql-pooled",
    Severity.INFO,
    "What is set for a session does not stick there; the worker needs none of that.",
    "Nothing; give the pooler as many server connections as all replicas together use.",
)
BREAKS_STATEMENTS = Kind(
    "postgresql-pooler-loses-statements",
    Severity.ERROR,
    "The worker's statements are prepared ones, and fail at random.",
    "With PgBouncer 1.21 or later set max_prepared_statements to 200; else set pool_mode to session, or let "
    "DATABASE_URL lead past the pooler.",
)


async def _reach(of: Deployment) -> Sequence[Finding]:
    async with AsyncExitStack() as stack:
        try:
            one = await stack.enter_async_context(_session(of.engine))
            other = await stack.enter_async_context(_session(of.engine))
            return await _compare(one, other)
        except SERVER_ERRORS as error:
            return [UNREACHABLE.found(f"PostgreSQL does not answer as it should: {sentence(error)}")]


@asynccontextmanager
async def _session(engine: AsyncEngine) -> AsyncIterator[Any]:
    """A connection as the worker makes them, without what SQLAlchemy would prepare on it."""
    _, arguments = engine.dialect.create_connect_args(engine.url)
    session = await asyncpg.connect(**arguments, timeout=_CONNECT_SECONDS, statement_cache_size=0)
    try:
        yield session
    finally:
        with suppress(*SERVER_ERRORS):
            await session.close(timeout=_CLOSE_SECONDS)


async def _compare(one: Any, other: Any) -> Sequence[Finding]:
    """See whether a connection meets other server sessions: on its own, as where a pooler lends them in turn,
    or while another one has a transaction, as where it lends the one that came back last."""
    name = f"check_{secrets.token_hex(6)}"
    async with one.transaction(readonly=True):
        first = await _server(one)
        statement = await one.prepare("SELECT 1", name=name)
    alone, kept_alone = await _meet(one, statement)
    async with other.transaction(readonly=True):
        others = await _server(other)
        beside, kept_beside = await _meet(one, statement)
    if {alone, beside} == {first} and others != first:
        return []
    await _forget(one, first, name)
    if kept_alone and kept_beside:
        return [POOLED.found("A pooler lends sessions for a transaction, and keeps prepared statements.")]
    return [BREAKS_STATEMENTS.found("A pooler lends sessions, and loses prepared statements.")]


async def _meet(session: Any, statement: Any) -> tuple[int, bool]:
    """The server session of another transaction, and whether a prepared statement is there."""
    server = 0
    try:
        async with session.transaction(readonly=True):
            server = await _server(session)
            await statement.fetchval()
    except asyncpg.PostgresError as error:
        if sqlstate(error) != _NO_SUCH_STATEMENT:
            raise
        return server, False
    return server, True


async def _forget(session: Any, server: int, name: str) -> None:
    """Leave no prepared statement in a session that others will be lent.

    Some poolers know it by another name, and forget it by themselves.
    """
    for _ in range(_ATTEMPTS):
        with suppress(asyncpg.PostgresError):
            async with session.transaction(readonly=True):
                if await _server(session) == server:
                    await session.execute(f"DEALLOCATE {name}")
                    return


async def _server(session: Any) -> int:
    return int(await session.fetchval("SELECT pg_backend_pid()"))


CHECKS = (
    Check(
        "The way to PostgreSQL",
        Area.POSTGRESQL,
        _reach,
        (UNREACHABLE, POOLED, BREAKS_STATEMENTS),
        gate=True,
    ),
)
