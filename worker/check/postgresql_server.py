"""The PostgreSQL server: whether it takes writes, keeps them, and has room for a worker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from worker.app import connections_of_worker
from worker.check.finding import NOT_TOLD, Area, Check, Deployment, Finding, Kind, Severity
from worker.readiness import needed_tables
from worker.transaction import LIMITS

_FLOOR = 13
_SHORTEST_SECONDS = 30.0

TOO_OLD = Kind(
    "postgresql-too-old",
    Severity.ERROR,
    "The worker and its migrations are made for PostgreSQL 13 and later.",
    "Upgrade PostgreSQL.",
)
READ_ONLY = Kind(
    "postgresql-read-only",
    Severity.ERROR,
    "No row can be written.",
    "Let DATABASE_URL name the primary, or reset default_transaction_read_only for user and database.",
)
LOSES_COMMITS = Kind(
    "postgresql-loses-commits",
    Severity.WARNING,
    "A crash of the host may leave a damaged database, which no rebuild of rows mends.",
    "Set fsync and full_page_writes to on.",
)
NO_STANDBY = Kind(
    "postgresql-no-synchronous-standby",
    Severity.ERROR,
    "Every commit waits for a standby that is not there.",
    "Start the standby, or take it out of synchronous_standby_names.",
)
LIMITS_OVERRIDDEN = Kind(
    "postgresql-limits-overridden",
    Severity.INFO,
    "The worker sets its own value in each transaction that writes, so that this one has no effect there.",
    "Nothing.",
)
SHORT_TIMEOUT = Kind(
    "postgresql-short-timeout",
    Severity.WARNING,
    "Long reads, or whole transactions, are cut off and tried again, as in `verify` and `rebuild`.",
    "Set it to 0 or at least 30 s for the worker's user (ALTER ROLE ... SET).",
)
FEW_CONNECTIONS = Kind(
    "postgresql-few-connections",
    Severity.WARNING,
    "One more worker may find no connection, and waits until there is one.",
    "Raise max_connections or the limit of user or database, or put a pooler in between.",
)
LONG_TRANSACTION = Kind(
    "postgresql-long-transaction",
    Severity.WARNING,
    "What it has locked the worker cannot write, and tries again and again.",
    "See what it is; end it with pg_terminate_backend.",
)


async def ask(engine: AsyncEngine, statement: str, *parameters: Any) -> list[Any]:
    """All rows of a statement with parameters $1, $2, ..., which can change nothing."""
    async with engine.connect() as connection:
        await connection.exec_driver_sql("SET TRANSACTION READ ONLY")
        return list(await connection.exec_driver_sql(statement, parameters))


async def _version(of: Deployment) -> Sequence[Finding]:
    [[version, number]] = await ask(
        of.engine,
        "SELECT current_setting('server_version'), current_setting('server_version_num')::int / 10000",
    )
    return [TOO_OLD.found(f"PostgreSQL is of version {version}.")] if number < _FLOOR else []


async def _writable(of: Deployment) -> Sequence[Finding]:
    [[standby, read_only]] = await ask(
        of.engine, "SELECT pg_is_in_recovery(), current_setting('default_transaction_read_only') = 'on'"
    )
    if standby:
        return [READ_ONLY.found("PostgreSQL is a standby.")]
    return [READ_ONLY.found("default_transaction_read_only is on for this user here.")] if read_only else []


async def _durability(of: Deployment) -> Sequence[Finding]:
    [[fsync, full_pages, standbys]] = await ask(
        of.engine,
        "SELECT current_setting('fsync'), current_setting('full_page_writes'), "
        "current_setting('synchronous_standby_names')",
    )
    off = [name for name, value in (("fsync", fsync), ("full_page_writes", full_pages)) if value == "off"]
    findings = [LOSES_COMMITS.found(f"{name} is off.") for name in off]
    if standbys:
        findings += await _standbys(of.engine, standbys)
    return findings


async def _standbys(engine: AsyncEngine, names: str) -> list[Finding]:
    [[there, synchronous]] = await ask(
        engine,
        "SELECT count(*), count(*) FILTER (WHERE coalesce(sync_state, 'sync') IN ('sync', 'quorum')) "
        "FROM pg_stat_replication",
    )
    if synchronous:
        return []
    what = (
        f"synchronous_standby_names is {names!r}, and {there} standbys are connected, none of them so named."
    )
    return [NO_STANDBY.found(what)]


async def _session_settings(of: Deployment) -> Sequence[Finding]:
    rows = await ask(
        of.engine,
        "SELECT name, current_setting(name), source, CASE WHEN unit = 'ms' THEN setting::float / 1000 END "
        "FROM pg_settings WHERE name = ANY($1::text[]) ORDER BY name",
        [*LIMITS, "transaction_timeout"],
    )
    findings = []
    for name, value, source, seconds in rows:
        differs = source != "default" and not (name == "synchronous_commit" and value == "on")
        if name in LIMITS and differs:
            ours = f"the worker sets {LIMITS[name]}"
            findings.append(LIMITS_OVERRIDDEN.found(f"{name} is {value} by {source}; {ours}."))
        if name in ("statement_timeout", "transaction_timeout") and 0 < (seconds or 0) < _SHORTEST_SECONDS:
            findings.append(SHORT_TIMEOUT.found(f"{name} is {value} by {source}."))
    return findings


_CONNECTIONS = """
    SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
             - coalesce(current_setting('reserved_connections', true)::int, 0),
           (SELECT sum(numbackends)::int FROM pg_stat_database),
           CASE WHEN NOT r.rolsuper THEN r.rolconnlimit ELSE -1 END,
           (SELECT count(*) FROM pg_stat_activity WHERE usename = current_user),
           CASE WHEN NOT r.rolsuper THEN d.datconnlimit ELSE -1 END,
           (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database())
    FROM pg_roles AS r, pg_database AS d
    WHERE r.rolname = current_user AND d.datname = current_database()"""


async def _connections(of: Deployment) -> Sequence[Finding]:
    [[limit, used, of_user, by_user, of_database, in_database]] = await ask(of.engine, _CONNECTIONS)
    needed = connections_of_worker(len(of.projections))
    findings = []
    for what, most, taken in (
        ("max_connections leaves", limit, used),
        ("the user may have", of_user, by_user),
        ("the database may have", of_database, in_database),
    ):
        if most >= 0 and most - taken < needed:
            one = f"a worker takes up to {needed}"
            findings.append(
                FEW_CONNECTIONS.found(f"Of {most} connections that {what} {taken} are taken; {one}.")
            )
    return findings


_LONG = """
    SELECT a.pid, a.application_name, a.state, extract(epoch FROM clock_timestamp() - a.xact_start)::int,
           string_agg(DISTINCT l.relation::regclass::text, ', ')
    FROM pg_stat_activity AS a JOIN pg_locks AS l ON l.pid = a.pid
    WHERE a.pid <> pg_backend_pid() AND l.granted AND l.locktype = 'relation'
      AND l.mode NOT IN ('AccessShareLock', 'SIReadLock')
      AND l.relation = ANY(ARRAY(SELECT to_regclass(name)::oid FROM unnest($1::text[]) AS name))
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND a.xact_start < clock_timestamp() - make_interval(secs => $2)
    GROUP BY 1, 2, 3, 4 ORDER BY 4 DESC LIMIT 5"""


async def _long_transactions(of: Deployment) -> Sequence[Finding]:
    preparer = of.engine.dialect.identifier_preparer
    tables = [table for projection in of.projections for table, _ in needed_tables(projection)]
    names = sorted({preparer.format_table(table) for table in tables})
    rows = await ask(of.engine, _LONG, names, of.long_transaction.total_seconds())
    findings = [
        LONG_TRANSACTION.found(
            f"Process {pid} ({application or 'without a name'}, {state}) has locked rows or all of {tables} "
            f"for up to {seconds:,} s."
        )
        for pid, application, state, seconds, tables in rows
    ]
    [[sees_all]] = await ask(of.engine, "SELECT pg_has_role(current_user, 'pg_read_all_stats', 'USAGE')")
    if not sees_all:
        findings.append(
            NOT_TOLD.found("Since when other users' transactions last is not told: grant pg_read_all_stats.")
        )
    return findings


CHECKS = (
    Check("PostgreSQL's version", Area.POSTGRESQL, _version, (TOO_OLD,)),
    Check("PostgreSQL takes writes", Area.POSTGRESQL, _writable, (READ_ONLY,)),
    Check("PostgreSQL keeps what it takes", Area.POSTGRESQL, _durability, (LOSES_COMMITS, NO_STANDBY)),
    Check(
        "Settings of the user and the database",
        Area.POSTGRESQL,
        _session_settings,
        (LIMITS_OVERRIDDEN, SHORT_TIMEOUT),
    ),
    Check("Room for connections", Area.POSTGRESQL, _connections, (FEW_CONNECTIONS,)),
    Check("Long transactions", Area.POSTGRESQL, _long_transactions, (LONG_TRANSACTION,)),
)
