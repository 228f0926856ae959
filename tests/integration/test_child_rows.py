"""Child rows on real servers: written with their row, replaced with it, and gone with it."""

from __future__ import annotations

import random
from typing import Any

import pytest
from redis.asyncio import Redis
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.orders import Lines, create_tables, lines_of, orders
from tests.projecting import Replica, run, statements
from tests.rebuilding import RebuildingReplica
from tests.verifying import VerifyingReplica, columns
from worker import Keys
from worker.comparison import compare_table
from worker.errors import SchemaError
from worker.outcome import Outcome
from worker.preview import Previewer
from worker.readiness import check_database
from worker.replay import ReplayRequest, fold_logs

APPLE: dict[str, Any] = {"quantity": 1, "price": None, "tags": []}


@pytest.fixture
async def world(client: Redis, keys: Keys, engine: AsyncEngine) -> RebuildingReplica:
    await create_tables(engine)
    return RebuildingReplica(client, keys, engine, orders())


async def put(world: Replica, stream_id: str, sku: str, **given: Any) -> str:
    return await world.append(stream_id, "put", {"sku": sku, "columns": {"quantity": 1, **given}})


async def test_child_rows_are_inserted_changed_and_deleted(world: RebuildingReplica) -> None:
    await put(world, "a", "apple", tags=["red"])
    await put(world, "a", "pear")
    await put(world, "b", "apple", quantity=5)
    await world.project("a", "b")
    assert await lines_of(world, "a") == {"apple": {**APPLE, "tags": ["red"]}, "pear": APPLE}
    await world.append("a", "change", {"sku": "apple", "columns": {"quantity": 3}})
    await world.append("a", "change", {"sku": "nothing", "columns": {"quantity": 3}})
    await world.append("a", "delete", {"sku": "pear"})
    await world.project("a", "b")
    assert await lines_of(world, "a") == {"apple": {**APPLE, "tags": ["red"], "quantity": 3}}
    assert await lines_of(world, "b") == {"apple": {**APPLE, "quantity": 5}}
    await put(world, "a", "apple")  # The whole row, at its defaults.
    await world.append("b", "clear")
    await world.project("a", "b")
    assert await lines_of(world, "a") == {"apple": APPLE}
    assert await lines_of(world, "b") == {}


async def test_whoever_loses_the_comparison_writes_no_child_rows(world: RebuildingReplica) -> None:
    other = Replica(world.redis, world.keys, world.engine, orders())
    await put(world, "a", "apple")
    await world.project("a")
    await other.project("a")  # Both know the row now.
    await world.append("a", "delete", {"sku": "apple"})
    await put(world, "a", "pear")
    await world.project("a")
    await run(world.engine, "DELETE FROM order_lines")  # To see who writes again.
    assert await other.project("a") == [Outcome.LOST]
    assert await lines_of(world, "a") == {}


async def test_a_refused_child_row_stops_its_stream_at_its_event(world: RebuildingReplica) -> None:
    await put(world, "a", "apple")
    await put(world, "a", "pear", price="12345678901234567890")
    await put(world, "b", "apple")
    assert await world.project("a", "b") == [Outcome.BLOCKED, Outcome.CAUGHT_UP]
    assert await lines_of(world, "a") == {"apple": APPLE}
    assert await lines_of(world, "b") == {"apple": APPLE}


async def test_a_rebuild_replaces_all_child_rows_of_its_stream(world: RebuildingReplica) -> None:
    for stream_id in "ab":
        await put(world, stream_id, "apple", price=None)
        await put(world, stream_id, "pear")
    await world.project("a", "b")
    await run(
        world.engine,
        "UPDATE order_lines SET quantity = 99 WHERE sku = 'apple'",
        "DELETE FROM order_lines WHERE sku = 'pear'",
        "INSERT INTO order_lines VALUES ('a', 'fig', 1, NULL, '[]')",
    )
    [rebuilt] = await world.rebuilder.rebuild(["a"])
    assert rebuilt.refusal is None
    assert await lines_of(world, "a") == {"apple": APPLE, "pear": APPLE}
    assert await lines_of(world, "b") == {"apple": {**APPLE, "quantity": 99}}


async def test_a_new_version_replaces_child_rows_with_their_row(world: RebuildingReplica) -> None:
    await put(world, "a", "apple")
    await world.project("a")
    await run(world.engine, "INSERT INTO order_lines VALUES ('a', 'fig', 1, NULL, '[]')")
    newer = Replica(world.redis, world.keys, world.engine, orders(version=2))
    await newer.project("a")
    assert await lines_of(world, "a") == {"apple": APPLE}


async def test_an_undo_takes_child_rows_back(world: RebuildingReplica) -> None:
    await put(world, "a", "apple")
    last = await world.append("a", "delete", {"sku": "apple"})
    await world.project("a")
    assert await lines_of(world, "a") == {}
    await world.admin.xdel(world.keys.log("a"), last)
    await world.rebuilder.rebuild(["a"], deliberate=True)
    assert await lines_of(world, "a") == {"apple": APPLE}


async def test_child_rows_go_with_their_row(world: RebuildingReplica) -> None:
    for stream_id in "abc":
        await put(world, stream_id, "apple")
    await world.project("a", "b", "c")
    await world.admin.delete(*(world.keys.log(s) for s in "abc"))
    assert await world.rebuilder.prune(["a"]) == ["a"]
    await run(world.engine, "DELETE FROM orders WHERE stream_id = 'b'")
    [emptied] = await world.rebuilder.rebuild(["c"], accept_loss=True)
    assert emptied.refusal is None
    assert [await lines_of(world, s) for s in "abc"] == [{}, {}, {}]


