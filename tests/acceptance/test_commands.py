"""The other commands, as a person types them."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest
from redis.asyncio import Redis
from typer.testing import CliRunner

from tests.acceptance.commands import call, call_here, running, worker_environment
from tests.proxy import redis_proxy
from tests.replicas import report as replica_report
from tests.servers import RunningServers
from tests.waiting import block_until
from worker import Keys
from worker.cli import app
from worker.replicas import Replicas


@pytest.fixture
def env(servers: RunningServers, database_url: str, keys_prefix: str) -> dict[str, str]:
    return worker_environment(servers.redis_url, database_url, keys_prefix)


def test_migrating_twice_does_nothing_the_second_time(env: dict[str, str], empty_database_url: str) -> None:
    env = {**env, "DATABASE_URL": empty_database_url}
    first, second = call("migrate", env=env), call("migrate", env=env)
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert first.stdout == second.stdout


def test_what_is_emitted_can_be_read_as_messages(env: dict[str, str]) -> None:
    emitted = call("emit", "chat", "user_message", '{"content": "Größe?", "messageId": "m"}', env=env)
    assert emitted.returncode == 0, emitted.stderr
    assert "-" in emitted.stdout
    read = call("messages", "chat", env=env)
    assert [message["content"] for message in json.loads(read.stdout)] == ["Größe?"]


def test_thinking_shows_open_tool_calls(env: dict[str, str]) -> None:
    assert json.loads(call("thinking", "chat", env=env).stdout) is None
    lines = [
        {"stream_id": "chat", "type": "message_start"},
        {"stream_id": "chat", "type": "tool_call_start", "data": {"id": "1", "name": "search"}},
    ]
    emitted = call("emit", "--from-file", "-", env=env, stdin="\n".join(map(json.dumps, lines)))
    assert len(emitted.stdout.split()) == 2
    thinking = json.loads(call("thinking", "chat", env=env).stdout)
    assert thinking == {"toolCalls": [{"id": "1", "name": "search"}]}


def test_a_wrong_line_is_named_and_those_before_it_are_emitted(env: dict[str, str]) -> None:
    good = json.dumps({"stream_id": "chat", "type": "user_message"})
    emitted = call("emit", "--from-file", "-", env=env, stdin=f"{good}\n\nnonsense\n{good}\n")
    assert emitted.returncode == 2
    assert emitted.stderr.startswith("Line 3: This is not JSON")
    assert len(emitted.stdout.split()) == 1
    assert len(json.loads(call("messages", "chat", env=env).stdout)) == 1


@pytest.mark.parametrize("data", ["nonsense", "[]"])
def test_data_that_are_no_object_are_refused(env: dict[str, str], data: str) -> None:
    emitted = call("emit", "chat", "user_message", data, env=env)
    assert emitted.returncode == 2
    assert "Traceback" not in emitted.stderr


def test_data_that_are_nested_without_end_are_one_sentence(env: dict[str, str]) -> None:
    line = '{"stream_id": "a", "type": "t", "data": ' + '{"a":' * 100_000
    for emitted in (
        call("emit", "chat", "user_message", '{"a":' * 20_000, env=env),
        call("emit", "--from-file", "-", env=env, stdin=line),
    ):
        assert emitted.returncode == 2
        assert len(emitted.stderr.strip().splitlines()) == 1


def test_an_event_whose_reply_is_lost_is_looked_for_if_it_has_an_operation_id(
    servers: RunningServers, env: dict[str, str]
) -> None:
    events = [
        {"stream_id": "chat", "type": "user_message", "operation_id": operation_id}
        for operation_id in ("1", "2", "", "3")
    ]
    with redis_proxy(servers.redis_url) as proxy:
        proxy.lose = b"EXEC"
        behind_it = {**env, "REDIS_URL": proxy.url}
        emitted = call("emit", "--from-file", "-", env=behind_it, stdin="\n".join(map(json.dumps, events)))
        one = call("emit", "chat", "user_message", "--operation-id", "4", env=behind_it)
    assert emitted.returncode == 1
    assert emitted.stderr.startswith("Line 3: The reply was lost")
    assert "look at the end of the log" in emitted.stderr
    assert one.returncode == 0, one.stderr
    # Both of the third line's fates are right; here it stands in the log.
    assert len((emitted.stdout + one.stdout).split()) == 3
    assert len(json.loads(call("messages", "chat", env=env).stdout)) == 4


def test_status_tells_whether_a_replica_is_alive(env: dict[str, str]) -> None:
    assert call("status", env=env).returncode == 1
    call("emit", "chat", "user_message", env=env)
    with running("run", env=env):

        def taken() -> dict[str, object] | None:
            looked = call("status", "--json", env=env)
            status = json.loads(looked.stdout)[0]
            return status if looked.returncode == 0 and status["events_applied"] == 1 else None

        status = block_until(taken, "the replica to report")
        assert status["rows"] == 1
        assert status["name"] == "strategies"
        assert "strategies, version 1" in call("status", env=env).stdout


def test_status_names_the_slowest_streams(env: dict[str, str]) -> None:
    assert call_here("status", "--slowest", "3", env=env).stdout == ""
    for number in range(3):
        assert call_here("emit", f"chat-{number}", "user_message", env=env).returncode == 0
    told = call_here("status", "--slowest", "2", env=env)
    lines = [line.split("\t") for line in told.stdout.splitlines()]
    assert told.returncode == 0
    assert [(line[:3], line[4]) for line in lines] == [
        (["strategies", f"chat-{number}", "behind"], "1") for number in range(2)
    ]
    [found] = json.loads(call_here("status", "--slowest", "2", "--json", env=env).stdout)
    assert [stream.pop("stream_id") for stream in found["slowest"]] == ["chat-0", "chat-1"]
    assert found["projection"] == "strategies"
    for stream in found["slowest"]:
        assert 0 <= stream.pop("lag_seconds") < 60
        assert stream == {"standing": "behind", "position": None, "events": 1, "counted": True}
    for wrong in (["--slowest", "0"], ["--slowest", "2", "--watch"]):
        assert call_here("status", *wrong, env=env).returncode == 2


async def test_status_tells_what_a_replica_cannot_do(
    env: dict[str, str], redis: Redis, keys_prefix: str
) -> None:
    fine = replica_report("fine")
    ill = replace(replica_report("ill"), troubles=["projecting, since noon: no table"])
    replicas = Replicas(redis, Keys(keys_prefix), "strategies")
    await replicas.report(fine)
    assert (await asyncio.to_thread(call, "status", env=env)).returncode == 0
    await replicas.report(ill)
    looked = await asyncio.to_thread(call, "status", env=env)
    assert looked.returncode == 1
    assert "ill is not ready: projecting, since noon: no table" in looked.stdout
    assert "fine is not ready" not in looked.stdout


def test_a_server_that_is_away_is_one_sentence(env: dict[str, str]) -> None:
    failed = call("messages", "chat", env={**env, "REDIS_URL": "redis://127.0.0.1:1/0"})
    assert failed.returncode == 1
    assert len(failed.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "command",
    [
        "run",
        "migrate",
        "status",
        "emit",
        "messages",
        "thinking",
        "verify",
        "check",
        "demo",
        "dev",
        *(f"dead-letters {command}" for command in ("list", "show", "retry", "skip")),
    ],
)
def test_help_gives_an_example_for_every_command(command: str) -> None:
    help_text = CliRunner().invoke(app, [*command.split(), "--help"]).output
    assert f"Example: projection-worker {command}" in " ".join(help_text.split())


@pytest.mark.parametrize(
    ("away", "told"),
    [
        ({"REDIS_URL": "redis://127.0.0.1:1/0"}, "Redis, which REDIS_URL names, could not be reached"),
        ({"DATABASE_URL": "postgresql://127.0.0.1:1/x"}, "PostgreSQL, which DATABASE_URL names, could not"),
    ],
    ids=["redis", "postgresql"],
)
def test_a_server_that_is_away_is_named(env: dict[str, str], away: dict[str, str], told: str) -> None:
    for command in (("verify",), ("rebuild",), ("show", "chat"), ("status",)):
        failed = call_here(*command, env={**env, **away})
        assert (failed.returncode, failed.stdout) == (1, "")
        assert failed.stderr.startswith(told)
        assert len(failed.stderr.splitlines()) == 1


def test_a_file_that_is_not_there_is_no_server_that_is_away(env: dict[str, str]) -> None:
    failed = call_here("emit", "--from-file", "no-such-file.jsonl", env=env)
    assert failed.returncode == 2
    assert failed.stderr == (
        "no-such-file.jsonl: No such file or directory. Give the path of a file that can be read.\n"
    )
