"""Projections modules with migrations of their own, beside ours and in the same version table."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import asyncpg
import pytest
from sqlalchemy import Column, ForeignKey, Integer, Text
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import DeclarativeBase

from tests.rights import OWNER, as_user
from worker import ProjectedRow, Projection, branches
from worker.branches import own_folder
from worker.database import make_engine, parse_database_url
from worker.errors import DeclarationError, SchemaError
from worker.loading import ProjectionsModule, load_modules
from worker.migrate import VERSION_TABLE, check_schema, migrate
from worker.revision import write_revision

MakeModule = Callable[..., ProjectionsModule]
"""Makes a module of this name, whose folder of migrations has it too, with more columns."""


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> MakeModule:
    # Folders are read once in a process, and these change.
    monkeypatch.setattr(branches, "_branch", branches._branch.__wrapped__)

    def make(name: str, **columns: Any) -> ProjectionsModule:
        class Base(DeclarativeBase):
            pass

        table = type("Row", (ProjectedRow, Base), {"__tablename__": f"{name}_rows", **columns})
        parent = ForeignKey(f"{name}_rows.stream_id", ondelete="CASCADE")
        keys = {"stream_id": Column(Text, parent, primary_key=True), "key": Column(Text, primary_key=True)}
        type("Child", (Base,), {"__tablename__": f"{name}_children", **keys})
        projection = Projection(name, table=table)
        projection.on("add")(lambda row, event: None)
        made = ModuleType(name)
        vars(made).update(projection=projection, migrations=tmp_path / name)
        monkeypatch.setitem(sys.modules, name, made)
        [loaded] = load_modules(name)
        return loaded

    return make


@pytest.fixture
async def empty(empty_database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = make_engine(
        parse_database_url(as_user(empty_database_url, OWNER)), pool_size=5, application_name="test"
    )
    yield engine
    await engine.dispose()


async def write(url: str, module: ProjectionsModule, message: str) -> Any:
    return await asyncio.to_thread(write_revision, as_user(url, OWNER), module, message)


async def up(url: str, *modules: ProjectionsModule) -> str:
    return await asyncio.to_thread(migrate, as_user(url, OWNER), modules)


async def fetch(url: str, sql: str) -> set[Any]:
    connection = await asyncpg.connect(url)
    try:
        return {row[0] for row in await connection.fetch(sql)}
    finally:
        await connection.close()


async def tables(url: str) -> set[Any]:
    return await fetch(url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")


async def test_a_first_revision_makes_the_modules_tables_and_begins_its_branch(
    database_url: str, engine: AsyncEngine, module: MakeModule
) -> None:
    shop = module("shop")
    first = await write(database_url, shop, "first tables")
    assert first.parent == shop.migrations
    written = first.read_text()
    assert "down_revision = None" in written
    assert "branch_labels = ('shop',)" in written
    assert "stream_projections" not in written
    with pytest.raises(SchemaError, match="has no schema of module shop yet: run `projection-worker mig"):
        await check_schema(engine, "shop")
    assert await up(database_url, shop) == await up(database_url, shop)
    assert {"shop_rows", "shop_children", "stream_projections"} <= await tables(database_url)
    await check_schema(engine, "shop")
    assert len(await fetch(database_url, f"SELECT version_num FROM {VERSION_TABLE}")) == 2
    assert await write(database_url, shop, "nothing") is None
    assert [path.name for path in first.parent.glob("*.py")] == [first.name]


async def test_a_further_revision_follows_and_the_older_schema_is_told_of_its_module_alone(
    database_url: str, engine: AsyncEngine, module: MakeModule
) -> None:
    shop, stock = module("shop"), module("stock")
    for each in (shop, stock):
        await write(database_url, each, "first")
        await up(database_url, *{shop.name: shop, each.name: each}.values())
    shop = module("shop", total=Column(Integer))
    further = await write(database_url, shop, "totals")
    assert "'total'" in further.read_text()
    assert "stock_rows" not in further.read_text()
    with pytest.raises(SchemaError, match=r"schema of module shop is at revision \w+, older than \w+, which"):
        await check_schema(engine, "shop,stock")
    [of_stock] = stock.projections
    await check_schema(engine, "shop,stock", [of_stock])
    with pytest.raises(SchemaError, match="not at the newest revision of module shop, from which"):
        await write(database_url, shop, "more")
    assert await write(database_url, stock, "nothing") is None
    await up(database_url, shop, stock)
    await check_schema(engine, "shop,stock")


async def test_what_a_newer_version_made_is_left_as_it_is(
    empty_database_url: str, empty: AsyncEngine, module: MakeModule
) -> None:
    shop, stock = module("shop"), module("stock")
    await up(empty_database_url)
    first = await write(empty_database_url, shop, "first")
    await up(empty_database_url, shop)
    heads = await fetch(empty_database_url, f"SELECT version_num FROM {VERSION_TABLE}")
    # An older version of the shop knows another revision only; of the stock nothing has been here.
    first.write_text(first.read_text().replace(f"revision = '{_id(first)}'", "revision = 'older'", 1))
    shop, stock = module("shop"), module("stock")
    stock_folder = stock.migrations
    assert stock_folder is not None
    stock_folder.mkdir()
    moved = first.read_text().replace("shop", "stock").replace("'older'", "'stock1'")
    (stock_folder / "stock1_first.py").write_text(moved)
    await check_schema(empty, "shop,stock", shop.projections)
    with pytest.raises(SchemaError, match="has no schema of module stock yet"):
        await check_schema(empty, "shop,stock")
    await up(empty_database_url, shop, stock)
    assert await fetch(empty_database_url, f"SELECT version_num FROM {VERSION_TABLE}") == {*heads, "stock1"}
    assert "stock_rows" in await tables(empty_database_url)
    await check_schema(empty, "shop,stock")
    # A process that runs neither is not concerned, and migrates its own.
    await check_schema(empty)
    await up(empty_database_url)


def _id(path: Path) -> str:
    return path.name.split("_")[0]


async def test_a_first_revision_needs_no_other_schema(empty_database_url: str, module: MakeModule) -> None:
    shop = module("shop")
    assert await write(empty_database_url, shop, "first")
    await up(empty_database_url, shop)
    assert {"shop_rows", "dead_letters"} <= await tables(empty_database_url)


async def test_a_module_without_migrations_makes_its_tables_itself(
    database_url: str, engine: AsyncEngine, module: MakeModule
) -> None:
    shop = module("shop")
    del sys.modules["shop"].migrations
    [bare] = load_modules("shop")
    assert bare.migrations is None
    await up(database_url, bare)
    await check_schema(engine, "shop")
    with pytest.raises(DeclarationError, match=r"^Module shop names no folder of migrations: write there "):
        await write(database_url, bare, "first")
    assert shop.migrations is not None
    assert not shop.migrations.exists()


async def test_folders_that_are_wrong_are_one_sentence(database_url: str, module: MakeModule) -> None:
    shop = module("shop")
    with pytest.raises(DeclarationError, match=r"folder of migrations '.*shop' does not exist; `proj"):
        await up(database_url, shop)
    assert shop.migrations is not None
    shop.migrations.mkdir()
    ours = own_folder() / "versions" / "0001_stream_projections.py"
    (shop.migrations / ours.name).write_text(ours.read_text())
    with pytest.raises(DeclarationError, match="Module shop: its revision '0001' is one of projection-"):
        await up(database_url, shop)