async def test_verify_and_previews_compare_child_rows(client: Redis, keys: Keys, engine: AsyncEngine) -> None:
    await create_tables(engine)
    world = VerifyingReplica(client, keys, engine, orders())
    await put(world, "a", "apple", tags=[1e23])
    await put(world, "a", "pear")
    await put(world, "b", "apple")
    await world.append("b", "note", {"number": 7})
    await world.catch_up("a", "b")
    assert [found.differences for found in [await world.find("a"), await world.find("b")]] == [(), ()]
    await world.damage(
        "UPDATE order_lines SET quantity = 2, tags = '[7]' WHERE (stream_id, sku) = ('a', 'apple')"
    )
    await world.damage("DELETE FROM order_lines WHERE sku = 'pear'")
    await world.damage("INSERT INTO order_notes VALUES ('b', 8)")
    assert columns(await world.find("a"), await world.find("b")) == {
        "a": {"lines[apple].quantity", "lines[apple].tags", "lines[pear]"},
        "b": {"notes[8]"},
    }
    [preview] = await Previewer(world.logs, engine, world.projection).preview(["a"])
    told = {d.column: (d.expected, d.stored) for d in preview.differences}
    assert told["lines[apple].quantity"] == (1, 2)
    assert told["lines[pear]"] == (APPLE, None)
    comparison = await compare_table(world.logs, engine, world.projection)
    assert comparison.wrong_rows == 2


async def test_numbers_of_child_rows_are_compared_as_postgresql_stores_them(
    client: Redis, keys: Keys, engine: AsyncEngine
) -> None:
    await create_tables(engine)
    world = VerifyingReplica(client, keys, engine, orders())
    await put(world, "a", "apple", price="1.005")
    await world.catch_up("a")
    assert (await world.find("a")).differences == ()


async def test_a_wrong_child_row_is_found_after_many_that_postgresql_has_rounded(
    client: Redis, keys: Keys, engine: AsyncEngine
) -> None:
    await create_tables(engine)
    world = VerifyingReplica(client, keys, engine, orders())
    for number in range(30):
        await put(world, "a", f"sku-{number:02}", price="1.005")
    await world.catch_up("a")
    await world.damage("UPDATE order_lines SET quantity = 2 WHERE sku = 'sku-29'")
    assert columns(await world.find("a")) == {"a": {"lines[sku-29].quantity"}}
    await world.damage("UPDATE order_lines SET quantity = 2", "DELETE FROM order_lines WHERE sku > 'sku-24'")
    assert len((await world.find("a")).differences) == 20


async def test_child_rows_of_many_megabytes_are_written_in_several_statements(
    world: RebuildingReplica,
) -> None:
    for number in range(20):
        await put(world, "a", str(number), tags=["x" * 900_000])
    await world.rebuilder.rebuild(["a"])
    with statements(world.engine) as sent:
        await world.rebuilder.rebuild(["a"])
    assert len(await lines_of(world, "a")) == 20
    assert sent.count("INSERT") == 5


async def test_a_database_without_the_child_rows_table_is_not_ready(world: RebuildingReplica) -> None:
    await check_database(world.engine, "projections", world.projection)
    await run(world.engine, "ALTER TABLE order_notes DROP CONSTRAINT order_notes_stream_id_fkey")
    with pytest.raises(SchemaError, match="Table order_notes has no foreign key with ON DELETE CASCADE"):
        await check_database(world.engine, "projections", world.projection)
    await run(world.engine, "DROP TABLE order_notes")
    with pytest.raises(DBAPIError, match="order_notes"):
        await check_database(world.engine, "projections", world.projection)


@pytest.mark.parametrize("seed", range(3))
async def test_any_events_in_any_batches_by_replicas_that_restart_give_the_child_rows_of_a_fold(
    world: RebuildingReplica, seed: int
) -> None:
    """Whole conversations of random events; a replica may be new, another's, or rebuild, at any time."""
    chance = random.Random(seed)
    replica: Replica = world
    streams = ["a", "b", "c"]
    for _ in range(60):
        for _ in range(chance.randint(0, 4)):
            sku = chance.choice("xyz")
            what = chance.choices(["put", "change", "delete", "clear", "fail"], [4, 4, 2, 1, 0])[0]
            given = {"quantity": chance.randint(1, 9)}
            await world.append(chance.choice(streams), what, {"sku": sku, "columns": given})
        if chance.random() < 0.3:
            replica = Replica(world.redis, world.keys, world.engine, orders())
        if chance.random() < 0.1:
            await world.rebuilder.rebuild([chance.choice(streams)])
        else:
            await replica.project(*chance.sample(streams, 2))
    await Replica(world.redis, world.keys, world.engine, orders()).project(*streams)
    folded = await fold_logs(world.logs, world.projection, [ReplayRequest(s) for s in streams])
    for stream_id in streams:
        rows = folded[stream_id].children["lines"].rows if folded[stream_id].children else {}
        expected: Lines = {str(k): {**row, "tags": []} for k, row in rows.items()}
        assert await lines_of(world, stream_id) == expected
