"""Claims: which conversation holds which WDK strategy, whatever the order in which streams are projected.

WDK reuses ids, so a claim takes the strategy from whoever holds it. The right answer is that of a single
reader who applies all events of all logs in the order of (event id, stream id in UTF-8). Streams are
projected independently, late and again, so every stream's own facts are kept: each claim, from which of its
events until which, and the last value its own events gave ``is_saved``. What readers see follows from them:

- a stream holds a strategy if its last claim is still open and nobody else's claim on it is later;
- a stream is saved if its own events said so last, and no strategy that it held was taken from it since.

A new, late or withdrawn claim changes that for its own stream and for the nearest earlier claimant, no other:
whoever claimed before that one had lost the strategy already, and a later claimant takes it from whom it may.

`projections.claims_transaction` writes that, `projections.claim_facts` says what the facts are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from projections import claims_sql as sql
from projections.claim_facts import Claimed, ClaimsReader, Cleared, Fact, Saved, history, last_saved
from projections.claims_transaction import ClaimsTransaction
from worker import RuleTransaction, RuleWrite, StoredFacts


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
        saved = last_saved(facts)
        return {
            "claims": [
                {
                    "wdk_strategy_id": claim.wdk_strategy_id,
                    "from": str(claim.since),
                    "until": str(claim.until) if claim.until else None,
                }
                for claim in history("", facts)
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
        claims: dict[str, list[dict[str, Any]]] = {}
        for stream_id, wdk, since, until in await sql.fetch(connection, sql.HISTORY, streams):
            claims.setdefault(stream_id, []).append({"wdk_strategy_id": wdk, "from": since, "until": until})
        own = {row[0]: tuple(row[1:]) for row in await sql.fetch(connection, sql.OWN_SAVED, streams)}
        wanted = {
            row[0]: tuple(row[3:]) for row in await sql.fetch(connection, sql.VISIBLE_AND_WANTED, streams)
        }
        names = ("own_is_saved", "own_is_saved_ms", "own_is_saved_seq")
        return {
            stream_id: StoredFacts(
                facts={"claims": claims.get(stream_id, []), **dict(zip(names, own[stream_id], strict=True))},
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
        facts: list[Fact] = [Claimed(sql.event_id(ms, seq), wdk) for _, ms, seq, wdk, *_ in claims]
        begun = {fact.event_id for fact in facts}
        ends = {sql.event_id(ms, seq) for *_, ms, seq in claims if ms is not None}
        facts += [Cleared(end) for end in ends - begun]
        for _, is_saved, ms, seq in await sql.fetch(connection, sql.OWN_SAVED, [stream_id]):
            if ms is not None:
                facts.append(Saved(sql.event_id(ms, seq), is_saved))
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
            rivals.setdefault(rival, []).append(Claimed(sql.event_id(ms, seq), wdk_strategy_id))
        return rivals
