"""Verify on tables of other kinds, and previews of rebuilds."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from redis.asyncio import Redis
from sqlalchemy import REAL, Numeric, String
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from tests.rights import OWNER, engine_as
from tests.verifying import STREAMS, VerifyingReplica, columns
from tests.versions import WEIGHT, failing, of_version
from worker import Event, Keys, ProjectedRow, Projection
from worker.judgement import Refusal
from worker.preview import Preview, Previewer
from worker.snapshot import Snapshots


class Base(DeclarativeBase):
    """The metadata of this table alone."""


class Reading(ProjectedRow, Base):
    """What a sensor said last, in columns that round."""

    __tablename__ = "readings"

    ratio: Mapped[float | None] = mapped_column(REAL)
    price: Mapped[Decimal | None] = mapped_column(Numeric(10, 2))
    unit: Mapped[str | None] = mapped_column(String(5))


readings = Projection("readings", table=Reading)


@readings.on("read")
def read(row: Any, event: Event) -> None:
    """A reading."""
    row.ratio = event.data["ratio"]
    row.price = Decimal(event.data["price"])
    row.unit = event.data["unit"]


async def test_values_are_compared_as_postgresql_stores_them(
    client: Redis, keys: Keys, engine: AsyncEngine
) -> None:
    async with engine_as(engine, OWNER).begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    world = VerifyingReplica(client, keys, engine, readings)
    await world.append("a", "read", {"ratio": 0.1, "price": "1.005", "unit": "cm"})
    await world.catch_up("a")
    found = await world.find("a")
    assert (found.compared, found.differences) == (True, ())
    await world.damage("UPDATE readings SET ratio = 0.2, price = 1.02, unit = 'cm '")
    assert columns(await world.find("a")) == {"a": {"ratio", "price", "unit"}}
    await world.damage("UPDATE readings SET ratio = NULL, price = NULL, unit = NULL")
    assert columns(await world.find("a")) == {"a": {"ratio", "price", "unit"}}


async def test_large_rows_are_not_all_in_memory_together(world: VerifyingReplica) -> None:
    await world.damage(
        """UPDATE stream_projections SET steps = (
               SELECT jsonb_agg(md5(n::text)) FROM generate_series(1, 100000) AS n) WHERE stream_id <> 'b'"""
    )
    parts = await Snapshots(world.engine, world.projection).parts(["a", "b", "nobody", "c"])
    assert parts == [["a", "b", "nobody"], ["c"]]
    assert columns(*await world.verify()) == {"a": {"steps"}, "c": {"steps"}}


# Previews.


@pytest.fixture
async def world(client: Redis, keys: Keys, engine: AsyncEngine) -> VerifyingReplica:
    """Three conversations, projected."""
    world = VerifyingReplica(client, keys, engine)
    await world.converse()
    return world


async def preview(world: VerifyingReplica, projection: Projection, **how: bool) -> dict[str, Preview]:
    previews = await Previewer(world.logs, world.engine, projection).preview(STREAMS, **how)
    return {preview.stream_id: preview for preview in previews}


async def test_a_preview_of_rows_that_are_right_tells_no_change(world: VerifyingReplica) -> None:
    previews = await preview(world, world.projection)
    assert list(previews.values()) == [Preview(stream_id, version=1) for stream_id in STREAMS]


async def test_a_preview_tells_what_a_new_version_would_change(world: VerifyingReplica) -> None:
    await world.append("b", "user_message", at="10000-0")  # The row lags behind, which no rebuild mends.
    for told in (await preview(world, of_version(2))).values():
        [difference] = told.differences
        assert (difference.column, difference.stored) == ("message_count", 2)
        assert difference.expected == 1 + WEIGHT
        assert (told.verdict, told.version, told.makes_row) == (None, 1, False)


async def test_a_preview_tells_what_a_rebuild_would_refuse(world: VerifyingReplica) -> None:
    await world.admin.xtrim(world.keys.log("a"), maxlen=2, approximate=False)
    await world.damage("UPDATE stream_projections SET version = 3 WHERE stream_id = 'c'")
    previews = await preview(world, of_version(2, model_selected=failing))
    verdicts = {stream_id: told.verdict for stream_id, told in previews.items()}
    assert {s: verdict and verdict.refusal for s, verdict in verdicts.items()} == {
        "a": Refusal.TRIMMED,
        "b": Refusal.HANDLER_FAILED,
        "c": Refusal.NEWER_VERSION,
    }
    assert verdicts["b"] is not None
    assert "ValueError at event 4002-0" in verdicts["b"].detail


async def test_a_preview_tells_what_accepting_a_loss_would_change(world: VerifyingReplica) -> None:
    await world.admin.xtrim(world.keys.log("a"), maxlen=2, approximate=False)
    told = (await preview(world, world.projection, accept_loss=True))["a"]
    assert told.verdict is None
    assert {"message_count", "name", "claims", "first_event_id"} <= {d.column for d in told.differences}


async def test_a_preview_tells_of_rows_that_would_be_made(world: VerifyingReplica) -> None:
    await world.damage("DELETE FROM stream_projections WHERE stream_id = 'b'")
    assert (await preview(world, world.projection))["b"] == Preview("b", makes_row=True)
