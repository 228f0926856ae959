"""Rows in PostgreSQL: loaded in batches, and written only if they still are the ones that were loaded.

Every method is one transaction. Whoever dies in it leaves nothing behind; two replicas that write one row
lock it one after the other, and the second finds that its comparison is lost.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from worker import letters
from worker.child_statements import ChildStatements
from worker.errors import NewerVersionError
from worker.fault_points import Point, reach
from worker.letters import Heeded
from worker.projection import Projection
from worker.row_arrays import fetch
from worker.rule import RuleTransaction, RuleWrite
from worker.table import RowHead, RowWrite, Stamp, StoredRow, Table
from worker.transaction import writing

_FEW_BLOCKS = 20
_BLOCKS = """
    SELECT (coalesce((SELECT sum(pg_relation_size(relid)) FROM pg_partition_tree(found.oid)),
                     pg_relation_size(found.oid)) / current_setting('block_size')::int)::bigint
    FROM (SELECT to_regclass($1)::oid AS oid) AS found"""


class Loaded(NamedTuple):
    """Rows, and the dead letters to heed, of those streams that have any."""

    rows: dict[str, StoredRow]
    heeded: dict[str, Heeded]


class Heads(NamedTuple):
    """The same as `Loaded`, without what the rows hold."""

    heads: dict[str, RowHead]
    heeded: dict[str, Heeded]


class Store:
    """The rows of one projection."""

    def __init__(self, engine: AsyncEngine, projection: Projection) -> None:
        self._engine = engine
        self._projection = projection
        self._table = Table(projection, engine.dialect)
        self._children = ChildStatements(projection, engine.dialect)

    async def load(self, stream_ids: Collection[str]) -> Loaded:
        """The rows of these streams and what to heed of them. The letters are read after the rows."""
        if not stream_ids:
            return Loaded({}, {})
        async with self._engine.connect() as connection:
            rows = await self._table.rows(connection, stream_ids)
            heeded = await letters.heeded(connection, self._projection.name, stream_ids)
        return Loaded(rows, heeded)

    async def heads(self, stream_ids: Collection[str]) -> Heads:
        """What the worker keeps in these rows, and what to heed. The letters are read after the rows."""
        async with self._engine.connect() as connection:
            heads = await self._table.heads(connection, stream_ids)
            heeded = await letters.heeded(connection, self._projection.name, stream_ids)
        return Heads(heads, heeded)

    async def stamps(self, stream_ids: Collection[str]) -> dict[str, Stamp]:
        """The stamp of every stream that has a row, also where the rest of the row cannot be loaded."""
        async with self._engine.connect() as connection:
            return await self._table.stamps(connection, stream_ids)

    async def positions(self, stream_ids: Collection[str]) -> dict[str, str | None]:
        """The position of every stream that has a row."""
        return {
            stream_id: stamp.last_event_id for stream_id, stamp in (await self.stamps(stream_ids)).items()
        }

    async def streams_after(self, stream_id: str, limit: int) -> list[str]:
        """Streams that have a projected row, from the one after ``stream_id``, in the primary key's order.

        Which order that is depends on the database; any would do to walk through the table.
        """
        return list(await self.positions_after(stream_id, limit))

    async def positions_after(self, stream_id: str, limit: int) -> dict[str, str]:
        """The same streams, in the same order, each with the position of its row."""
        sql = f"""
            SELECT stream_id, last_event_id FROM {self._table.name}
            WHERE stream_id > $1 AND last_event_id IS NOT NULL
            ORDER BY stream_id LIMIT $2"""
        async with self._engine.connect() as connection:
            return {row[0]: row[1] for row in await fetch(connection, sql, stream_id, limit)}

    async def streams_where(self, conditions: Sequence[str], after: str, limit: int) -> list[str]:
        """Streams with a row that all of these SQL conditions are true of, from the one after ``after`` on.

        Whatever the conditions do, they change nothing. In the order of `streams_after`.
        """
        # A line of its own for each, since it may end in a comment. A query of its own for all, so that one
        # which closes its parenthesis has no say in where a page begins: the walk would never end.
        wanted = " AND ".join(f"(\n{condition}\n)" for condition in conditions)
        sql = f"""
            SELECT stream_id FROM (SELECT * FROM {self._table.name} WHERE {wanted or "true"}) AS of_rows
            WHERE stream_id > $1
            ORDER BY stream_id LIMIT $2"""
        async with self._engine.connect() as connection:
            await connection.exec_driver_sql("SET TRANSACTION READ ONLY")
            return [row[0] for row in await fetch(connection, sql, after, limit)]

    async def random_streams(self, limit: int) -> list[str]:
        """Streams that have a projected row, at most ``limit``, chosen by chance; sometimes none.

        Looks at a few blocks of the table, however large it is, so that rows in sparse blocks are likelier.
        """
        sql = f"""
            SELECT stream_id FROM {self._table.name} TABLESAMPLE SYSTEM ($1)
            WHERE last_event_id IS NOT NULL ORDER BY random() LIMIT $2"""
        async with self._engine.connect() as connection:
            [[blocks]] = await fetch(connection, _BLOCKS, self._table.name)
            share = min(100.0, 100.0 * max(_FEW_BLOCKS, limit) / max(blocks, 1))
            return [row[0] for row in await fetch(connection, sql, share, limit)]

    async def write(self, writes: Sequence[RowWrite]) -> set[str]:
        """Write a batch in one transaction; the streams whose row still was the one loaded, and so won.

        The others are unchanged: another writer was there first, or is there now, and the caller must load
        them again. When this raises, nothing of the batch is known to be written; after a lost connection it
        may be. Raises NewerVersionError where the rule would change rows of a newer version.
        """
        if not writes:
            return set()
        ordered = sorted(writes, key=lambda write: write.stream_id.encode())
        async with writing(self._engine) as connection:
            rule = await self._prepare_rule(connection, ordered)
            concerns_others = rule is not None and _concerns_others(rule, ordered)
            if rule and concerns_others:
                # These must be waited for, and rows are locked in the order of their keys: all of them, now.
                to_lock = {w.stream_id for w in ordered if w.loaded}.union(rule.affected)
                self._refuse_newer(await self._table.lock(connection, to_lock), rule.affected)
            won = await self._table.insert(connection, [w for w in ordered if not w.loaded])
            won |= await self._table.update(connection, [w for w in ordered if w.loaded])
            if rule and (won or concerns_others):
                await rule.apply(won)
            winners = [write for write in ordered if write.stream_id in won]
            await self._children.write(connection, winners)
            await self._settle_letters(connection, winners)
            reach(Point.ROWS_WRITTEN)
        return won

    def _refuse_newer(self, current: Mapping[str, Stamp], stream_ids: Collection[str]) -> None:
        newer = [s for s in stream_ids if s in current and current[s].version > self._projection.version]
        if newer:
            raise NewerVersionError(
                f"Rows that would change, such as that of stream {newer[0]!r}, were written by a newer "
                f"version of projection {self._projection.name} than {self._projection.version}; use that."
            )

    async def _prepare_rule(
        self, connection: AsyncConnection, writes: Sequence[RowWrite]
    ) -> RuleTransaction | None:
        """The rule's part, unless no write of the batch concerns it."""
        concerned = [RuleWrite(w.stream_id, w.facts, w.replace) for w in writes if w.facts or w.replace]
        if not self._projection.rule or not concerned:
            return None
        return await self._projection.rule.prepare(connection, concerned)

    async def _settle_letters(self, connection: AsyncConnection, writes: Sequence[RowWrite]) -> None:
        """Record what the writes passed over, and settle letters whose events they went beyond."""
        name, version = self._projection.name, self._projection.version
        passed = [letter for write in writes for letter in write.passed]
        await letters.record_passed(connection, name, version, passed)
        settled = {write.stream_id: write.settles for write in writes if write.settles}
        await letters.resolve(connection, name, version, settled)
        if anew := {write.stream_id: write.passed for write in writes if write.replace and write.loaded}:
            await letters.settle_unpassed(connection, name, anew)

    async def probe(self, stream_id: str) -> None:
        """Write something harmless and roll it back; raises what PostgreSQL raises if it refuses that, too.

        Tells a table that takes no rows at all from a row that it does not take: for a stream without a row
        a new row of another, made-up stream is tried; else the stream's row as it is, or such a new row.
        """
        if stream_id in await self.stamps([stream_id]):
            with suppress(DBAPIError):
                await self._try(self._table.touch, stream_id)
                return
        await self._try(self._table.fence, f"projection-worker probe {secrets.token_hex(16)}")

    async def _try(self, write: Callable[[AsyncConnection, str], Awaitable[None]], stream_id: str) -> None:
        async with writing(self._engine) as connection:
            await write(connection, stream_id)
            await connection.exec_driver_sql("SET CONSTRAINTS ALL IMMEDIATE")  # as a commit would
            await connection.rollback()

    async def abandoned(self, limit: int) -> Sequence[str]:
        """Streams whose row is gone but whose facts still stand; none without a cross-stream rule."""
        if not self._projection.rule:
            return ()
        async with self._engine.connect() as connection:
            return await self._projection.rule.abandoned(connection, limit)

    async def withdraw(self, stream_ids: Sequence[str]) -> None:
        """Withdraw the facts of streams that have no row any more; one that has a row again is left alone.

        So are all, where that would change rows of a newer version of the projection.
        """
        rule = self._projection.rule
        if not rule or not stream_ids:
            return
        with suppress(NewerVersionError):
            async with writing(self._engine) as connection:
                facts = [RuleWrite(s, (), replace=True) for s in stream_ids]
                transaction = await rule.prepare(connection, facts)
                alive = await self._table.lock(connection, {*stream_ids, *transaction.affected})
                self._refuse_newer(alive, transaction.affected)
                await transaction.apply(set(stream_ids) - alive.keys())

    async def remove(self, heads: Mapping[str, RowHead]) -> set[str]:
        """Delete rows that still bear these stamps, with their facts; the streams of which that is so."""
        async with writing(self._engine) as connection:
            rule, affected = self._projection.rule, set[str]()
            if rule:
                facts = [RuleWrite(s, (), replace=True) for s in sorted(heads, key=str.encode)]
                transaction = await rule.prepare(connection, facts)
                affected = set(transaction.affected)
            current = await self._table.lock(connection, {*heads, *affected})
            self._refuse_newer(current, {*heads, *affected})
            unchanged = {s for s in heads if current.get(s) == heads[s].stamp}
            await self._table.delete(connection, unchanged)
            if rule:
                await transaction.apply(unchanged)
        return unchanged

    async def count_rows(self) -> dict[int, int]:
        """How many rows there are of each version of the projection."""
        async with self._engine.connect() as connection:
            rows = await fetch(
                connection, f"SELECT version, count(*) FROM {self._table.name} GROUP BY version"
            )
        return {row[0]: row[1] for row in rows}


def _concerns_others(rule: RuleTransaction, writes: Sequence[RowWrite]) -> bool:
    """Whether a rule may change other rows than the only one that is written: if that is lost, nothing is."""
    return bool(rule.affected) and (len(writes) > 1 or {w.stream_id for w in writes} != set(rule.affected))
