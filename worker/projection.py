"""Projections as their authors declare them: a table, handlers by event type, a version."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any, ClassVar, Literal, TypeVar

from sqlalchemy import JSON, Column, DateTime, Integer, Table, Text, inspect
from sqlalchemy.exc import NoInspectionAvailable
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.types import ARRAY

from worker.child_declaration import child_tables
from worker.children import ChildRows
from worker.declaration import (
    check_column,
    check_kept_columns,
    check_row,
    check_rule,
    check_types,
    checked_checkpoints,
    checked_field,
    checked_name,
    checked_poison,
    checked_version,
    default_of,
)
from worker.errors import DeclarationError, RejectedEventError
from worker.events import AnyEvent
from worker.fold import Folded, Handler, fold
from worker.keys import Keys
from worker.payload import encode
from worker.row import RESERVED_NAMES, RawJson, Remark, RowState, row_class
from worker.rule import CrossStreamRule
from worker.signature import callers_names, name_of, read_handler
from worker.stream_glob import StreamGlob
from worker.typed import typed_handler
from worker.upcasting import Upcaster, Upcasters

H = TypeVar("H", bound=Callable[..., None])
U = TypeVar("U", bound=Upcaster)


class ProjectedRow:
    """Mixin for the SQLAlchemy model of a projection's table: the columns that the worker itself keeps.

    ``last_event_id`` is the position: the row is the fold of its log up to and including that event.
    ``first_event_id`` is where the log began when the row was made, so that a log that was trimmed since is
    noticed. ``generation`` grows whenever the row is folded anew from the start. ``version`` is the
    projection's, at the time of writing.
    """

    stream_id: Mapped[str] = mapped_column(Text, primary_key=True)
    last_event_id: Mapped[str | None] = mapped_column(Text)
    updated_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    first_event_id: Mapped[str | None] = mapped_column(Text)
    generation: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    version: Mapped[int] = mapped_column(Integer, default=0, server_default="0")

    facts: ClassVar[list[Any]]
    """In a handler: what it tells the projection's cross-stream rule. No column."""
    remarks: ClassVar[list[Remark]]
    """In a handler: what operators should know of an event although it was applied. No column."""


KEPT_COLUMNS = frozenset(
    {"stream_id", "last_event_id", "updated_at", "first_event_id", "generation", "version"}
)


