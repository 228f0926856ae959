"""Writing rows: only onto the row that was loaded, only what changed, and never what belongs to others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.projecting import run
from tests.tallies import tallies
from tests.writes import AT, create_tallies, rows, stored, write
from worker import EventId
from worker.database import make_engine, parse_database_url
from worker.row import RawJson
from worker.store import Store
from worker.table import Stamp, StoredRow


@pytest.fixture
async def engine(empty_database_url: str) -> AsyncIterator[AsyncEngine]:
    """An engine of the worker's own kind, on a database with the table of tallies."""
    engine = make_engine(parse_database_url(empty_database_url), pool_size=5, application_name="test")
    await create_tallies(engine)
    yield engine
    await engine.dispose()


@pytest.fixture
def store(engine: AsyncEngine) -> Store:
    return Store(engine, tallies())


# Loading and writing.


async def test_a_new_row_is_loaded_as_it_was_written(store: Store, engine: AsyncEngine) -> None:
    row = stored(total=7, note="é 'x'", numbers='[1, "é"]')
    assert await store.write([write("a", row)]) == {"a"}
    assert (await store.load(["a", "missing"])).rows == {"a": row}
    assert (await rows(engine))["a"]["updated_at"] == AT


async def test_a_row_is_written_onto_the_one_that_was_loaded(store: Store) -> None:
    first, second = stored("1-0"), stored("2-0", total=2)
    await store.write([write("a", first)])
    assert await store.write([write("a", second, onto=first)]) == {"a"}
    assert (await store.load(["a"])).rows == {"a": second}


async def test_values_of_every_kind_come_back(store: Store) -> None:
    row = stored(total=-(2**31), note=None, numbers="[1e400, 123456789012345678901234567890, null]")
    row = replace(row, state=(*row.state[:2], RawJson('["\\"\\\\", {"é": {}}]')))
    await store.write([write("a", row)])
    assert (await store.load(["a"])).rows["a"] == row
    null = replace(row, state=(0, "", None))
    await run(store._engine, "ALTER TABLE tallies ALTER numbers DROP NOT NULL")
    await store.write([write("b", null)])
    assert (await store.load(["b"])).rows["b"] == null


async def test_nothing_to_do_is_done(store: Store) -> None:
    assert await store.write([]) == set()
    assert (await store.load([])).rows == {}
    assert await store.positions([]) == {}


# The comparison.


@pytest.mark.parametrize(
    "stale",
    [
        Stamp("1-0", 0, 1),
        Stamp("3-0", 0, 1),
        Stamp("20-0", 0, 1),
        Stamp(None, 0, 1),
        Stamp("2-0", 1, 1),
        Stamp("2-0", 0, 2),
        Stamp("2-0", 0, 0),
    ],
)
async def test_a_zombie_write_changes_nothing(store: Store, engine: AsyncEngine, stale: Stamp) -> None:
    current = stored("2-0")
    await store.write([write("a", current)])
    before = await rows(engine)
    zombie = write("a", stored("9-0", total=9), onto=replace(current, stamp=stale))
    assert await store.write([zombie]) == set()
    assert await store.write([replace(zombie, replace=True)]) == set()
    assert await rows(engine) == before


async def test_a_write_that_is_repeated_loses(store: Store, engine: AsyncEngine) -> None:
    first = write("a", stored("1-0"))
    second = write("a", stored("2-0", total=2), onto=stored("1-0"))
    assert [await store.write([one]) for one in (first, second)] == [{"a"}, {"a"}]
    before = await rows(engine)
    assert [await store.write([one]) for one in (first, second)] == [set(), set()]
    assert await rows(engine) == before


async def test_a_row_that_was_deleted_meanwhile_is_not_brought_back(
    store: Store, engine: AsyncEngine
) -> None:
    await store.write([write("a", stored("1-0"))])
    await run(engine, "DELETE FROM tallies")
    assert await store.write([write("a", stored("2-0"), onto=stored("1-0"))]) == set()
    assert await rows(engine) == {}


async def test_a_row_that_was_made_meanwhile_is_left_alone(store: Store, engine: AsyncEngine) -> None:
    await run(engine, "INSERT INTO tallies (stream_id, total, numbers) VALUES ('a', 5, '[5]')")
    before = await rows(engine)
    assert await store.write([write("a", stored("2-0"))]) == set()
    assert await rows(engine) == before


async def test_in_a_batch_each_stream_wins_or_loses_for_itself(store: Store) -> None:
    await store.write([write(stream_id, stored("1-0")) for stream_id in "abc"])
    await store.write([write("b", stored("2-0", total=20), onto=stored("1-0"))])
    batch = [write(stream_id, stored("3-0", total=3), onto=stored("1-0")) for stream_id in "cba"]
    batch += [write("new", stored("3-0", total=3)), write("a-new", stored("3-0", total=3))]
    assert await store.write(batch) == {"a", "c", "new", "a-new"}
    loaded = (await store.load(["a", "b", "c", "new", "a-new"])).rows
    assert {stream_id: row.state[0] for stream_id, row in loaded.items()} == {
        **dict.fromkeys(["a", "c", "new", "a-new"], 3),
        "b": 20,
    }


