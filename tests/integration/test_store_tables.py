"""Rows in tables of other kinds: odd names, limited text, a rule across streams, any order of keys."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import Boolean, Float, Integer, Numeric, String, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from tests.projecting import run
from tests.rights import ADMINISTRATOR, OWNER, engine_as
from tests.tallies import Tally
from tests.writes import create_tallies, rows, write
from worker import ProjectedRow, Projection, RuleReader, RuleTransaction, RuleWrite, StoredFacts
from worker.database import make_engine, parse_database_url
from worker.letters import WorkerTables
from worker.row import RawJson
from worker.store import Store
from worker.table import RowWrite, Stamp, StoredRow
from worker.transaction import writing


class Base(DeclarativeBase):
    """The metadata of the odd table alone."""


class Odd(ProjectedRow, Base):
    """A table whose names must be quoted, with columns of many types."""

    __tablename__ = 'select "x"'
    __table_args__ = {"schema": "Odd Schema"}  # noqa: RUF012

    user: Mapped[str | None] = mapped_column(String(5))
    order: Mapped[Any] = mapped_column("order", JSONB, default=dict)
    Group: Mapped[bool] = mapped_column("Group", Boolean, default=False)
    price: Mapped[Decimal | None] = mapped_column(Numeric(10, 2))
    ratio: Mapped[float | None] = mapped_column(Float)
    size: Mapped[int | None] = mapped_column(Integer)


class SpyRule:
    """A rule that notes how it is called and which streams it was told of."""

    columns: frozenset[str] = frozenset({"note"})
    races: frozenset[str] = frozenset()

    def __init__(self, affected: Collection[str] = (), fails: bool = False) -> None:
        self.affected = affected
        self.fails = fails
        self.prepared: list[Sequence[RuleWrite]] = []
        self.won: list[set[str]] = []
        self.settings: dict[str, str] = {}
        self.connection: AsyncConnection | None = None

    async def prepare(self, connection: AsyncConnection, writes: Sequence[RuleWrite]) -> RuleTransaction:
        self.prepared.append(writes)
        for name in (
            "transaction_isolation",
            "synchronous_commit",
            "lock_timeout",
            "statement_timeout",
            "idle_in_transaction_session_timeout",
        ):
            self.settings[name] = str((await connection.exec_driver_sql(f"SHOW {name}")).scalar_one())
        return self

    async def apply(self, won: Collection[str]) -> None:
        self.won.append(set(won))
        if self.fails:
            raise ZeroDivisionError

    async def abandoned(self, connection: AsyncConnection, limit: int) -> Sequence[str]:
        return ["gone"][:limit]

    def settle(self, facts: Mapping[str, Sequence[Any]]) -> Mapping[str, Mapping[str, Any]]:
        raise NotImplementedError

    def describe(self, facts: Sequence[Any]) -> Mapping[str, Any]:
        raise NotImplementedError

    async def stored(
        self, connection: AsyncConnection, stream_ids: Sequence[str]
    ) -> Mapping[str, StoredFacts]:
        raise NotImplementedError

    def reader(self) -> RuleReader:
        raise NotImplementedError

    async def facts_of(self, connection: AsyncConnection, stream_id: str) -> Sequence[Any]:
        raise NotImplementedError

    async def rivals(
        self, connection: AsyncConnection, stream_id: str, facts: Sequence[Any]
    ) -> Mapping[str, Sequence[Any]]:
        raise NotImplementedError


@pytest.fixture
async def engine(empty_database_url: str) -> AsyncIterator[AsyncEngine]:
    """One connection to a database with the table of tallies and the odd one."""
    engine = make_engine(parse_database_url(empty_database_url), pool_size=1, application_name="test")
    await create_tallies(engine)
    database, owner = (engine_as(engine, OWNER).url.database, engine_as(engine, OWNER).url.username)
    await run(engine, f"GRANT CREATE ON DATABASE {database} TO {owner}", role=ADMINISTRATOR)
    await run(
        engine,
        'CREATE SCHEMA "Odd Schema"',
        f'GRANT USAGE ON SCHEMA "Odd Schema" TO {engine.url.username}',
        f'ALTER DEFAULT PRIVILEGES IN SCHEMA "Odd Schema" GRANT ALL ON TABLES TO {engine.url.username}',
    )
    async with engine_as(engine, OWNER).begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
        await connection.run_sync(WorkerTables.metadata.create_all)
    yield engine
    await engine.dispose()


def odd_row(**columns: Any) -> StoredRow:
    values = {"user": "me", "order": RawJson("{}"), "Group": True, "price": None, "ratio": None, "size": None}
    values |= columns
    return StoredRow(Stamp("1-0", 0, 1), "1-0", tuple(values[c] for c in Projection("p", table=Odd).columns))


def odd_write(row: StoredRow, onto: StoredRow | None = None) -> RowWrite:
    columns = frozenset(Projection("p", table=Odd).columns)
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return RowWrite("a", onto.stamp if onto else None, row, columns, at, (), replace=onto is None)


async def test_names_that_must_be_quoted_and_types_of_many_kinds(engine: AsyncEngine) -> None:
    store = Store(engine, Projection("p", table=Odd))
    row = odd_row(price=Decimal("1.50"), ratio=0.1, order=RawJson("[1]"))
    assert await store.write([odd_write(row)]) == {"a"}
    assert (await store.load(["a"])).rows["a"] == row
    moved = odd_row(size=3)
    assert await store.write([odd_write(moved, onto=row)]) == {"a"}
    assert (await store.load(["a"])).rows["a"] == moved
    assert await store.streams_after("", 10) == ["a"]


@pytest.mark.parametrize("onto", [None, odd_row()])
async def test_text_that_is_too_long_is_an_error_and_not_cut(
    engine: AsyncEngine, onto: StoredRow | None
) -> None:
    store = Store(engine, Projection("p", table=Odd))
    if onto:
        await store.write([odd_write(onto)])
    with pytest.raises(DBAPIError, match="too long"):
        await store.write([odd_write(odd_row(user="too long"), onto)])


# Keys.


STREAMS = ["a", "B", "é", "e\u0301", "\uff5e", "\U0001f600", "a-1", "aa", "x ", " ", "10", "9"]


async def test_streams_may_have_any_names(engine: AsyncEngine) -> None:
    store = Store(engine, Projection("p", table=Tally))
    assert await store.write([write(stream_id) for stream_id in STREAMS]) == set(STREAMS)
    assert (await store.load(STREAMS)).rows.keys() == set(STREAMS)
    assert await store.positions([*STREAMS, "missing"]) == dict.fromkeys(STREAMS, "1-0")


async def test_a_walk_through_the_table_passes_every_projected_row_once(engine: AsyncEngine) -> None:
    store = Store(engine, Projection("p", table=Tally))
    await store.write([write(stream_id) for stream_id in STREAMS])
    await run(engine, "INSERT INTO tallies (stream_id, total, numbers) VALUES ('never projected', 1, '[]')")
    passed: list[str] = []
    while page := await store.streams_after(passed[-1] if passed else "", 5):
        passed += page
    assert sorted(passed) == sorted(STREAMS)


# The transaction.


async def test_a_write_is_durable_and_cannot_hold_up_others_for_long(engine: AsyncEngine) -> None:
    rule = SpyRule()
    await Store(engine, Projection("p", table=Tally, rule=rule)).write([rule_write("a")])
    assert rule.settings == {
        "transaction_isolation": "read committed",
        "synchronous_commit": "on",
        "lock_timeout": "5s",
        "statement_timeout": "30s",
        "idle_in_transaction_session_timeout": "10s",
    }
    async with engine.connect() as connection:
        after = (await connection.execute(text("SHOW lock_timeout"))).scalar_one()
    assert after == "0"


async def test_a_write_that_ends_before_its_first_statement_limits_no_other_transaction(
    engine: AsyncEngine,
) -> None:
    with pytest.raises(ZeroDivisionError):
        async with writing(engine):
            raise ZeroDivisionError
    async with writing(engine):
        pass
    async with engine.connect() as connection:
        assert (await connection.execute(text("SHOW statement_timeout"))).scalar_one() == "0"


async def test_what_fails_halfway_leaves_nothing(engine: AsyncEngine) -> None:
    store = Store(engine, Projection("p", table=Tally, rule=SpyRule(fails=True)))
    with pytest.raises(ZeroDivisionError):
        await store.write([rule_write("a"), rule_write("b")])
    assert await rows(engine) == {}


def rule_write(stream_id: str, onto: StoredRow | None = None, **options: Any) -> RowWrite:
    row = StoredRow(Stamp("2-0" if onto else "1-0", 0, 1), "1-0", (1, RawJson("[]")))
    return write(stream_id, row, onto=onto, changed={"total"}, **options)


async def test_a_rule_hears_of_writes_that_concern_it_and_of_who_won(engine: AsyncEngine) -> None:
    rule = SpyRule()
    store = Store(engine, Projection("p", table=Tally, rule=rule))
    first = rule_write("a").row
    await store.write([rule_write("a"), rule_write("b", facts=("fact",))])
    await store.write([rule_write("b", onto=first)])
    stale = StoredRow(Stamp("0-1", 0, 1), None, first.state)
    await store.write([rule_write("b", onto=stale, facts=(1,)), rule_write("a", onto=first, facts=(2,))])
    assert rule.prepared == [
        [RuleWrite("a", (), replace=True), RuleWrite("b", ("fact",), replace=True)],
        [RuleWrite("a", (2,), replace=False), RuleWrite("b", (1,), replace=False)],
    ]
    assert rule.won == [{"a", "b"}, {"a"}]


async def test_streams_that_a_rule_may_change_are_locked(
    engine: AsyncEngine, empty_database_url: str
) -> None:
    locked: list[str] = []
    other = make_engine(parse_database_url(empty_database_url), pool_size=1, application_name="other")

    class Looking(SpyRule):
        async def apply(self, won: Collection[str]) -> None:
            async with other.connect() as connection:
                free = await connection.execute(
                    text("SELECT stream_id FROM tallies FOR NO KEY UPDATE SKIP LOCKED")
                )
                taken = {row[0] for row in free}
            locked.extend({"a", "b", "c"} - taken)

    await run(
        engine, *(f"INSERT INTO tallies (stream_id, total, numbers) VALUES ('{s}', 1, '[]')" for s in "abc")
    )
    made = StoredRow(Stamp(None, 0, 0), None, (1, RawJson("[]")))
    store = Store(engine, Projection("p", table=Tally, rule=Looking(affected={"b", "missing"})))
    await store.write([rule_write("a", onto=made, replace=True)])
    await other.dispose()
    assert sorted(locked) == ["a", "b"]


async def test_only_streams_without_a_row_are_withdrawn(engine: AsyncEngine) -> None:
    rule = SpyRule()
    store = Store(engine, Projection("p", table=Tally, rule=rule))
    await store.write([rule_write("alive")])
    assert await store.abandoned(10) == ["gone"]
    await store.withdraw(["gone", "alive"])
    assert rule.won == [{"alive"}, {"gone"}]
    assert await rows(engine) == {"alive": (await rows(engine))["alive"]}


async def test_without_a_rule_there_is_nothing_to_withdraw(engine: AsyncEngine) -> None:
    store = Store(engine, Projection("p", table=Tally))
    assert await store.abandoned(10) == ()
    await store.withdraw(["a"])
