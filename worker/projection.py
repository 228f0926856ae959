"""Projections as their authors declare them: a table, handlers by event type, a version."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, ClassVar, TypeVar

from sqlalchemy import JSON, ColumnElement, DateTime, Integer, Table, Text, inspect
from sqlalchemy.exc import NoInspectionAvailable
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.types import ARRAY

from worker.errors import DeclarationError
from worker.events import AnyEvent
from worker.fold import Folded, Handler, fold
from worker.keys import Keys
from worker.payload import encode
from worker.row import RESERVED_NAMES, RawJson, Remark, RowState, row_class
from worker.rule import CrossStreamRule
from worker.stream_glob import StreamGlob

H = TypeVar("H", bound=Handler)


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

    A handler is a plain function of row and event, registered with `on`. It does no I/O, reads no clock and
    draws no random numbers, so that a replay gives the same row.
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
    ) -> None:
        if not name or not name.replace("_", "").replace("-", "").isalnum() or not name.isascii():
            raise DeclarationError(
                f"Projection name {name!r} must consist of ASCII letters, digits, '-' and '_'."
            )
        if version < 1:
            raise DeclarationError(f"Projection {name}: version must be 1 or more, not {version}.")
        self.name = name
        self.version = version
        self.checkpoints = frozenset(checkpoints)
        self.rule = rule
        try:
            self.logs = Keys(logs=logs).logs
            self.streams = StreamGlob(streams)
        except ValueError as error:
            raise DeclarationError(f"Projection {name}: {error}") from None
        self.table = _table_of(name, table)
        self._handlers: dict[str, Handler] = {}
        computed = rule.columns if rule else frozenset()
        if unknown := computed - set(self.table.columns.keys()):
            raise DeclarationError(
                f"Projection {name}: its rule computes {sorted(unknown)}, which the table lacks."
            )
        folded = [c for c in self.table.columns if c.key not in KEPT_COLUMNS and c.key not in computed]
        self.columns: tuple[str, ...] = tuple(c.key for c in folded)
        self.json_columns = frozenset(c.key for c in folded if isinstance(c.type, JSON))
        self._row_class = row_class(self.columns, self.json_columns)
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
        """Register a handler for event types. One handler for a type; several types may share one."""

        def register(handler: H) -> H:
            if not types:
                raise DeclarationError(f"Projection {self.name}: on() needs at least one event type.")
            for event_type in types:
                if event_type in self._handlers:
                    raise DeclarationError(f"Projection {self.name}: two handlers for {event_type!r}.")
                self._handlers[event_type] = handler
            return handler

        return register

    def check(self) -> None:
        """Raise DeclarationError for what can only be seen once all handlers are registered."""
        if not self._handlers:
            raise DeclarationError(f"Projection {self.name}: it has no handlers.")
        if unhandled := self.checkpoints - self.types:
            raise DeclarationError(f"Projection {self.name}: no handler for checkpoints {sorted(unhandled)}.")

    def fold(self, state: RowState, events: Sequence[AnyEvent]) -> Folded:
        """Apply events, in log order, to a row. Pure: the same state and events give the same result.

        An event that is rejected or skipped leaves no trace but the position. At one whose handler raises
        anything else the fold ends, with everything before it applied.
        """
        return fold(self._row_class, self._handlers, state, events)


def _table_of(name: str, model: type[Any]) -> Table:
    try:
        table = inspect(model).local_table
    except (NoInspectionAvailable, AttributeError):
        raise DeclarationError(
            f"Projection {name}: table must be a SQLAlchemy model, not {model!r}."
        ) from None
    assert isinstance(table, Table)
    if missing := KEPT_COLUMNS - set(table.columns.keys()):
        raise DeclarationError(
            f"Projection {name}: table {table.name} lacks {sorted(missing)}; give it the ProjectedRow mixin."
        )
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


def _default(name: str, column: ColumnElement[Any]) -> Any:
    """The value a column has before any event."""
    default = getattr(column, "default", None)
    value = None
    if default is not None:
        value = default.arg(None) if default.is_callable else default.arg if default.is_scalar else None
    if value is None and not getattr(column, "nullable", True):
        raise DeclarationError(
            f"Projection {name}: column {column.key} may not be null; give it a default in the model."
        )
    return RawJson(encode(value)) if isinstance(column.type, JSON) and value is not None else value