# What belongs to others.


@pytest.fixture
async def foreign(store: Store, engine: AsyncEngine) -> StoredRow:
    """A projected row in a table to which another application has added a column."""
    await run(
        engine,
        "ALTER TABLE tallies ADD COLUMN owner text NOT NULL DEFAULT 'nobody', ADD COLUMN tags text[]",
    )
    row = stored("1-0")
    await store.write([write("a", row)])
    await run(engine, "UPDATE tallies SET owner = 'somebody', tags = '{x,y}'")
    return row


@pytest.mark.parametrize("anew", [False, True])
async def test_columns_of_other_applications_stay(
    store: Store, engine: AsyncEngine, foreign: StoredRow, anew: bool
) -> None:
    await store.write([write("a", stored("2-0", total=2), onto=foreign, replace=anew)])
    row = (await rows(engine))["a"]
    assert (row["owner"], row["tags"], row["total"]) == ("somebody", ["x", "y"], 2)


async def test_only_columns_that_changed_are_written(store: Store, engine: AsyncEngine) -> None:
    row = stored("1-0", note="ours")
    await store.write([write("a", row)])
    await run(engine, "UPDATE tallies SET note = 'by hand', numbers = '[9]', first_event_id = 'x'")
    await store.write([write("a", stored("2-0", total=2), onto=row, changed={"total"})])
    found = (await rows(engine))["a"]
    assert (found["total"], found["note"], found["numbers"], found["first_event_id"]) == (
        2,
        "by hand",
        [9],
        "x",
    )
    assert (found["last_event_id"], found["updated_at"]) == ("2-0", AT)


async def test_an_event_that_changes_nothing_moves_position_and_time(
    store: Store, engine: AsyncEngine
) -> None:
    row = stored("1-0")
    await store.write([write("a", row)])
    later = AT + timedelta(hours=1)
    await store.write([write("a", stored("2-0", total=99), onto=row, changed=(), updated_at=later)])
    found = (await rows(engine))["a"]
    assert (found["last_event_id"], found["updated_at"], found["total"]) == ("2-0", later, 1)


async def test_an_event_without_a_time_leaves_the_time(store: Store, engine: AsyncEngine) -> None:
    row = stored("1-0")
    await store.write([write("a", row)])
    await store.write([write("a", stored("2-0"), onto=row, updated_at=None)])
    await store.write([write("b", row, updated_at=None)])
    found = await rows(engine)
    assert (found["a"]["updated_at"], found["b"]["updated_at"]) == (AT, None)


async def test_a_row_that_was_made_beforehand_gets_all_our_columns(store: Store, engine: AsyncEngine) -> None:
    await run(
        engine,
        "ALTER TABLE tallies ADD COLUMN owner text",
        "INSERT INTO tallies (stream_id, total, note, numbers, owner) VALUES ('a', 5, 'x', '[5]', 'me')",
    )
    made = (await store.load(["a"])).rows["a"]
    assert made.stamp == Stamp(None, 0, 0)
    row = stored("1-0", generation=1)
    assert await store.write([write("a", row, onto=made, changed=(), replace=True)]) == {"a"}
    assert (await store.load(["a"])).rows == {"a": row}
    assert (await rows(engine))["a"]["owner"] == "me"


# Two writers at once.


async def test_of_two_writers_at_once_one_wins(store: Store) -> None:
    for number in range(10):
        before, after = stored(f"{number}-0"), stored(f"{number + 1}-0")
        rival = write("a", after, onto=before if number else None)
        won = await asyncio.gather(store.write([rival]), store.write([rival]))
        assert sorted(won, key=len) == [set(), {"a"}]


async def test_writers_that_meet_in_opposite_order_do_not_wait_for_each_other(store: Store) -> None:
    streams = [f"s{number}" for number in range(30)]
    await store.write([write(stream_id, stored("0-0")) for stream_id in streams])

    async def move(order: list[str], times: int) -> int:
        won = 0
        for _ in range(times):
            loaded = (await store.load(order)).rows
            batch = [write(s, replace(stored(), stamp=_next(loaded[s])), onto=loaded[s]) for s in order]
            won += len(await store.write(batch))
        return won

    async with asyncio.timeout(20):
        won = await asyncio.gather(move(streams, 15), move(streams[::-1], 15), move(streams[10:20], 15))
    assert sum(_moves(row) for row in (await store.load(streams)).rows.values()) == sum(won)


def _moves(row: StoredRow) -> int:
    """How often a row was moved on from 0-0."""
    return EventId.parse(row.stamp.last_event_id or "").ms


def _next(row: StoredRow) -> Stamp:
    return Stamp(f"{_moves(row) + 1}-0", 0, 1)
