"""Rules that reach across streams: what a projection may run inside the transaction of a batch."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy.ext.asyncio import AsyncConnection


@dataclass(frozen=True, slots=True)
class RuleWrite:
    """What one stream's write means for a cross-stream rule.

    ``facts`` are what the handlers put into ``row.facts``, in event order. With ``replace`` the row was
    folded from the start of its log: the facts are all there are, and older ones must be withdrawn.
    """

    stream_id: str
    facts: tuple[Any, ...]
    replace: bool


@dataclass(frozen=True, slots=True)
class StoredFacts:
    """What the database holds of one stream for a cross-stream rule.

    ``facts`` are the stream's own, as `CrossStreamRule.describe` names them. ``visible`` are the columns that
    readers see, as they follow from the stored facts of all streams, whatever the row shows.
    """

    facts: Mapping[str, Any]
    visible: Mapping[str, Any]


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


class RuleReader(Protocol):
    """A single reader of facts, in memory: what `CrossStreamRule.settle` does at once, fact by fact."""

    def apply(self, stream_id: str, fact: Any) -> None:
        """Apply the next fact, in the order of (event id, stream id in UTF-8)."""

    def columns(self, stream_id: str) -> Mapping[str, Any]:
        """The columns that `CrossStreamRule.settle` tells, as readers of the stream see them by now."""


class CrossStreamRule(Protocol):
    """One rule of a projection that reaches across streams; it runs inside the transaction of a batch.

    ``columns`` are the columns of the projection's table that the rule computes. They are neither folded nor
    cached, since events of other streams change them. Every fact has the ``event_id`` of its event.
    """

    @property
    def columns(self) -> frozenset[str]: ...

    @property
    def races(self) -> frozenset[str]:
        """Names of unique constraints whose violation is a race between transactions, over at a retry."""

    async def prepare(self, connection: AsyncConnection, writes: Sequence[RuleWrite]) -> RuleTransaction:
        """Take the rule's own locks, before any row is locked, and find the affected streams."""

    async def abandoned(self, connection: AsyncConnection, limit: int) -> Sequence[str]:
        """Streams that still have facts but no row, at most ``limit``."""

    def settle(self, facts: Mapping[str, Sequence[Any]]) -> Mapping[str, Mapping[str, Any]]:
        """The rule's columns for every stream, from all facts of all streams: the plain, in-memory answer."""

    def describe(self, facts: Sequence[Any]) -> Mapping[str, Any]:
        """What the database must hold of a stream whose log gives these facts, by name. Pure.

        A name is that of a column, or of what is kept elsewhere. Values are plain, as JSON has them.
        """

    async def stored(
        self, connection: AsyncConnection, stream_ids: Sequence[str]
    ) -> Mapping[str, StoredFacts]:
        """What is stored of each of these streams that has a row. Reads only."""

    def reader(self) -> RuleReader:
        """A single reader that has seen nothing yet."""

    async def facts_of(self, connection: AsyncConnection, stream_id: str) -> Sequence[Any]:
        """A stream's own facts as far as it is projected, in event order. Those without effect may lack."""

    async def rivals(
        self, connection: AsyncConnection, stream_id: str, facts: Sequence[Any]
    ) -> Mapping[str, Sequence[Any]]:
        """Of other streams, as far as they are projected, the facts that decide over this one's columns.

        With these facts of its own, a `reader` then tells its columns, though not those of the others, as of
        any event.
        """
