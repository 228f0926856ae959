"""The command `verify`, as an operator types it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from subprocess import CompletedProcess
from typing import Any, TypeVar

import pytest
from typer.testing import CliRunner

from tests.acceptance.commands import call, worker_environment
from tests.letters import stop
from tests.servers import RunningServers
from tests.verifying import STREAMS, VerifyingReplica
from worker import Keys
from worker.cli import app
from worker.database import make_engine, parse_database_url
from worker.redis_client import make_client

WRONG = "UPDATE stream_projections SET name = 'first' WHERE stream_id = 'b'"

T = TypeVar("T")


class World:
    """Three conversations, projected, and commands on them."""

    def __init__(self, env: dict[str, str]) -> None:
        self._env = env

    def do(self, work: Callable[[VerifyingReplica], Awaitable[T]]) -> T:
        """Do something with the servers."""

        async def with_servers() -> T:
            redis = make_client(self._env["REDIS_URL"])
            url = parse_database_url(self._env["DATABASE_URL"])
            engine = make_engine(url, pool_size=2, application_name="test")
            try:
                keys = Keys(self._env["WORKER_KEY_PREFIX"])
                return await work(VerifyingReplica(redis, keys, engine))
            finally:
                await engine.dispose()
                await redis.aclose()

        return asyncio.run(with_servers())

    def damage(self, *statements: str) -> None:
        self.do(lambda world: world.damage(*statements))

    def verify(self, *arguments: str, **variables: str) -> CompletedProcess[str]:
        return call("verify", *arguments, env={**self._env, **variables})

    def found(self, *arguments: str) -> dict[str, Any]:
        """What `--json` tells of the one projection."""
        [told] = json.loads(self.verify("--json", *arguments).stdout)
        assert isinstance(told, dict)
        return told


@pytest.fixture
def world(servers: RunningServers, database_url: str, keys_prefix: str) -> World:
    world = World(worker_environment(servers.redis_url, database_url, keys_prefix))
    world.do(lambda replica: replica.converse())
    return world


def test_a_table_that_is_right_is_one_sentence(world: World) -> None:
    verified = world.verify()
    assert (verified.returncode, verified.stderr) == (0, "")
    assert verified.stdout == "strategies: 3 rows compared, all right.\n"


def test_a_wrong_value_is_told_with_both_values_and_the_first_event(world: World) -> None:
    world.damage(WRONG)
    verified = world.verify()
    assert verified.returncode == 1
    assert verified.stdout.splitlines() == [
        "b\tname\tsecond\tfirst\t8002-0",
        "strategies: 3 rows compared, 1 stream wrong.",
    ]


def test_a_terminal_gets_a_bar_and_a_table(world: World) -> None:
    world.damage(WRONG)
    verified = world.verify(FORCE_COLOR="1", COLUMNS="100")
    assert verified.returncode == 1
    assert "in the table" in verified.stdout
    assert "│ 8002-0" in verified.stdout
    assert "3/3" in verified.stderr


def test_json_tells_the_same(world: World) -> None:
    world.damage(WRONG)
    told = world.found()
    assert (told["projection"], told["rows_compared"], told["wrong"]) == ("strategies", 3, 1)
    [finding] = told["findings"]
    assert (finding["stream_id"], finding["wrong"], finding["missing"]) == ("b", True, None)
    assert finding["differences"] == [
        {"column": "name", "expected": "second", "stored": "first", "first_event": "8002-0"}
    ]


def test_streams_can_be_named(world: World) -> None:
    world.damage(WRONG)
    assert world.verify("--stream", "a", "--stream", "c").returncode == 0
    some = world.verify("--stream", "b", "--stream", "nobody")
    assert some.returncode == 1
    assert [line.split("\t")[:2] for line in some.stdout.splitlines()[:2]] == [
        ["b", "name"],
        ["nobody", "nothing"],
    ]


def test_a_sample_is_taken_of_the_rows(world: World) -> None:
    assert world.found("--sample", "100%")["rows_compared"] == len(STREAMS)
    assert world.found("--sample", "0.000001%")["rows_compared"] == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("--sample", "1"),
        ("--sample", "0%"),
        ("--sample", "101%"),
        ("--sample", "some%"),
        ("--sample", "1%", "--stream", "a"),
    ],
)
def test_wrong_options_are_told(arguments: tuple[str, ...]) -> None:
    verified = CliRunner().invoke(app, ["verify", *arguments])
    assert verified.exit_code == 2
    assert verified.output


def test_a_projection_that_there_is_not_is_told(world: World) -> None:
    verified = world.verify("--projection", "unknown")
    assert verified.returncode == 2
    assert "declares no projection 'unknown'" in verified.stderr


def test_what_differs_can_be_fixed(world: World) -> None:
    world.damage(
        WRONG,
        "DELETE FROM strategy_claims WHERE stream_id = 'a'",
        "DELETE FROM stream_projections WHERE stream_id = 'c'",
    )
    fixed = world.verify("--fix")
    assert fixed.returncode == 0, fixed.stdout
    assert fixed.stdout.endswith("strategies: rebuilt 3 streams; all is right now.\n")
    assert world.verify().returncode == 0


def test_what_cannot_be_fixed_is_told_with_the_reason(world: World) -> None:
    world.damage("INSERT INTO stream_projections (stream_id, last_event_id, version) VALUES ('d', '1-0', 1)")
    world.damage(WRONG)
    fixed = world.verify("--fix")
    assert fixed.returncode == 1
    assert "d\tgone\tThe log is gone" in fixed.stdout
    assert "rebuilt 1 stream; all is right now." in fixed.stdout


def test_what_cannot_be_compared_is_told_and_is_nothing_wrong(world: World) -> None:
    async def trim_and_stop(replica: VerifyingReplica) -> None:
        await replica.admin.xtrim(replica.keys.log("a"), maxlen=2, approximate=False)
        await replica.append("b", "user_message", at="10000-0")
        await stop(replica.engine, "b", "10000-0")
        await replica.damage("UPDATE stream_projections SET version = 2 WHERE stream_id = 'c'")

    world.do(trim_and_stop)
    verified = world.verify()
    assert verified.returncode == 0
    assert [line.split("\t")[:2] for line in verified.stdout.splitlines()[:-1]] == [
        ["a", "trimmed"],
        ["b", "blocked"],
    ]
    assert verified.stdout.splitlines()[-1] == (
        "strategies: 1 row compared, all right. "
        "Streams to know of: 1 blocked, 1 of a newer version, 1 of trimmed logs."
    )


def test_the_table_of_findings_is_bounded_and_the_counts_are_whole(world: World) -> None:
    world.damage("UPDATE stream_projections SET name = 'x', message_count = 9")
    verified = world.verify("--limit", "1")
    assert verified.stdout.splitlines()[2:] == [
        "And 2 streams more; a higher --limit tells of them.",
        "strategies: 3 rows compared, 3 streams wrong.",
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_nothing_of_a_row_reaches_the_terminal_raw(world: World, encoding: str) -> None:
    world.damage(
        "UPDATE stream_projections SET name = E'\\x1b[31m\\u00fc' || repeat('x', 99) WHERE stream_id = 'b'"
    )
    verified = world.verify(FORCE_COLOR="1", PYTHONIOENCODING=encoding, COLUMNS="250")
    assert verified.returncode == 1, verified.stderr
    shown = verified.stdout.replace("\x1b[1m", "").replace("\x1b[0m", "")
    assert "\x1b" not in shown
    assert "\\x1b[31m" in shown
