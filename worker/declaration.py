"""Mistakes in declarations, each told in one sentence that says what to do instead."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from sqlalchemy import (
    JSON,
    Column,
    DateTime,
    Enum,
    Float,
    Integer,
    Interval,
    Numeric,
    Sequence,
    String,
    Table,
    Uuid,
    inspect,
)
from sqlalchemy.dialects.postgresql import HSTORE
from sqlalchemy.types import NullType, TypeDecorator

from worker.errors import DeclarationError
from worker.poison import Poison
from worker.signature import name_of

_CONVERSIONS = ("process_bind_param", "process_result_value", "bind_processor", "result_processor")
_APART_NS = 50_000
"""How long after another a default is called again: clocks tell microseconds."""


def checked_name(name: Any) -> str:
    """The name of a projection."""
    plain = name.replace("_", "").replace("-", "") if isinstance(name, str) else ""
    if not plain.isalnum() or not plain.isascii():
        raise DeclarationError(
            f"Projection name {name!r} must consist of ASCII letters, digits, '-' and '_'."
        )
    return str(name)


def checked_version(owner: str, version: Any) -> int:
    """A version of a projection or payload."""
    if not isinstance(version, int) or isinstance(version, bool):
        raise DeclarationError(f"{owner}: version must be an integer such as 1, not {version!r}.")
    if version < 1:
        raise DeclarationError(f"{owner}: version must be 1 or more, not {version}.")
    return version


def checked_checkpoints(owner: str, checkpoints: Any) -> frozenset[str]:
    """The checkpoint types; a single string would be a set of letters."""
    if isinstance(checkpoints, str | bytes) or not isinstance(checkpoints, Iterable):
        raise DeclarationError(
            f"{owner}: checkpoints must be a set of event types, not {checkpoints!r}; write it in braces."
        )
    types = list(checkpoints)
    check_types(owner, "checkpoints", types)
    return frozenset(types)


def checked_poison(owner: str, poison: Any) -> Poison:
    """The policy for events whose handler raises."""
    if poison not in list(Poison):
        raise DeclarationError(f"{owner}: poison must be 'stop' or 'pass', not {poison!r}.")
    return Poison(poison)


def checked_field(owner: str, field: Any) -> str:
    """The field of payloads that holds their version."""
    if not isinstance(field, str) or not field:
        raise DeclarationError(
            f"{owner}: payload_version must be the name of a field such as 'version', not {field!r}."
        )
    return field


def check_types(owner: str, place: str, types: Iterable[Any]) -> None:
    """Refuse what is no event type."""
    for event_type in types:
        if callable(event_type) and not isinstance(event_type, str):
            raise DeclarationError(
                f"{owner}: {place} was given {name_of(event_type)} and no event type; write a decorator "
                f"with types, such as {place}('created')."
            )
        if isinstance(event_type, set | frozenset | list | tuple):
            raise DeclarationError(
                f"{owner}: {place} takes event types one by one, not {_kind(event_type)} of them; put a * "
                "before it."
            )
        if not isinstance(event_type, str):
            raise DeclarationError(f"{owner}: an event type is a string, not {event_type!r} as in {place}.")
        if not event_type:
            raise DeclarationError(f"{owner}: {place} has an empty event type; give its name.")
        if "\0" in event_type or not _is_utf8(event_type):
            raise DeclarationError(
                f"{owner}: {place} has {event_type!r}, which no log may hold as a type; correct it."
            )


def check_row(where: str, row: Any, model: type[Any]) -> None:
    """Refuse a handler that is annotated with the model of another table."""
    mapper = inspect(row, raiseerr=False) if isinstance(row, type) else None
    table = getattr(mapper, "local_table", None)
    if table is not None and table is not inspect(model).local_table:
        raise DeclarationError(
            f"{where} takes a row of {row.__name__}, but the projection's table is {model.__name__}; "
            "annotate it so, or register it with the projection of that table."
        )


def check_rule(owner: str, rule: Any) -> None:
    """Refuse what is no cross-stream rule, and the class of one."""
    if rule is not None and (isinstance(rule, type) or not hasattr(rule, "columns")):
        raise DeclarationError(f"{owner}: rule must be a CrossStreamRule, not {rule!r}; give an instance.")


def check_kept_columns(owner: str, table: Table) -> None:
    """Refuse kept columns that an author has declared without the mixin and in another way than it does."""
    columns = table.columns
    texts = ("stream_id", "last_event_id", "first_event_id")
    wrong = [name for name in texts if not _is_text(columns[name].type)]
    wrong += [name for name in ("generation", "version") if not isinstance(columns[name].type, Integer)]
    updated_at: Any = columns["updated_at"].type
    if not isinstance(updated_at, DateTime) or not updated_at.timezone:
        wrong.append("updated_at")
    if wrong:
        raise DeclarationError(
            f"{owner}: columns {wrong} of {table.name} are not of the types that the worker needs; give the "
            "model the ProjectedRow mixin, or declare them as it does."
        )
    filled = ("last_event_id", "first_event_id", "updated_at")
    if required := [name for name in filled if not columns[name].nullable]:
        raise DeclarationError(
            f"{owner}: columns {required} of {table.name} are null before the first event; let them be."
        )


def _is_text(kind: Any) -> bool:
    return isinstance(kind, String) and not isinstance(kind, Enum)


def check_column(owner: str, column: Column[Any]) -> None:
    """Refuse a column that rows cannot be folded into."""
    where = f"{owner}: column {column.key}"
    if column.identity is not None or isinstance(column.default, Sequence):
        raise DeclarationError(
            f"{where} is numbered by the database, so that a replay would give another number; number it "
            "in a handler, or leave it out of the model."
        )
    if column.onupdate is not None:
        raise DeclarationError(f"{where} has an onupdate, which is never called; set it in a handler.")
    if why := _unfit(column.type):
        raise DeclarationError(f"{where} {why}.")


def _unfit(kind: Any) -> str:
    """Why a column of this type cannot be folded, and what to take; empty for all others."""
    if isinstance(kind, NullType):
        return "has no type; give it one"
    if isinstance(kind, TypeDecorator) and _converts(kind):
        name = type(kind).__name__
        return (
            f"has type {name}, whose conversions are never called; convert in handlers, and take a plain type"
        )
    if isinstance(kind, Enum) and kind.enum_class is not None:
        return "has a Python enum as type, which rows do not hold; take Text, and set its value"
    if isinstance(kind, HSTORE):
        return "has type HSTORE; use jsonb instead"
    if isinstance(kind, Uuid) and not kind.as_uuid:
        return "is a Uuid with as_uuid=False, but is read as UUID; take Uuid(), or Text"
    if isinstance(kind, Float | Numeric) and isinstance(kind, Float) == bool(kind.asdecimal):
        return (
            "has numbers of another kind than are read from it; take Numeric() for Decimal, Float() for float"
        )
    return ""


def _converts(kind: TypeDecorator[Any]) -> bool:
    """Whether values would go through functions of this type on their way; JSON has its own way."""
    if isinstance(kind, Interval):  # SQLAlchemy's own, which PostgreSQL needs no conversions for
        return False
    overridden = (getattr(type(kind), name) is not getattr(TypeDecorator, name) for name in _CONVERSIONS)
    return any(overridden) or isinstance(kind.impl_instance, JSON)


def default_of(owner: str, column: Column[Any]) -> Any:
    """The value a column has before any event, None where it has no default."""
    where = f"{owner}: column {column.key}"
    default: Any = column.default
    if default is None:
        value = None
    elif default.is_callable:
        value = _called(where, default.arg)
    elif default.is_scalar:
        value = default.arg
    else:
        raise DeclarationError(
            f"{where} has a default that the database computes, which handlers do not see; give it a plain "
            "default in the model, or set it in a handler."
        )
    if value is None and not column.nullable:
        told = " as well, since handlers do not see that of the server" if column.server_default else ""
        raise DeclarationError(f"{where} may not be null; give it a default in the model{told}.")
    return value


def _called(where: str, function: Callable[[Any], Any]) -> Any:
    try:
        value = function(None)
        until = time.perf_counter_ns() + _APART_NS
        while time.perf_counter_ns() < until:
            pass
        same = bool(function(None) == value)
    except Exception as error:
        raise DeclarationError(
            f"{where} has a default that raises {type(error).__name__} when called outside a statement; "
            "give it a plain value."
        ) from error
    if not same:
        raise DeclarationError(
            f"{where} has a default that is another each time, so that a replay gives another row; take the "
            "time from event.id.time in a handler, and ids from events."
        )
    return value


def _kind(value: Any) -> str:
    return f"a {type(value).__name__}"


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
