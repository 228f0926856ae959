"""README's recipes, followed literally: the commands and the code are read from it and run as they stand."""

from __future__ import annotations

import asyncio
import re
import shlex
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any, TypeVar, cast

import pytest

from tests.acceptance.commands import call, worker_environment
from tests.projecting import Replica
from tests.rights import OPERATOR, client_as
from tests.servers import RunningServers
from tests.versions import WEIGHT
from worker import Keys
from worker.database import make_engine, parse_database_url
from worker.redis_client import make_client

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
SECOND = {"WORKER_PROJECTIONS": "tests.later_strategies"}

T = TypeVar("T")


def chapter(title: str) -> str:
    """What README says under this heading."""
    return README.split(f"\n### {title}\n", 1)[1].split("\n### ", 1)[0]


def block(title: str, language: str) -> str:
    """The one block in this language under a heading."""
    [found] = re.findall(rf"```{language}\n(.*?)```", chapter(title), re.DOTALL)
    return cast("str", found)


@pytest.fixture
def env(servers: RunningServers, database_url: str, keys_prefix: str) -> dict[str, str]:
    return worker_environment(servers.redis_url, database_url, keys_prefix)


def do(env: Mapping[str, str], work: Callable[[Replica], Awaitable[T]]) -> T:
    """Do something with the servers."""

    async def with_servers() -> T:
        redis = make_client(env["REDIS_URL"])
        url = parse_database_url(env["DATABASE_URL"])
        engine = make_engine(url, pool_size=2, application_name="test")
        try:
            return await work(Replica(redis, Keys(env["WORKER_KEY_PREFIX"]), engine))
        finally:
            await engine.dispose()
            await redis.aclose()

    return asyncio.run(with_servers())


def row_of(env: Mapping[str, str], stream_id: str) -> dict[str, Any]:
    row = do(env, lambda replica: replica.row(stream_id))
    assert row is not None
    return row


def deleted_ids() -> list[str]:
    """The ids that README's example deletes."""
    return re.findall(r"\d+-\d+", block("Undo", "sh"))


async def converse(replica: Replica) -> None:
    """A conversation that ends with two events to be taken back, of which one claims another's strategy."""
    link, message = deleted_ids()
    await replica.append("chat-16", "strategy_link", {"wdkStrategyId": 7}, at="1-0")
    await replica.append("chat-17", "user_message", at="2-0")
    await replica.append("chat-17", "strategy_link", {"wdkStrategyId": 7}, at=link)
    await replica.append("chat-17", "user_message", at=message)
    await replica.project("chat-16", "chat-17")


def run_line(line: str, env: Mapping[str, str]) -> CompletedProcess[str]:
    """Run a line of a shell. ``redis-cli`` may not be installed: what it would send is sent."""
    program, *arguments = shlex.split(line, comments=True)
    if program == "projection-worker":
        return call(*arguments, env=env)
    assert program == "redis-cli"
    command, key, *rest = arguments

    async def send(replica: Replica) -> Any:
        return await replica.admin.execute_command(command, f"{replica.keys.prefix}{key}", *rest)

    return CompletedProcess(line, 0, str(do(env, send)))


def test_an_undo_on_the_command_line(env: dict[str, str]) -> None:
    do(env, converse)
    assert row_of(env, "chat-17")["wdk_strategy_id"] == 7
    looked, deleted, rebuilt = (run_line(line, env) for line in block("Undo", "sh").splitlines())
    assert all(event_id in looked.stdout for event_id in deleted_ids())
    assert deleted.stdout == "2"
    assert rebuilt.returncode == 0, rebuilt.stderr
    row = row_of(env, "chat-17")
    assert (row["last_event_id"], row["message_count"], row["wdk_strategy_id"]) == ("2-0", 1, None)
    assert row_of(env, "chat-16")["wdk_strategy_id"] == 7
    assert call("verify", env=env).returncode == 0


def test_an_undo_in_an_application(servers: RunningServers, database_url: str) -> None:
    """README's function knows of no key prefix; the conversation has a name of its own instead."""
    servers.guard("")
    env = worker_environment(servers.redis_url, database_url, "")
    code: dict[str, Any] = {}
    exec(compile(block("Undo", "python"), "README.md", "exec"), code)

    async def converse_and_undo(replica: Replica) -> None:
        try:
            await replica.append("undone-by-readme", "user_message", at="1-0")
            await replica.append("undone-by-readme", "user_message", at="2-0")
            await replica.project("undone-by-readme")
            await code["undo"](
                client_as(replica.redis, OPERATOR), replica.engine, "undone-by-readme", ["2-0"]
            )
        finally:
            await replica.admin.delete(
                replica.keys.log("undone-by-readme"),
                replica.keys.feed(replica.keys.partition("undone-by-readme")),
            )

    do(env, converse_and_undo)
    assert row_of(env, "undone-by-readme")["last_event_id"] == "1-0"


def test_a_projection_is_changed_in_production(env: dict[str, str]) -> None:
    do(env, converse)
    steps = re.findall(
        r"^\d\. .*?`(projection-worker [^`]+)`", chapter("Change a projection in production"), re.M
    )
    assert len(steps) == 3
    dry, rebuilt, verified = (run_line(line, env | SECOND) for line in steps)
    assert dry.returncode == 0, dry.stderr
    assert "message_count" in dry.stdout
    assert rebuilt.returncode == 0, rebuilt.stderr
    assert verified.returncode == 0, verified.stdout
    row = row_of(env, "chat-17")
    assert (row["version"], row["message_count"]) == (2, 2 * WEIGHT)
