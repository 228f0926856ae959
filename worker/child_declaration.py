"""Child rows as authors declare them, and every mistake in that, told in one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import CHAR, JSON, Column, Enum, Integer, String, Table, inspect
from sqlalchemy.dialects.postgresql import CITEXT
from sqlalchemy.exc import NoInspectionAvailable
from sqlalchemy.types import ARRAY

from worker.children import ChildTable
from worker.declaration import check_column, default_of
from worker.errors import DeclarationError
from worker.payload import encode
from worker.row import RESERVED_NAMES, RawJson


def child_tables(
    projection: str, parent: Table, models: Mapping[str, type[Any]] | None
) -> dict[str, ChildTable]:
    """What the models of a projection's child rows declare. Raises DeclarationError."""
    tables = {name: _child_table(projection, parent, name, model) for name, model in (models or {}).items()}
    names = [declared.table.name for declared in tables.values()]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise DeclarationError(f"Projection {projection}: {doubled} are child rows twice; name them once.")
    return tables


def _child_table(projection: str, parent: Table, name: str, model: type[Any]) -> ChildTable:
    def wrong(what: str) -> DeclarationError:
        return DeclarationError(f"Projection {projection}: child rows {name!r}: {what}")

    if not name.isidentifier() or name in RESERVED_NAMES or name in parent.columns or name.startswith("_"):
        raise wrong("handlers write row.<name>; choose a name that is an identifier and no column.")
    try:
        table = inspect(model).local_table
    except (NoInspectionAvailable, AttributeError):
        raise wrong(f"a SQLAlchemy model is needed, not {model!r}.") from None
    assert isinstance(table, Table)
    key = _key_of(table)
    if key is None:
        raise wrong(f"the primary key of {table.name} must be stream_id and one column more, in this order.")
    if not isinstance(key.type, String | Integer):
        raise wrong(f"{key.key}, the key of {table.name}, must be text or an integer, not {key.type!r}.")
    if isinstance(key.type, CHAR | CITEXT | Enum) or getattr(key.type, "collation", None) not in (None, "C"):
        raise wrong(
            f"{key.key}, the key of {table.name}, may be equal to the database where it is not to Python; "
            "make it Text."
        )
    if not any(
        reference.column.table is parent and reference.column.key == "stream_id"
        for reference in table.c.stream_id.foreign_keys
        if (reference.ondelete or "").upper() == "CASCADE"
    ):
        raise wrong(
            f"{table.name}.stream_id must be ForeignKey('{parent.name}.stream_id', ondelete='CASCADE'), "
            "so that child rows go with their row."
        )
    if arrays := [column.key for column in table.columns if isinstance(column.type, ARRAY)]:
        raise wrong(f"columns {arrays} are arrays; use jsonb instead.")
    if renamed := [column.key for column in table.columns if column.key != column.name]:
        raise wrong(f"columns {renamed} have another name in the database; give them the same.")
    owner = f"Projection {projection}, child rows {name!r}"
    written = [c for c in table.columns if c.key not in ("stream_id", key.key) and c.computed is None]
    for column in written:
        check_column(owner, column)
    return ChildTable(
        name,
        table,
        key.key,
        str if isinstance(key.type, String) else int,
        tuple(column.key for column in written),
        frozenset(column.key for column in written if isinstance(column.type, JSON)),
        {c.key: _default(owner, c) for c in written if c.nullable or c.default is not None},
    )


def _key_of(table: Table) -> Column[Any] | None:
    match list(table.primary_key):
        case [stream_id, key] if stream_id.key == "stream_id":
            return key
    return None


def _default(owner: str, column: Column[Any]) -> Any:
    value = None if column.default is None else default_of(owner, column)
    return RawJson(encode(value)) if isinstance(column.type, JSON) and value is not None else value
