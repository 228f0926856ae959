"""`check` finds what is wrong with a real PostgreSQL."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from urllib.parse import urlsplit

import asyncpg
import pytest

from tests.checking import above_info, deployment, look, names, said
from tests.own_servers import own_postgresql
from tests.rights import ADMINISTRATOR, as_user
from tests.transaction_pooler import transaction_pooler
from tests.waiting import wait_until
from worker.check import Report, all_checks, postgresql_server, postgresql_session, run_checks

SERVERS_AS_TESTS_HAVE_THEM = {"redis-unreachable", "postgresql-loses-commits"}
TRIGGER = (
    "CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END'",
    "CREATE TRIGGER meddling BEFORE UPDATE ON stream_messages FOR EACH ROW EXECUTE FUNCTION nothing()",
)


async def run(url: str, *statements: str) -> None:
    """Do what an administrator may do; ``{database}`` is the database's name."""
    connection = await asyncpg.connect(as_user(url, ADMINISTRATOR))
    try:
        for statement in statements:
            await connection.execute(statement.format(database=urlsplit(url).path.removeprefix("/")))
    finally:
        await connection.close()


@pytest.fixture
async def workers_url(database_url: str) -> AsyncIterator[str]:
    """The URL for a user who may do what a worker needs, and no more."""
    user = f"checked_{secrets.token_hex(4)}"
    grant = "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public"
    await run(database_url, f"CREATE ROLE {user} LOGIN PASSWORD 'right'", f"{grant} TO {user}")
    parts = urlsplit(database_url)
    yield parts._replace(netloc=f"{user}:right@{parts.netloc.rpartition('@')[2]}").geturl()
    await run(database_url, f"DROP OWNED BY {user}", f"DROP ROLE {user}")


def user_of(url: str) -> str:
    return str(urlsplit(url).username)


async def test_a_database_as_it_should_be_gives_nothing_above_info(database_url: str) -> None:
    report = await look(database_url=database_url)
    assert above_info(report) <= SERVERS_AS_TESTS_HAVE_THEM
    assert {"Writing to the tables", "The way to PostgreSQL", "The schema"} <= set(report.fine)


async def test_a_user_with_the_workers_rights_gives_nothing_above_info(workers_url: str) -> None:
    report = await look(database_url=workers_url)
    assert above_info(report) <= SERVERS_AS_TESTS_HAVE_THEM
    assert "pg_read_all_stats" in said(report, "not-told")


@pytest.mark.parametrize(
    ("statements", "found", "told"),
    [
        (["ALTER DATABASE {database} SET default_transaction_read_only = on"], "postgresql-read-only", "on"),
        (["ALTER DATABASE {database} SET statement_timeout = '2s'"], "postgresql-short-timeout", "2s"),
        (["ALTER DATABASE {database} SET lock_timeout = '9s'"], "postgresql-limits-overridden", "9s"),
        (["ALTER DATABASE {database} SET synchronous_commit = off"], "postgresql-limits-overridden", "off"),
        (["ALTER TABLE stream_projections DROP COLUMN plan"], "table-unusable", "plan"),
        (["DROP TABLE stream_messages"], "table-unusable", "stream_messages"),
        (["DROP TABLE strategy_claims"], "rule-table-unusable", "strategy_claims"),
        (["DROP TABLE projection_worker_schema"], "schema-wrong", "migrate"),
        (["ALTER TABLE stream_projections ADD owner text NOT NULL"], "table-refuses-rows", "owner"),
        (TRIGGER, "table-has-triggers", "meddling"),
    ],
)
async def test_what_is_wrong_in_the_database_is_found(
    database_url: str, statements: list[str], found: str, told: str
) -> None:
    await run(database_url, *statements)
    assert told in said(await look(database_url=database_url), found)


@pytest.mark.parametrize(
    ("statement", "found", "told"),
    [
        ("REVOKE UPDATE, INSERT ON stream_transcripts FROM {0}", "table-right-missing", "INSERT, UPDATE on"),
        (
            "REVOKE DELETE ON stream_messages FROM {0}",
            "table-right-missing",
            "DELETE on table stream_messages",
        ),
        ("REVOKE SELECT ON dead_letters FROM {0}", "table-right-missing", "SELECT on table dead_letters"),
        (
            "REVOKE DELETE ON strategy_claims FROM {0}",
            "rule-table-unusable",
            "DELETE on table strategy_claims",
        ),
        (
            "ALTER TABLE stream_projections ENABLE ROW LEVEL SECURITY",
            "table-has-policies",
            "stream_projections",
        ),
        ("ALTER ROLE {0} CONNECTION LIMIT 5", "postgresql-few-connections", "Of 5 connections"),
        ("ALTER ROLE {0} SET statement_timeout = '3s'", "postgresql-short-timeout", "3s by user"),
    ],
)
async def test_what_is_wrong_with_the_workers_user_is_found(
    database_url: str, workers_url: str, statement: str, found: str, told: str
) -> None:
    await run(database_url, statement.format(user_of(workers_url)))
    report = await look(database_url=workers_url)
    assert told in said(report, found)
    assert above_info(report) - SERVERS_AS_TESTS_HAVE_THEM <= {found}


