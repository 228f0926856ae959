"""Projections as their authors write them, and the fold: events in, changed row out. No I/O here."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, Protocol, TypeVar

from sqlalchemy import JSON, ColumnElement, DateTime, Integer, Table, Text, inspect
from sqlalchemy.exc import NoInspectionAvailable
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.types import ARRAY

from worker.errors import DeclarationError, RejectedEventError
from worker.events import Event, EventId, UndecodableEvent
from worker.payload import encode
from worker.row import RESERVED_NAMES, RawJson, Remark, Row, RowState, row_class

Handler = Callable[[Any, Event], None]
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


@dataclass(frozen=True, slots=True)
class RuleWrite:
    """What one stream's write means for a cross-stream rule.

    ``facts`` are what the handlers put into ``row.facts``, in event order. With ``replace`` the row was
    folded from the start of its log: the facts are all there are, and older ones must be withdrawn.
    """

    stream_id: str
    facts: tuple[Any, ...]
    replace: bool


class RuleTransaction(Protocol):
    """A rule's part in one transaction; see `CrossStreamRule.prepare`."""

    @property
    def affected(self) -> Collection[str]:
        """Streams outside the batch whose rows the rule may change: locked with those of the batch."""

    async def apply(self, won: Collection[str]) -> None:
        """Write the facts of the streams that won their comparison, and every column that follows from them.

        Called once, with all rows of the batch and the affected ones locked. Raises ClaimRaceError when the
        transaction must start again.
        """


class CrossStreamRule(Protocol):
    """One rule of a projection that reaches across streams; it runs inside the transaction of a batch.

    ``columns`` are the columns of the projection's table that the rule computes. They are neither folded nor
    cached, since events of other streams change them.
    """

    @property
    def columns(self) -> frozenset[str]: ...

    async def prepare(self, connection: AsyncConnection, writes: Sequence[RuleWrite]) -> RuleTransaction:
        """Take the rule's own locks, before any row is locked, and find the affected streams."""

    async def abandoned(self, connection: AsyncConnection, limit: int) -> Sequence[str]:
        """Streams that still have facts but no row, at most ``limit``."""

    def settle(self, facts: Mapping[str, Sequence[Any]]) -> Mapping[str, Mapping[str, Any]]:
        """The rule's columns for every stream, from all facts of all streams: the plain, in-memory answer."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """An event that can never be applied: it moves the position and nothing else."""

    event_id: EventId
    type: str
    reason: str


@dataclass(frozen=True, slots=True)
class HandlerFailure:
    """A handler raised: the stream stops before this event."""

    event_id: EventId
    type: str
    error: Exception


@dataclass(frozen=True, slots=True)
class Folded:
    """What became of a row: its new state, which columns differ, and what stood in the way.

    ``last`` is the last event that was applied or rejected, None when there was none; ``updated_at`` the
    time of the last such event that has one.
    """

    state: RowState
    changed: frozenset[str]
    facts: tuple[Any, ...]
    remarks: tuple[Remark, ...]
    last: EventId | None
    updated_at: datetime | None
    applied: int
    rejections: tuple[Rejection, ...]
    failure: HandlerFailure | None


class Projection:
    """A read model: one row for each stream, folded from its log by handlers.

    ``table`` is a SQLAlchemy model with the `ProjectedRow` mixin. ``checkpoints`` are the event types that
    must be durable in PostgreSQL at once. ``version`` is raised when handlers change so that old rows must
    be folded anew.

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

    def fold(self, state: RowState, events: Sequence[Event | UndecodableEvent]) -> Folded:
        """Apply events, in log order, to a row. Pure: the same state and events give the same result.

        An event that is rejected leaves no trace but the position. At one whose handler raises anything else
        the fold ends, with everything before it applied.
        """
        attempt = _Attempt()
        while True:
            row = self._row_class(state)
            stopped_at = self._apply(row, events, attempt)
            if stopped_at is not None:
                if attempt.failure:
                    events = events[:stopped_at]
                continue
            try:
                after = row.state()
                break
            except Exception:
                if attempt.check_each:
                    raise
                attempt.check_each = True  # Some event left what is no JSON: start over and find out which.
        return Folded(
            state=after,
            changed=frozenset(
                c for c, old, new in zip(self.columns, state, after, strict=True) if old != new
            ),
            facts=tuple(row.facts),
            remarks=tuple(row.remarks),
            last=events[-1].id if events else None,
            updated_at=next((t for event in reversed(events) if (t := event.id.time)), None),
            applied=len(events) - len(attempt.rejections),
            rejections=tuple(attempt.rejections[at] for at in sorted(attempt.rejections)),
            failure=attempt.failure,
        )

    def _apply(self, row: Row, events: Sequence[Event | UndecodableEvent], attempt: _Attempt) -> int | None:
        """Apply events to a fresh row; None when that worked, else the index of the event that did not.

        A handler that raises may have changed the row halfway, so the caller starts over without that event.
        """
        for at, event in enumerate(events):
            if isinstance(event, UndecodableEvent):
                attempt.rejections[at] = Rejection(event.id, event.type, event.reason)
            if at in attempt.rejections:
                continue
            assert isinstance(event, Event)
            try:
                self._handlers[event.type](row, event)
                if attempt.check_each:
                    row.state()
            except RejectedEventError as error:
                attempt.rejections[at] = Rejection(event.id, event.type, str(error))
                return at
            except Exception as error:  # whatever it is, it stops this stream alone
                attempt.failure = HandlerFailure(event.id, event.type, error)
                return at
        return None


@dataclass(slots=True)
class _Attempt:
    """What earlier passes over the same events have found out."""

    rejections: dict[int, Rejection] = field(default_factory=dict)
    failure: HandlerFailure | None = None
    check_each: bool = False
    """Whether the row must be fit to be stored after each event, not only at the end."""


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
