"""A module of one's own beside the shipped one, with logs and migrations of its own, on the command line."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import asyncpg
import pytest
import redis as redis_py

from tests.acceptance.commands import call, running, worker_environment
from tests.rights import OWNER, as_user
from tests.servers import RunningServers
from tests.waiting import block_until, wait_until

SHOP = """
from pathlib import Path
from sqlalchemy import Integer
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from worker import Event, ProjectedRow, Projection

migrations = Path(__file__).parent / "shop_migrations"

class Base(DeclarativeBase):
    pass

class Order(ProjectedRow, Base):
    __tablename__ = "orders"
    lines: Mapped[int] = mapped_column(Integer, default=0)

orders = Projection("orders", table=Order, logs="orders:")

@orders.on("line_added", "user_message")
def line_added(row: Order, event: Event) -> None:
    row.lines += 1
"""


@pytest.fixture
def env(servers: RunningServers, empty_database_url: str, keys_prefix: str, tmp_path: Path) -> dict[str, str]:
    (tmp_path / "shop.py").write_text(SHOP)
    servers.guard(keys_prefix, logs=["orders:"])
    env = worker_environment(servers.redis_url, empty_database_url, keys_prefix)
    path = f"{tmp_path}:{Path(__file__).parents[2]}"
    return env | {"WORKER_PROJECTIONS": "projections,shop", "PYTHONPATH": path}


def done(*arguments: str, env: dict[str, str]) -> str:
    ended = call(*arguments, env=env)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def refused(*arguments: str, env: dict[str, str]) -> str:
    ended = call(*arguments, env=env | {"COLUMNS": "250"})
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    return " ".join(ended.stderr.replace("│", " ").split())


async def test_from_an_empty_database_to_rows_of_both(
    env: dict[str, str], empty_database_url: str, servers: RunningServers, keys_prefix: str
) -> None:
    assert "does not exist; `projection-worker revision shop" in refused("migrate", env=env)
    written = Path(done("revision", "shop", "first tables", env=env))
    assert written.parent.name == "shop_migrations"
    with ThreadPoolExecutor(3) as several:  # replicas that migrate as they start
        told = list(several.map(lambda _: done("migrate", env=env), range(3)))
    assert len(set(told)) == 1
    assert "shop at" in told[0]
    assert "nothing was written" in done("revision", "shop", "more", env=env)

    done("emit", "o-1", "line_added", env=env)
    done("emit", "chat", "strategy_meta", '{"name": "n"}', env=env)
    ambiguous = "may go to the logs orders: or stream:: say with --projection which is meant"
    assert ambiguous in refused("emit", "o-1", "user_message", env=env)
    line = json.dumps({"stream_id": "o-1", "type": "user_message"})
    assert "Line 1: Events of type" in call("emit", "--from-file", "-", env=env, stdin=line).stderr
    done("emit", "o-1", "user_message", "--projection", "orders", env=env)
    done("emit", "chat", "user_message", "--projection", "strategies", env=env)
    assert [message["role"] for message in json.loads(done("messages", "chat", env=env))] == ["user"]
    with redis_py.Redis.from_url(servers.admin_redis_url) as client:
        assert client.xlen(f"{keys_prefix}orders:o-1") == client.xlen(f"{keys_prefix}stream:chat") == 2

    connection = await asyncpg.connect(as_user(empty_database_url, OWNER))

    async def lines() -> bool:
        return bool(await connection.fetchval("SELECT lines FROM orders WHERE stream_id = 'o-1'") == 2)

    assert "declares no projection 'typo'" in refused("run", "typo", env=env)
    with running("run", "orders", env=env) as worker:
        await wait_until(lines, "the order to be projected")
        assert await connection.fetchval("SELECT count(*) FROM stream_projections") == 0
        assert worker.stop() == 0
    with running("run", env=env) as worker:
        block_until(lambda: worker.says("strategies v1"), "the worker to start")

        async def chats() -> bool:
            return bool(await connection.fetchval("SELECT message_count FROM stream_projections") == 1)

        await wait_until(chats, "the chat to be projected")
        block_until(lambda: call("status", env=env).returncode == 0, "both to have told of themselves")
        statuses = json.loads(done("status", "--json", env=env))
        assert [(status["name"], status["rows"]) for status in statuses] == [("orders", 1), ("strategies", 1)]
        assert "orders" in done("verify", env=env)
        assert "caught up" in done("show", "o-1", "--projection", "orders", env=env)
        assert done("rebuild", "--projection", "orders", env=env)
        # Without the table of one, the other is told of.
        await connection.execute("ALTER TABLE orders RENAME TO gone")
        look = call("status", "--json", env=env)
        assert look.returncode == 1, look.stderr
        broken, fine = json.loads(look.stdout)
        assert (fine["name"], fine["rows"]) == ("strategies", 1)
        assert "orders" in broken["unreadable"]
        assert worker.stop() == 0
    await connection.close()


def test_a_module_that_is_not_named_gets_no_revision(env: dict[str, str]) -> None:
    told = refused("revision", "other", "first", env=env)
    assert "WORKER_PROJECTIONS is 'projections,shop'; add 'other' to it." in told
