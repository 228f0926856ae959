"""What the claims rule does inside the transaction that writes a batch of rows.

All changes to the claims on one strategy are serialised by an advisory lock, taken before any row is locked,
and each step is a statement of its own, since one that waited for a lock would still see what was before.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from projections import claims_sql as sql
from projections.claim_facts import Claim, Claimed, first_end, history, last_saved
from worker import ClaimRaceError, RuleWrite

_BUCKETS = 1024  # One lock an id would exhaust the lock table of the server.


class ClaimsTransaction:
    """The rule's part in one transaction.

    Dying anywhere leaves nothing, since all of it commits with the rows. Two transactions that touch one
    strategy run one after the other; two that touch none in common do not wait for each other here.
    """

    def __init__(self, connection: AsyncConnection, writes: Sequence[RuleWrite]) -> None:
        self._connection = connection
        self._writes = {write.stream_id: write for write in writes}
        self._standing: frozenset[Claim] = frozenset()
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
        changed += [
            claim for write in self._writes.values() for claim in history(write.stream_id, write.facts)
        ]
        self._affected = await self._holders_and_claimants_before(changed)

    async def _standing_claims(self, writes: Iterable[RuleWrite]) -> frozenset[Claim]:
        """The claims that the writes may end or withdraw: the open ones, or all of a stream folded anew."""
        streams = [write.stream_id for write in writes]
        anew = [write.stream_id for write in writes if write.replace]
        return frozenset(
            Claim(
                stream_id,
                sql.event_id(ms, seq),
                wdk,
                None if until_ms is None else sql.event_id(until_ms, until_seq),
            )
            for stream_id, ms, seq, wdk, until_ms, until_seq in await sql.fetch(
                self._connection, sql.STANDING_CLAIMS, streams, anew
            )
        )

    async def _holders_and_claimants_before(self, claims: Sequence[Claim]) -> set[str]:
        """Streams that claimed the strategy of one of these claims last before it, and all whose row shows a
        locked strategy, with a history or without."""
        rows = await sql.fetch(
            self._connection,
            sql.AFFECTED,
            [claim.stream_id for claim in claims],
            [claim.wdk_strategy_id for claim in claims],
            [claim.since.ms for claim in claims],
            [claim.since.seq for claim in claims],
            sorted(self._locked),
        )
        return {row[0] for row in rows}

    async def apply(self, won: Collection[str]) -> None:
        """Write the history of the streams that won, then what readers see of them and of the affected."""
        writes = [write for stream_id, write in self._writes.items() if stream_id in won]
        if not await self._standing_claims(writes) <= self._standing:
            raise ClaimRaceError("Claims changed between preparing a transaction and locking its rows.")
        await self._write_facts(writes)
        await self._show({write.stream_id for write in writes} | self._affected)

    async def _write_facts(self, writes: Sequence[RuleWrite]) -> None:
        """Write the claims, and what the streams' own events said of is_saved last.

        Of streams folded anew, what was written before is forgotten.
        """
        if anew := [write.stream_id for write in writes if write.replace]:
            await sql.execute(self._connection, sql.WITHDRAW, anew)
        claims = [claim for write in writes for claim in history(write.stream_id, write.facts)]
        ends = [
            (w.stream_id, end) for w in writes if not w.replace and (end := first_end(w.facts)) is not None
        ]
        saved = [
            (w.stream_id, last) for w in writes if (last := last_saved(w.facts)) is not None or w.replace
        ]
        if not (claims or ends or saved):
            return
        await sql.execute(
            self._connection,
            sql.WRITE_FACTS,
            [claim.stream_id for claim in claims],
            [claim.since.ms for claim in claims],
            [claim.since.seq for claim in claims],
            [claim.wdk_strategy_id for claim in claims],
            [claim.until.ms if claim.until else None for claim in claims],
            [claim.until.seq if claim.until else None for claim in claims],
            [stream_id for stream_id, _ in ends],
            [end.ms for _, end in ends],
            [end.seq for _, end in ends],
            [stream_id for stream_id, _ in saved],
            [last.is_saved if last else None for _, last in saved],
            [last.event_id.ms if last else None for _, last in saved],
            [last.event_id.seq if last else None for _, last in saved],
        )

    async def _show(self, stream_ids: Collection[str]) -> None:
        """Compute what readers see. Old holders are cleared before new ones are set: the index is unique."""
        streams = sorted(stream_ids, key=str.encode)
        rows = await sql.fetch(self._connection, sql.VISIBLE_AND_WANTED, streams)
        visible = {row[0]: (row[1], row[2]) for row in rows}
        wanted = {row[0]: (row[3], row[4]) for row in rows}
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
