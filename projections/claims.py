"""Claims: which conversation holds which WDK strategy, whatever the order in which streams are projected.

WDK reuses ids, so a claim takes the strategy from whoever holds it. The right answer is that of a single
reader who applies all events of all logs in the order of (event id, stream id in UTF-8). Streams are
projected independently, late and again, so every stream's own facts are kept: each claim, from which of its
events until which, and the last value its own events gave ``is_saved``. What readers see follows from them:

- a stream holds a strategy if its last claim is still open and nobody else's claim on it is later;
- a stream is saved if its own events said so last, and no strategy that it held was taken from it since.

A new, late or withdrawn claim changes that for its own stream and for the nearest earlier claimant, no other:
whoever claimed before that one had lost the strategy already, and a later claimant takes it from whom it may.

All changes to the claims on one strategy are serialised by an advisory lock, taken before any row is locked,
and each step is a statement of its own, since one that waited for a lock would still see what was before.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from projections import claims_sql as sql
from projections.claim_facts import Claimed, ClaimsReader, Cleared, Fact, Saved
from worker import ClaimRaceError, EventId, RuleTransaction, RuleWrite, StoredFacts

_BUCKETS = 1024  # One lock an id would exhaust the lock table of the server.


@dataclass(frozen=True, slots=True)
class _Claim:
    """A row of the history. ``until`` is None while the claim is open."""

    stream_id: str
    since: EventId
    wdk_strategy_id: int
    until: EventId | None


class Claims:
    """The rule, as `worker.Projection` takes it."""

    columns = frozenset(
        {"wdk_strategy_id", "is_saved", "own_is_saved", "own_is_saved_ms", "own_is_saved_seq"}
    )

    races = frozenset({"ix_proj_wdk", "ix_claims_history", "strategy_claims_pkey"})

    async def prepare(self, connection: AsyncConnection, writes: Sequence[RuleWrite]) -> RuleTransaction:
        """Lock every strategy that the writes claim, end or withdraw, and find whose rows that may change."""
        transaction = ClaimsTransaction(connection, writes)
        await transaction.lock()
        return transaction

    async def abandoned(self, connection: AsyncConnection, limit: int) -> Sequence[str]:
        """Streams that have claims but no row."""
        return [row[0] for row in await sql.fetch(connection, sql.ABANDONED, limit)]

    def settle(self, facts: Mapping[str, Sequence[Fact]]) -> Mapping[str, Mapping[str, Any]]:
        """The single reader: apply the facts of all streams one by one, in order."""
        reader = ClaimsReader()
        in_order = sorted(
            ((fact.event_id, stream_id.encode(), at, stream_id, fact)
             for stream_id, some in facts.items() for at, fact in enumerate(some)),
            key=lambda entry: entry[:3],
        )  # fmt: skip
        for *_, stream_id, fact in in_order:
            reader.apply(stream_id, fact)
        return {stream_id: reader.columns(stream_id) for stream_id in facts}

    def describe(self, facts: Sequence[Fact]) -> Mapping[str, Any]:
        """The history of a stream with these facts, and the last value its events gave ``is_saved``."""
        write = RuleWrite("", tuple(facts), replace=True)
        saved = _last_saved(write)
        return {
            "claims": [
                {
                    "wdk_strategy_id": claim.wdk_strategy_id,
                    "from": str(claim.since),
                    "until": str(claim.until) if claim.until else None,
                }
                for claim in reversed(_history(write))
            ],
            "own_is_saved": saved.is_saved if saved else None,
            "own_is_saved_ms": saved.event_id.ms if saved else None,
            "own_is_saved_seq": saved.event_id.seq if saved else None,
        }

    async def stored(
        self, connection: AsyncConnection, stream_ids: Sequence[str]
    ) -> Mapping[str, StoredFacts]:
        """The history and the last own ``is_saved`` as the tables have them, and what follows for readers."""
        streams = list(stream_ids)
        history: dict[str, list[dict[str, Any]]] = {}
        for stream_id, wdk, since, until in await sql.fetch(connection, sql.HISTORY, streams):
            history.setdefault(stream_id, []).append({"wdk_strategy_id": wdk, "from": since, "until": until})
        own = {row[0]: tuple(row[1:]) for row in await sql.fetch(connection, sql.OWN_SAVED, streams)}
        wanted = {row[0]: tuple(row[1:]) for row in await sql.fetch(connection, sql.WANTED, streams)}
        names = ("own_is_saved", "own_is_saved_ms", "own_is_saved_seq")
        return {
            stream_id: StoredFacts(
                facts={"claims": history.get(stream_id, []), **dict(zip(names, own[stream_id], strict=True))},
                visible=dict(zip(("wdk_strategy_id", "is_saved"), wanted[stream_id], strict=True)),
            )
            for stream_id in own
        }

    def reader(self) -> ClaimsReader:
        """A single reader that has seen no claims yet."""
        return ClaimsReader()

    async def facts_of(self, connection: AsyncConnection, stream_id: str) -> Sequence[Fact]:
        """The stream's claims, where they end, and what its own events last said of is_saved."""
        claims = await sql.fetch(connection, sql.STANDING_CLAIMS, [stream_id], [stream_id])
        facts: list[Fact] = [Claimed(_event_id(ms, seq), wdk) for _, ms, seq, wdk, *_ in claims]
        begun = {fact.event_id for fact in facts}
        ends = {_event_id(ms, seq) for *_, ms, seq in claims if ms is not None}
        facts += [Cleared(end) for end in ends - begun]
        for _, is_saved, ms, seq in await sql.fetch(connection, sql.OWN_SAVED, [stream_id]):
            if ms is not None:
                facts.append(Saved(_event_id(ms, seq), is_saved))
        return sorted(facts, key=lambda fact: fact.event_id)

    async def rivals(
        self, connection: AsyncConnection, stream_id: str, facts: Sequence[Fact]
    ) -> Mapping[str, Sequence[Fact]]:
        """For each claim of the stream, the next claim of another stream on the same strategy.

        It takes the strategy if the stream still holds it, and no later one can.
        """
        claims = [fact for fact in facts if isinstance(fact, Claimed)]
        rows = await sql.fetch(
            connection,
            sql.NEAREST_LATER,
            stream_id,
            [claim.wdk_strategy_id for claim in claims],
            [claim.event_id.ms for claim in claims],
            [claim.event_id.seq for claim in claims],
        )
        rivals: dict[str, list[Fact]] = {}
        for rival, ms, seq, wdk_strategy_id in rows:
            rivals.setdefault(rival, []).append(Claimed(_event_id(ms, seq), wdk_strategy_id))
        return rivals