@asynccontextmanager
async def holding(url: str, mode: str) -> AsyncIterator[None]:
    """Another replica has locked the table of the strategies; what other users do is not told to workers."""
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            await connection.execute(f"LOCK TABLE stream_projections IN {mode} MODE")
            yield
    finally:
        await connection.close()


async def test_connections_of_other_users_are_counted_too(database_url: str) -> None:
    others = [await asyncpg.connect(as_user(database_url, ADMINISTRATOR)) for _ in range(5)]
    worker = await asyncpg.connect(database_url)
    try:
        counted = (await worker.fetchrow(postgresql_server._CONNECTIONS))[1]
        assert counted > len(others)
    finally:
        for connection in (*others, worker):
            await connection.close()


async def test_a_transaction_that_holds_rows_for_long_is_found(database_url: str) -> None:
    async with holding(database_url, "ROW EXCLUSIVE"):
        found = await look(database_url=database_url, long_transaction=timedelta(0))
        patient = await look(database_url=database_url)
    assert "idle in transaction" in said(found, "postgresql-long-transaction")
    assert "postgresql-long-transaction" not in names(patient)


async def test_a_check_that_takes_too_long_is_given_up_and_the_others_go_on(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(all_checks, "_SECONDS_A_CHECK", 0.5)
    async with holding(database_url, "ACCESS EXCLUSIVE"):
        report = await look(database_url=database_url)
    assert "Writing to the tables: could not be checked within 0.5 s" in said(report, "check-unfinished")
    assert "PostgreSQL's clock" in report.fine


async def test_a_postgresql_below_what_is_needed_is_found(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql_server, "_FLOOR", 99)
    assert "postgresql-too-old" in names(await look(database_url=database_url))


async def test_a_server_that_loses_commits_or_waits_for_a_standby_is_found() -> None:
    with own_postgresql() as server:
        await run(
            server.url, "ALTER SYSTEM SET synchronous_standby_names = 'away'", "SELECT pg_reload_conf()"
        )

        async def waits() -> Report | None:
            report = await look(database_url=server.url)
            return report if "postgresql-no-synchronous-standby" in names(report) else None

        report = await wait_until(waits, "the server to read its settings again")
    assert {"fsync is off.", "full_page_writes is off."} <= set(
        said(report, "postgresql-loses-commits").splitlines()
    )


@pytest.mark.parametrize("in_turn", [False, True])
async def test_a_pooler_that_loses_prepared_statements_is_found(database_url: str, in_turn: bool) -> None:
    async with transaction_pooler(database_url, in_turn=in_turn) as url:
        report = await look(database_url=url)
        left = await statements_in_sessions(url, sessions=5)
    assert "postgresql-pooler-loses-statements" in names(report)
    assert "The schema" in report.not_checked
    assert left == 0


@pytest.mark.parametrize("in_turn", [False, True])
async def test_a_pooler_that_keeps_prepared_statements_is_no_error(database_url: str, in_turn: bool) -> None:
    async with (
        transaction_pooler(database_url, keeps_statements=True, in_turn=in_turn) as url,
        deployment(database_url=url) as of,
    ):
        report = await run_checks(of, postgresql_session.CHECKS)
    assert names(report) == {"postgresql-pooled"}


async def statements_in_sessions(url: str, *, sessions: int) -> int:
    """How many prepared statements there are in so many sessions of a pooler together."""
    async with AsyncExitStack() as stack:
        left = 0
        for _ in range(sessions):
            connection = await asyncpg.connect(url, statement_cache_size=0)
            stack.push_async_callback(connection.close)
            await stack.enter_async_context(connection.transaction())
            left += await connection.fetchval("SELECT count(*) FROM pg_prepared_statements WHERE name <> ''")
    return left


async def test_a_look_at_postgresql_changes_nothing(database_url: str) -> None:
    row = "SELECT xmin::text, xmax::text, ctid::text FROM stream_projections"
    await run(database_url, "INSERT INTO stream_projections (stream_id) VALUES ('chat')")
    connection = await asyncpg.connect(database_url)
    before = await connection.fetch(row)
    await look(database_url=database_url)
    assert await connection.fetch(row) == before
    assert await connection.fetchval("SELECT count(*) FROM dead_letters") == 0
    await connection.close()