class Projection:
    """A read model: one row for each stream, folded from its log by handlers.

    ``table`` is a SQLAlchemy model with the `ProjectedRow` mixin. ``checkpoints`` are the event types that
    must be durable in PostgreSQL at once. ``version`` is raised when handlers change so that old rows must
    be folded anew. ``logs`` is the key prefix of its logs, after the deployment's. ``streams`` is a pattern
    of stream ids (see `StreamGlob`): others are never projected, and what rows they have stay as they are.
    ``children`` are models of tables in which a stream has many rows, by the names under which handlers write
    them; see `worker.children`. ``poison`` says what becomes of an event whose handler raises: "stop" stops
    its stream until it is retried or skipped, "pass" passes it over with a dead letter, until a new version
    applies it anew. ``payload_version`` is the field of payloads by which upcasters go; see `upcast`.

    A handler is a plain function of row and event or payload, registered with `on`. It does no I/O, reads no
    clock and draws no random numbers, so that a replay gives the same row.
    """

    def __init__(
        self,
        name: str,
        *,
        table: type[Any],
        version: int = 1,
        checkpoints: Iterable[str] = (),
        rule: CrossStreamRule | None = None,
        logs: str = "stream:",
        streams: str = "*",
        children: Mapping[str, type[Any]] | None = None,
        poison: Literal["stop", "pass"] = "stop",
        payload_version: str = "version",
    ) -> None:
        self.name = checked_name(name)
        owner = f"Projection {name}"
        self.version = checked_version(owner, version)
        self.checkpoints = checked_checkpoints(owner, checkpoints)
        check_rule(owner, rule)
        self.rule = rule
        self.poison = checked_poison(owner, poison)
        try:
            self.logs = Keys(logs=logs).logs
            self.streams = StreamGlob(streams)
        except ValueError as error:
            raise DeclarationError(f"Projection {name}: {error}") from None
        self.table = _table_of(name, table)
        self._model = table
        self._upcasters = Upcasters(name, checked_field(owner, payload_version))
        self._handlers: dict[str, Handler] = {}
        computed = rule.columns if rule else frozenset()
        if unknown := computed - set(self.table.columns.keys()):
            raise DeclarationError(
                f"Projection {name}: its rule computes {sorted(unknown)}, which the table lacks."
            )
        # What the database generates of other columns is for readers alone.
        others = KEPT_COLUMNS | computed | {c.key for c in self.table.columns if c.computed is not None}
        folded = [c for c in self.table.columns if c.key not in others]
        for column in folded:
            check_column(owner, column)
        self.columns: tuple[str, ...] = tuple(c.key for c in folded)
        self.json_columns = frozenset(c.key for c in folded if isinstance(c.type, JSON))
        self.children = child_tables(name, self.table, children)
        self._row_class = row_class(
            self.columns, self.json_columns, {n: partial(ChildRows, t) for n, t in self.children.items()}
        )
        self.new_state: RowState = tuple(_default(name, c) for c in folded)

    @property
    def types(self) -> frozenset[str]:
        """The projected event types: those with a handler."""
        return frozenset(self._handlers)

    def keys(self, keys: Keys) -> Keys:
        """The deployment's keys, with the logs of this projection."""
        return keys if keys.logs == self.logs else replace(keys, logs=self.logs)

    def left_out(self, stream_id: str) -> str:
        """Why the stream is never projected, as a sentence; empty if it is."""
        if self.streams.covers(stream_id):
            return ""
        return (
            f"Projection {self.name} leaves stream {stream_id!r} out: it takes only those that match "
            f"{self.streams.pattern!r}."
        )

    @property
    def races(self) -> frozenset[str]:
        """Unique constraints whose violation is no fault of a row; see `CrossStreamRule`."""
        return self.rule.races if self.rule else frozenset()

    def on(self, *types: str) -> Callable[[H], H]:
        """Register a handler for event types. One handler for a type; several types may share one.

        A handler is ``(row, event: Event)``, ``(row, payload: Model)`` or
        ``(row, event: Event, payload: Model)``; without annotation the second parameter is the event. A model
        is one of pydantic, a msgspec Struct, a dataclass or a TypedDict; ``dict[str, Any]`` is the payload as
        it is. The payload is the handler's own. One that does not fit its model rejects the event, as
        RejectedEventError does.
        """
        owner = f"Projection {self.name}"
        check_types(owner, "on()", types)

        def register(handler: H) -> H:
            if not types:
                raise DeclarationError(f"{owner}: on() needs at least one event type.")
            where = f"{owner}: handler {name_of(handler)}"
            signature = read_handler(where, handler, callers_names())
            check_row(where, signature.row, self._model)
            called = typed_handler(where, handler, signature)
            for event_type in types:
                if event_type in self._handlers:
                    raise DeclarationError(f"{owner}: two handlers for {event_type!r}; keep one.")
                self._handlers[event_type] = self._upcasters.before(event_type, called)
            return handler

        return register

    def upcast(self, event_type: str, *, version: int) -> Callable[[U], U]:
        """Register a function that makes a payload of the next version of one of this version.

        It is called before handlers, with a payload of its own, and so are those of the versions after it.
        The version stands in the payload's field ``payload_version``; one without it is of version 1, one
        that is newer than all upcasters is left as it is, and one whose version is no positive integer
        rejects its event. What an upcaster raises counts as raised by the handler.
        """
        owner = f"Projection {self.name}"
        check_types(owner, "upcast()", [event_type])
        checked_version(f"{owner}: upcaster for {event_type!r}", version)

        def register(upcaster: U) -> U:
            first = self._upcasters.add(event_type, version, upcaster)
            if first and event_type in self._handlers:
                self._handlers[event_type] = self._upcasters.before(event_type, self._handlers[event_type])
            return upcaster

        return register

    def check(self) -> None:
        """Raise DeclarationError for what can only be seen once all handlers are registered."""
        if not self._handlers:
            raise DeclarationError(f"Projection {self.name}: it has no handlers.")
        if unhandled := self.checkpoints - self.types:
            raise DeclarationError(f"Projection {self.name}: no handler for checkpoints {sorted(unhandled)}.")
        self._upcasters.check(self.types)

    def fold(self, state: RowState, events: Sequence[AnyEvent]) -> Folded:
        """Apply events, in log order, to a row. Pure: the same state and events give the same result.

        An event that is rejected or skipped leaves no trace but the position. At one whose handler raises
        anything else the fold ends, with everything before it applied, unless the projection passes it over.
        """
        return fold(self._row_class, self._handlers, state, events, self.poison)


def _table_of(name: str, model: type[Any]) -> Table:
    try:
        table = inspect(model).local_table
    except (NoInspectionAvailable, AttributeError):
        raise DeclarationError(
            f"Projection {name}: table must be a SQLAlchemy model, not {model!r}."
        ) from None
    if not isinstance(table, Table):
        raise DeclarationError(
            f"Projection {name}: {model.__name__} is mapped to no single table; give a model of one."
        )
    if missing := KEPT_COLUMNS - set(table.columns.keys()):
        raise DeclarationError(
            f"Projection {name}: table {table.name} lacks {sorted(missing)}; give it the ProjectedRow mixin."
        )
    check_kept_columns(f"Projection {name}", table)
    if [column.key for column in table.primary_key] != ["stream_id"]:
        raise DeclarationError(f"Projection {name}: the primary key of {table.name} must be stream_id alone.")
    if arrays := [column.key for column in table.columns if isinstance(column.type, ARRAY)]:
        raise DeclarationError(f"Projection {name}: columns {arrays} are arrays; use jsonb instead.")
    if reserved := sorted(RESERVED_NAMES & set(table.columns.keys())):
        raise DeclarationError(
            f"Projection {name}: columns {reserved} have names that rows need for themselves; choose others."
        )
    if renamed := [column.key for column in table.columns if column.key != column.name]:
        raise DeclarationError(
            f"Projection {name}: columns {renamed} have another name in the database; give them the same."
        )
    return table


def _default(name: str, column: Column[Any]) -> Any:
    """The value a column has before any event, as a row's state has it."""
    value = default_of(f"Projection {name}", column)
    if value is None or not isinstance(column.type, JSON):
        return value
    try:
        return RawJson(encode(value))
    except (TypeError, RejectedEventError):
        raise DeclarationError(
            f"Projection {name}: the default of column {column.key} is no JSON; give it one that is."
        ) from None