class ClaimsTransaction:
    """The rule's part in one transaction.

    Dying anywhere leaves nothing, since all of it commits with the rows. Two transactions that touch one
    strategy run one after the other; two that touch none in common do not wait for each other here.
    """

    def __init__(self, connection: AsyncConnection, writes: Sequence[RuleWrite]) -> None:
        self._connection = connection
        self._writes = {write.stream_id: write for write in writes}
        self._standing: frozenset[_Claim] = frozenset()
        self._locked: set[int] = set()
        self._affected: set[str] = set()

    @property
    def affected(self) -> Collection[str]:
        """Streams whose strategy may be taken from them, or given back to them."""
        return self._affected

    async def lock(self) -> None:
        """Lock the strategies, then look for the affected streams."""
        self._standing = await self._standing_claims(self._writes.values())
        self._locked = {claim.wdk_strategy_id for claim in self._standing} | {
            fact.wdk_strategy_id
            for write in self._writes.values()
            for fact in write.facts
            if isinstance(fact, Claimed)
        }
        if not self._locked:
            return
        buckets = sorted({wdk_strategy_id % _BUCKETS for wdk_strategy_id in self._locked})
        await sql.execute(self._connection, sql.LOCK_BUCKETS, buckets)
        changed = [claim for claim in self._standing if self._writes[claim.stream_id].replace]
        changed += [claim for write in self._writes.values() for claim in _history(write)]
        self._affected = await self._claimants_before(changed) | await self._holders(self._locked)

    async def _standing_claims(self, writes: Iterable[RuleWrite]) -> frozenset[_Claim]:
        """The claims that the writes may end or withdraw: the open ones, or all of a stream folded anew."""
        streams = [write.stream_id for write in writes]
        anew = [write.stream_id for write in writes if write.replace]
        return frozenset(
            _Claim(stream_id, _event_id(ms, seq), wdk, _until(until_ms, until_seq))
            for stream_id, ms, seq, wdk, until_ms, until_seq in await sql.fetch(
                self._connection, sql.STANDING_CLAIMS, streams, anew
            )
        )

    async def _claimants_before(self, claims: Sequence[_Claim]) -> set[str]:
        """For each claim, the other stream that claimed the same strategy last before it."""
        rows = await sql.fetch(
            self._connection,
            sql.NEAREST_EARLIER,
            [claim.stream_id for claim in claims],
            [claim.wdk_strategy_id for claim in claims],
            [claim.since.ms for claim in claims],
            [claim.since.seq for claim in claims],
        )
        return {row[0] for row in rows}

    async def _holders(self, wdk_strategy_ids: Collection[int]) -> set[str]:
        """Streams whose row shows one of these strategies, among them rows that have no history."""
        return {row[0] for row in await sql.fetch(self._connection, sql.HOLDERS, sorted(wdk_strategy_ids))}

    async def apply(self, won: Collection[str]) -> None:
        """Write the history of the streams that won, then what readers see of them and of the affected."""
        writes = [write for stream_id, write in self._writes.items() if stream_id in won]
        if not await self._standing_claims(writes) <= self._standing:
            raise ClaimRaceError("Claims changed between preparing a transaction and locking its rows.")
        await self._write_history(writes)
        await self._write_saved(writes)
        await self._show({write.stream_id for write in writes} | self._affected)

    async def _write_history(self, writes: Sequence[RuleWrite]) -> None:
        if anew := [write.stream_id for write in writes if write.replace]:
            await sql.execute(self._connection, sql.WITHDRAW, anew)
        ends = [(w.stream_id, end) for w in writes if not w.replace and (end := _first_end(w)) is not None]
        if ends:
            await sql.execute(
                self._connection,
                sql.END_OPEN_CLAIMS,
                [stream_id for stream_id, _ in ends],
                [end.ms for _, end in ends],
                [end.seq for _, end in ends],
            )
        claims = [claim for write in writes for claim in _history(write)]
        if claims:
            await sql.execute(
                self._connection,
                sql.ADD_CLAIMS,
                [claim.stream_id for claim in claims],
                [claim.since.ms for claim in claims],
                [claim.since.seq for claim in claims],
                [claim.wdk_strategy_id for claim in claims],
                [claim.until.ms if claim.until else None for claim in claims],
                [claim.until.seq if claim.until else None for claim in claims],
            )

    async def _write_saved(self, writes: Sequence[RuleWrite]) -> None:
        """Write what the streams' own events said of is_saved last; forget it for streams folded anew."""
        values = [(w.stream_id, last) for w in writes if (last := _last_saved(w)) is not None or w.replace]
        if values:
            await sql.execute(
                self._connection,
                sql.SET_OWN_SAVED,
                [stream_id for stream_id, _ in values],
                [saved.is_saved if saved else None for _, saved in values],
                [saved.event_id.ms if saved else None for _, saved in values],
                [saved.event_id.seq if saved else None for _, saved in values],
            )

    async def _show(self, stream_ids: Collection[str]) -> None:
        """Compute what readers see. Old holders are cleared before new ones are set: the index is unique."""
        streams = sorted(stream_ids, key=str.encode)
        visible = {row[0]: tuple(row[1:]) for row in await sql.fetch(self._connection, sql.VISIBLE, streams)}
        wanted = {row[0]: tuple(row[1:]) for row in await sql.fetch(self._connection, sql.WANTED, streams)}
        differing = [stream_id for stream_id in visible if visible[stream_id] != wanted[stream_id]]
        losing = [s for s in differing if visible[s][0] is not None and visible[s][0] != wanted[s][0]]
        if losing:
            await sql.execute(self._connection, sql.CLEAR_VISIBLE, losing)
        if differing:
            await sql.execute(
                self._connection,
                sql.SET_VISIBLE,
                differing,
                [wanted[stream_id][0] for stream_id in differing],
                [wanted[stream_id][1] for stream_id in differing],
            )


def _history(write: RuleWrite) -> list[_Claim]:
    """The claims that a write adds. Each ends at the next claim or clear of its own stream."""
    claims: list[_Claim] = []
    until: EventId | None = None
    for fact in reversed(write.facts):
        if isinstance(fact, Claimed):
            claims.append(_Claim(write.stream_id, fact.event_id, fact.wdk_strategy_id, until))
        if isinstance(fact, Claimed | Cleared):
            until = fact.event_id
    return claims


def _first_end(write: RuleWrite) -> EventId | None:
    """The event that ends the claim which was open before this write."""
    return next((fact.event_id for fact in write.facts if isinstance(fact, Claimed | Cleared)), None)


def _last_saved(write: RuleWrite) -> Saved | None:
    for fact in reversed(write.facts):
        if isinstance(fact, Saved):
            return fact
        if isinstance(fact, Cleared):
            return Saved(fact.event_id, False)
    return None


def _event_id(ms: Any, seq: Any) -> EventId:
    return EventId(int(ms), int(seq))


def _until(ms: Any, seq: Any) -> EventId | None:
    return None if ms is None else _event_id(ms, seq)
