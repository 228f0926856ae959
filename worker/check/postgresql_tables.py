"""The tables that a worker writes: whether they are there, and what else acts on them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from sqlalchemy import Table
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from worker.check.finding import Area, Check, Deployment, Finding, Kind, Severity
from worker.check.postgresql_server import ask
from worker.errors import SchemaError
from worker.migrate import check_schema
from worker.projection import Projection
from worker.readiness import needed_tables, try_writing
from worker.trouble import Trouble, classify, describe, sqlstate

_NO_RIGHT, _READ_ONLY = "42501", "25006"

SCHEMA_WRONG = Kind(
    "schema-wrong",
    Severity.ERROR,
    "The projections concerned wait until it is right.",
    "Run `projection-worker migrate` as the owner of the tables.",
)
TABLE_UNUSABLE = Kind(
    "table-unusable",
    Severity.ERROR,
    "The projections concerned wait until it is as their models say.",
    "Run `projection-worker migrate`, and your own migrations for your own tables.",
)
RIGHT_MISSING = Kind(
    "table-right-missing",
    Severity.ERROR,
    "The projections concerned wait until the user may do it.",
    "Grant it to the worker's user.",
)
RULE_TABLE_UNUSABLE = Kind(
    "rule-table-unusable",
    Severity.WARNING,
    "If the rule of the projection writes to it, streams that the rule is about are not projected.",
    "Migrate, and grant SELECT, INSERT, UPDATE and DELETE on it, if it is the rule's.",
)
TABLE_REFUSES_ROWS = Kind(
    "table-refuses-rows",
    Severity.ERROR,
    "Every new row is refused, since the worker knows nothing of the column.",
    "Give the column a default, or let it be null.",
)
HAS_TRIGGERS = Kind(
    "table-has-triggers",
    Severity.INFO,
    "A trigger that raises stops streams, one that changes columns makes `verify` find drift, and all of "
    "them run again in a rebuild.",
    "See that they do neither.",
)
HAS_POLICIES = Kind(
    "table-has-policies",
    Severity.WARNING,
    "A row that a policy hides from the worker is taken for missing, and its stream is never projected.",
    "Give the worker's user BYPASSRLS, or a policy that shows and takes every row.",
)


async def _schema(of: Deployment) -> Sequence[Finding]:
    said = [await _schema_error(of, projection) for projection in of.projections]
    return [SCHEMA_WRONG.found(message) for message in dict.fromkeys(filter(None, said))]


async def _schema_error(of: Deployment, projection: Projection) -> str:
    try:
        await check_schema(of.engine, of.settings.projections, [projection])
    except SchemaError as error:
        return str(error)
    return ""


async def _writing(of: Deployment) -> Sequence[Finding]:
    findings: dict[Table, Finding | None] = {}
    for projection in of.projections:
        if await _schema_error(of, projection):
            continue  # Which tells as much.
        for table, deletes in needed_tables(projection):
            if table not in findings:
                findings[table] = await _trial(of.engine, table, deletes=deletes)
    for projection, table in _rule_tables(of.projections):
        if table not in findings and not await _schema_error(of, projection):
            tried = await _trial(of.engine, table, deletes=True)
            whose = f"Projection {projection.name} has a rule, and of its tables: "
            findings[table] = RULE_TABLE_UNUSABLE.found(f"{whose}{tried.what}") if tried else None
    return [finding for finding in findings.values() if finding is not None]


def _rule_tables(projections: Iterable[Projection]) -> Iterator[tuple[Projection, Table]]:
    """Tables in the metadata of projections with a rule: which of them the rule writes it alone knows."""
    for projection in projections:
        if projection.rule is not None:
            yield from ((projection, table) for table in projection.table.metadata.tables.values())


async def _trial(engine: AsyncEngine, table: Table, *, deletes: bool) -> Finding | None:
    """What becomes of an attempt to write to a table, which changes nothing."""
    try:
        await try_writing(engine, table, deletes=deletes)
    except DBAPIError as error:
        if sqlstate(error) == _READ_ONLY:
            return None  # Another check tells.
        if classify(error) is not Trouble.MISCONFIGURED:
            raise
        if sqlstate(error) != _NO_RIGHT:
            return TABLE_UNUSABLE.found(f"Table {table.name} cannot be written: {describe(error)}.")
        rights = await _missing_rights(engine, table, ["DELETE"] if deletes else [])
        return RIGHT_MISSING.found(f"This user may not {', '.join(rights) or 'write'} on table {table.name}.")
    return None


async def _missing_rights(engine: AsyncEngine, table: Table, more: Sequence[str]) -> list[str]:
    name = engine.dialect.identifier_preparer.format_table(table)
    statement = (
        "SELECT privilege FROM unnest($1::text[]) AS privilege WHERE NOT has_table_privilege($2, privilege)"
    )
    rights = ["SELECT", "INSERT", "UPDATE", *more]
    return [row[0] for row in await ask(engine, statement, rights, name)]


_OTHERS = """
    SELECT row_security_active(t.oid),
           ARRAY(SELECT attname::text FROM pg_attribute
                 WHERE attrelid = t.oid AND attnum > 0 AND NOT attisdropped AND attnotnull
                   AND NOT atthasdef AND attidentity = '' AND attname <> ALL($2::text[]) ORDER BY attnum),
           ARRAY(SELECT tgname::text FROM pg_trigger
                 WHERE tgrelid = t.oid AND NOT tgisinternal AND tgenabled <> 'D' ORDER BY tgname)
    FROM pg_class AS t WHERE t.oid = to_regclass($1)"""


async def _others(of: Deployment) -> Sequence[Finding]:
    preparer = of.engine.dialect.identifier_preparer
    tables = dict.fromkeys(table for p in of.projections for table, _ in needed_tables(p))
    findings: list[Finding] = []
    for table in tables:
        ours = [column.name for column in table.columns]
        for policies, columns, triggers in await ask(of.engine, _OTHERS, preparer.format_table(table), ours):
            if policies:
                findings.append(HAS_POLICIES.found(f"Policies hold for this user on table {table.name}."))
            if columns:
                required = f"is NOT NULL without a default: {', '.join(columns)}"
                findings.append(TABLE_REFUSES_ROWS.found(f"Somebody's column in {table.name} {required}."))
            if triggers:
                findings.append(HAS_TRIGGERS.found(f"Table {table.name} has {', '.join(triggers)}."))
    return findings


CHECKS = (
    Check("The schema", Area.POSTGRESQL, _schema, (SCHEMA_WRONG,)),
    Check(
        "Writing to the tables",
        Area.POSTGRESQL,
        _writing,
        (TABLE_UNUSABLE, RIGHT_MISSING, RULE_TABLE_UNUSABLE),
    ),
    Check(
        "What others do to the tables",
        Area.POSTGRESQL,
        _others,
        (TABLE_REFUSES_ROWS, HAS_TRIGGERS, HAS_POLICIES),
    ),
)
