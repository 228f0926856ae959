"""The command `rebuild`, as an operator types it."""

from __future__ import annotations

import asyncio
import json
import os
import pty
from collections.abc import Awaitable, Callable, Mapping
from subprocess import CompletedProcess
from typing import Any, TypeVar

import pytest

from tests.acceptance.commands import call, running, worker_environment
from tests.projecting import run
from tests.rebuilding import RebuildingReplica
from tests.servers import RunningServers
from tests.waiting import block_until
from worker import Keys
from worker.database import make_engine, parse_database_url
from worker.redis_client import make_client

DAMAGE = "UPDATE stream_projections SET name = 'damaged', message_count = 7"
SECOND = {"WORKER_PROJECTIONS": "tests.later_strategies"}

T = TypeVar("T")


class World:
    """Three conversations, projected, and commands on them."""

    def __init__(self, env: dict[str, str]) -> None:
        self.env = env
        self.keys = Keys(env["WORKER_KEY_PREFIX"])

    def do(self, work: Callable[[RebuildingReplica], Awaitable[T]]) -> T:
        """Do something with the servers."""

        async def with_servers() -> T:
            redis = make_client(self.env["REDIS_URL"])
            url = parse_database_url(self.env["DATABASE_URL"])
            engine = make_engine(url, pool_size=2, application_name="test")
            try:
                return await work(RebuildingReplica(redis, self.keys, engine))
            finally:
                await engine.dispose()
                await redis.aclose()

        return asyncio.run(with_servers())

    def sql(self, *statements: str) -> None:
        self.do(lambda replica: run(replica.engine, *statements))

    def delete_log(self, stream_id: str) -> None:
        self.do(lambda replica: replica.admin.delete(self.keys.log(stream_id)))

    def row(self, stream_id: str) -> dict[str, Any] | None:
        return self.do(lambda replica: replica.row(stream_id))

    def counts(self) -> list[int | None]:
        """How many messages each conversation has by its row."""
        rows = [self.row(stream_id) for stream_id in ("a", "b", "c")]
        return [row["message_count"] if row else None for row in rows]

    def rebuild(self, *arguments: str, stdin: str | int = "", **variables: str) -> CompletedProcess[str]:
        return call("rebuild", *arguments, env={**self.env, **variables}, stdin=stdin)

    def told(
        self, *arguments: str, code: int = 0, variables: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """The last object that ``--json`` prints."""
        done = self.rebuild("--json", *arguments, **(variables or {}))
        assert done.returncode == code, done.stderr
        told = json.loads(done.stdout.splitlines()[-1])
        assert isinstance(told, dict)
        return told


@pytest.fixture
def world(servers: RunningServers, database_url: str, keys_prefix: str) -> World:
    world = World(worker_environment(servers.redis_url, database_url, keys_prefix))

    async def converse(replica: RebuildingReplica) -> None:
        for stream_id, messages in (("a", 1), ("b", 2), ("c", 3)):
            await replica.append_many(stream_id, *["user_message"] * messages)
        await replica.project("a", "b", "c")

    world.do(converse)
    return world


# What is rebuilt.


def test_all_streams_are_rebuilt_and_the_outcome_told(world: World) -> None:
    world.sql(DAMAGE)
    world.do(lambda replica: replica.append_many("new", "user_message"))
    done = world.rebuild()
    assert (done.returncode, world.counts()) == (0, [1, 2, 3]), done.stderr
    assert done.stdout.startswith("strategies: rebuilt 4 streams of 4 from 7 events in ")
    assert "4 streams" in done.stderr, "progress goes to standard error"
    row = world.row("new")
    assert row is not None
    assert row["message_count"] == 1


def test_streams_that_are_named_are_rebuilt_and_no_others(world: World) -> None:
    world.sql(DAMAGE)
    done = world.rebuild("--stream", "a", "--stream", "c")
    assert (done.returncode, world.counts()) == (0, [1, 7, 3]), done.stderr
    assert done.stdout.splitlines()[:2] == [
        "a: rebuilt from 1 event; the row stands at 1-0.",
        "c: rebuilt from 3 events; the row stands at 3-0.",
    ]


def test_an_undo_of_the_last_events_takes_the_row_back(world: World) -> None:
    world.do(lambda replica: replica.admin.xdel(world.keys.log("c"), "2-0", "3-0"))
    everything = world.rebuild()
    assert (everything.returncode, world.counts()) == (1, [1, 2, 3])
    assert "c: diverged. " in everything.stdout
    assert "`rebuild --stream`" in everything.stdout
    assert "Not rebuilt: 1 stream (1 diverged)." in everything.stdout
    named = world.rebuild("--stream", "c")
    assert (named.returncode, world.counts()) == (0, [1, 2, 1]), named.stderr
    row = world.row("c")
    assert row is not None
    assert row["last_event_id"] == "1-0"


def test_a_stream_that_does_not_exist_is_told(world: World) -> None:
    done = world.rebuild("--stream", "typo")
    assert done.returncode == 1
    sentence = "Stream 'typo' has neither a log nor a row; see whether it is spelled rightly.\n"
    assert done.stderr == sentence
    dry = world.rebuild("--dry-run", "--stream", "typo")
    assert (dry.returncode, dry.stderr) == (1, sentence)
    assert "It would take" not in dry.stdout, "there is nothing to estimate it by"
    assert world.told("--dry-run", "--stream", "typo", "--stream", "a", code=1)["unknown"] == ["typo"]


def test_a_missing_right_is_told_at_once_with_the_remedy(world: World) -> None:
    world.sql(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE insufficient_privilege USING MESSAGE = 'permission denied'; END $$",
        "CREATE TRIGGER refuse BEFORE UPDATE ON stream_projections EXECUTE FUNCTION refuse()",
    )
    for arguments in ((), ("--stream", "a")):
        refused = world.rebuild(*arguments)
        assert refused.returncode == 1
        assert "permission denied" in refused.stderr
        assert "Grant the worker's user SELECT" in refused.stderr
        assert "Traceback" not in refused.stderr


def test_a_condition_chooses_rows(world: World) -> None:
    world.sql(DAMAGE)
    told = world.told("--where", "stream_id IN ('a', 'b')")
    assert world.counts() == [1, 2, 7]
    assert (told["event"], told["streams"], told["rebuilt"], told["events"]) == ("report", 2, 2, 3)
    assert told["scope"] == "rows where stream_id IN ('a', 'b')"
    wrong = world.rebuild("--where", "no_such_column")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith("PostgreSQL does not take the condition 'no_such_column'.")
    assert "Traceback" not in wrong.stderr


def test_stale_rows_are_brought_up_and_status_counts_versions(world: World) -> None:
    assert world.told("--stale")["streams"] == 0
    assert world.told("--stream", "a", variables=SECOND)["rebuilt"] == 1
    [status] = json.loads(call("status", "--json", env=world.env | SECOND).stdout)
    assert (status["rows_by_version"], status["rows_of_other_versions"]) == ({"1": 2, "2": 1}, 2)
    told = world.told("--stale", variables=SECOND)
    assert (told["version"], told["streams"], told["rebuilt"]) == (2, 2, 2)
    assert world.counts() == [10, 20, 30]
    refused = world.told(code=1)  # by the old version, which must not take them back
    assert refused["refusals"] == {"newer_version": 3}
    assert world.counts() == [10, 20, 30]


def test_what_is_refused_is_listed_and_the_flag_forces_it(world: World) -> None:
    world.delete_log("b")
    world.do(lambda replica: replica.admin.xtrim(world.keys.log("c"), maxlen=1, approximate=False))
    told = world.told(code=1)
    assert (told["rebuilt"], told["refused"]) == (1, 2)
    assert told["refusals"] == {"gone": 1, "trimmed": 1}
    assert {of["stream_id"]: of["refusal"] for of in told["told"]} == {"b": "gone", "c": "trimmed"}
    limited = world.rebuild("--limit", "1")
    assert "And 1 stream more; a higher --limit tells of them." in limited.stdout
    assert world.told("--accept-loss")["refused"] == 0
    assert world.counts() == [1, 0, 1]


# Looking only.


def test_a_dry_run_tells_what_would_change_and_changes_nothing(world: World) -> None:
    before = [world.row(stream_id) for stream_id in ("a", "b", "c")]
    world.do(lambda replica: replica.append_many("new", "user_message"))
    world.delete_log("b")
    told = world.told("--dry-run", code=1, variables=SECOND)
    assert (told["streams"], told["changed"], told["made"], told["refusals"]) == (4, 2, 1, {"gone": 1})
    assert told["columns"]["message_count"] == 2
    assert told["examples"]["message_count"] == {"stream_id": "a", "old": "1", "new": "10"}
    assert told["versions"] == {"1": 3}
    assert told["estimate_seconds"] > 0
    said = world.rebuild("--dry-run", **SECOND)
    assert "message_count: 2 rows; in a from 1 to 10\n" in said.stdout
    assert "b: gone. " in said.stdout
    assert "would change 2 rows, make 1 and leave 0 as they are." in said.stdout
    assert [world.row(stream_id) for stream_id in ("a", "b", "c")] == before
    assert world.row("new") is None


# Rows that have no log.


def test_rows_without_a_log_are_listed_and_removed_when_that_is_confirmed(world: World) -> None:
    world.sql("INSERT INTO stream_projections (stream_id) VALUES ('made by somebody')")
    world.delete_log("b")
    world.delete_log("c")
    listed = world.rebuild("--prune", "--dry-run")
    assert (listed.returncode, listed.stdout) == (0, "b\nc\n2 of 3 rows have no log.\n")
    assert world.told("--prune", "--dry-run") == {
        "event": "report",
        "without_log": ["b", "c"],
        "removed": [],
    }
    unasked = world.rebuild("--prune")
    assert unasked.returncode == 2
    assert "give --yes" in unasked.stderr
    assert world.counts() == [1, 2, 3]
    pruned = world.rebuild("--prune", "--yes", "--where", "stream_id = 'b'")
    assert pruned.returncode == 0
    assert pruned.stdout.endswith("Removed 1 row with their claims.\n")
    assert world.counts() == [1, None, 3]
    told = world.told("--prune", "--yes")
    assert (told["without_log"], told["removed"]) == (["c"], ["c"])
    assert world.row("made by somebody") is not None


@pytest.mark.parametrize(("answer", "code", "left"), [("y", 0, None), ("n", 1, 2)])
def test_a_person_is_asked_before_rows_are_removed(
    world: World, answer: str, code: int, left: int | None
) -> None:
    world.delete_log("b")
    person, terminal = pty.openpty()
    try:
        os.write(person, f"{answer}\n".encode())
        asked = world.rebuild("--prune", stdin=terminal)
    finally:
        os.close(person)
        os.close(terminal)
    assert asked.returncode == code, asked.stderr
    assert "Remove 1 row for ever?" in asked.stdout
    assert world.counts() == [1, left, 3]


def test_a_redis_without_any_log_is_no_reason_to_remove_all_rows(world: World) -> None:
    for stream_id in ("a", "b", "c"):
        world.delete_log(stream_id)
    refused = world.rebuild("--prune", "--yes")
    assert (refused.returncode, world.counts()) == (2, [1, 2, 3])
    assert refused.stderr.startswith("Redis holds no log at all, though there are 3 rows")
    assert world.rebuild("--prune", "--yes", "--accept-loss").returncode == 0
    assert world.counts() == [None, None, None]


# Under way.


def test_a_rebuild_that_is_stopped_says_how_to_go_on_and_status_tells_of_it(world: World) -> None:
    world.sql(DAMAGE)
    with running("rebuild", "--rate", "0.1", env=world.env) as first:
        block_until(lambda: world.counts().count(7) < 3, "a stream to be rebuilt", timeout=20)
        [status] = json.loads(call("status", "--json", env=world.env).stdout)
        assert status["rebuild"]["streams"] == 3
        assert len(status["rebuild"]["workers"]) == 1
        assert first.stop() == 1
        assert "start the same command again to go on" in first.log
        assert "Traceback" not in first.log
    shown = " ".join(call("status", env=world.env).stdout.split())
    assert "of 3 streams" in shown
    assert "nobody; start" in shown
    other = world.rebuild("--where", "true")
    assert other.returncode == 2
    assert other.stderr.startswith("Another rebuild is not finished: to version 1, of all streams.")
    assert world.rebuild().returncode == 0
    assert world.counts() == [1, 2, 3]
    assert "rebuild │ none" in " ".join(call("status", env=world.env).stdout.split())


def test_progress_is_told_in_json_lines(world: World) -> None:
    lines = [json.loads(line) for line in world.rebuild("--json").stdout.splitlines()]
    assert [line["event"] for line in lines][-1] == "report"
    assert lines[0]["event"] == "progress"
    assert lines[0]["streams"] == 3


def test_several_projections_need_a_name(world: World) -> None:
    module = {"WORKER_PROJECTIONS": "tests.acceptance.two_projections"}
    unnamed = world.rebuild(**module)
    assert unnamed.returncode == 2
    assert "--projection" in unnamed.stderr
    assert world.rebuild("--projection", "strategies", **module).returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("--stream", "a", "--stale"),
        ("--stream", "a", "--where", "true"),
        ("--stream", "a", "--restart"),
        ("--prune", "--restart"),
        ("--yes",),
        ("--rate", "0"),
        ("--rate", "inf"),
        ("--stream", os.fsdecode(b"\xff")),
        ("--projection", "others"),
    ],
)
def test_what_is_used_wrongly_is_refused(world: World, arguments: tuple[str, ...]) -> None:
    refused = world.rebuild(*arguments)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "Traceback" not in refused.stderr
