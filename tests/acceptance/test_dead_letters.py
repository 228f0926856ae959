"""The commands `dead-letters ...`, as an operator types them."""

from __future__ import annotations

import asyncio
import json
import os
import pty
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest
from redis import Redis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.acceptance.commands import call, running, worker_environment
from tests.letters import TRACEBACK, pass_over, stop
from tests.projecting import run
from tests.servers import RunningServers
from tests.waiting import block_until
from tests.writes import create_tallies
from worker import Keys
from worker.database import make_engine, parse_database_url
from worker.dead_letters import StoredLetter, find_letters

HOSTILE = "chat \x1b]0;owned\x07\n[red]ü[/red]\u202e"
SKIP = ("dead-letters", "skip")

T = TypeVar("T")


@pytest.fixture
def env(servers: RunningServers, database_url: str, keys_prefix: str) -> dict[str, str]:
    return worker_environment(servers.redis_url, database_url, keys_prefix)


def do(env: dict[str, str], work: Callable[[AsyncEngine], Awaitable[T]]) -> T:
    """Do something with the database, as a worker would."""

    async def with_engine() -> T:
        engine = make_engine(parse_database_url(env["DATABASE_URL"]), pool_size=1, application_name="test")
        try:
            return await work(engine)
        finally:
            await engine.dispose()

    return asyncio.run(with_engine())


@pytest.fixture
def letters(env: dict[str, str]) -> None:
    """Two streams are stopped, and an event of a third was passed over."""

    async def write(engine: AsyncEngine) -> None:
        await stop(engine, "chat-1", "10-0")
        await stop(engine, "chat-2", "10-0", error="row refused\nwith details")
        await pass_over(engine, "chat-3", "7-0")

    do(env, write)


def stored(env: dict[str, str]) -> dict[str, StoredLetter]:
    """The letters in the table, by stream."""
    return {letter.stream_id: letter for letter in do(env, find_letters)}


def states(env: dict[str, str]) -> dict[str, str]:
    return {stream_id: letter.state.value for stream_id, letter in stored(env).items()}


def listed(env: dict[str, str], *arguments: str) -> list[dict[str, Any]]:
    found = call("dead-letters", "list", "--json", *arguments, env=env)
    assert found.returncode == 0, found.stderr
    return list(json.loads(found.stdout))


def hinted(servers: RunningServers, env: dict[str, str], stream_id: str) -> int:
    """How many hints there are of a stream."""
    keys = Keys(env["WORKER_KEY_PREFIX"])
    with Redis.from_url(servers.redis_url) as client:
        hints: Any = client.xrange(keys.feed(keys.partition(stream_id)))
        return sum(fields == {b"stream": stream_id.encode()} for _, fields in hints)


# list


def test_without_letters_there_is_nothing_to_list(env: dict[str, str]) -> None:
    found = call("dead-letters", "list", env=env)
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "No dead letter is open.\n")
    assert listed(env) == []


@pytest.mark.usefixtures("letters")
def test_letters_are_listed_a_line_each_in_a_pipe(env: dict[str, str]) -> None:
    found = call("dead-letters", "list", env=env)
    assert found.returncode == 0, found.stderr
    rows = [line.split("\t") for line in found.stdout.splitlines()]
    assert [row[:5] for row in rows] == [
        ["strategies", stream_id, "10-0", "user_message", "open"] for stream_id in ("chat-1", "chat-2")
    ]
    assert [row[5:8] for row in rows] == [
        ["handler_failed", error, "1"] for error in ("ZeroDivisionError: broken", "row refused")
    ]
    assert all(len(row) == 11 for row in rows)


@pytest.mark.usefixtures("letters")
def test_letters_are_chosen_by_stream_state_and_number(env: dict[str, str]) -> None:
    assert [letter["stream_id"] for letter in listed(env)] == ["chat-1", "chat-2"]
    assert [letter["stream_id"] for letter in listed(env, "--all")] == ["chat-1", "chat-2", "chat-3"]
    chosen = listed(env, "--all", "--stream", "chat-3", "--stream", "chat-2")
    assert [letter["stream_id"] for letter in chosen] == ["chat-2", "chat-3"]
    assert listed(env, "--projection", "others") == []
    some = call("dead-letters", "list", "--all", "--limit", "2", env=env)
    assert len(some.stdout.splitlines()) == 2
    assert "--limit" in some.stderr


@pytest.mark.usefixtures("letters")
def test_options_can_be_given_as_variables(env: dict[str, str]) -> None:
    chosen = listed({**env, "PROJECTION_WORKER_DEAD_LETTERS_LIST_STREAM": "chat-2"})
    assert [letter["stream_id"] for letter in chosen] == ["chat-2"]


@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "pipe"])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_nothing_of_a_letter_reaches_the_terminal_raw(
    env: dict[str, str], terminal: bool, encoding: str
) -> None:
    do(env, lambda engine: stop(engine, HOSTILE, "1-0", error="\x1b[31mé\t\x00"))
    env = {**env, "PYTHONIOENCODING": encoding, "COLUMNS": "250"}
    if terminal:
        env["FORCE_COLOR"] = "1"
    found = call("dead-letters", "list", env=env)
    assert found.returncode == 0, found.stderr
    shown = found.stdout.replace("\x1b[1m", "").replace("\x1b[0m", "")
    letter = "ü" if encoding == "utf-8" else "\\xfc"
    assert f"chat \\x1b]0;owned\\x07\\n[red]{letter}[/red]\\u202e" in shown
    assert "\x1b" not in shown
    assert "\\x1b[31m" in shown
    assert ("━" in shown) == (terminal and encoding == "utf-8")


# show


def test_all_about_a_letter_is_shown(env: dict[str, str]) -> None:
    emitted = [
        call("emit", "chat", "user_message", json.dumps({"content": "x" * 1_000}), env=env).stdout.strip()
        for _ in range(3)
    ]
    do(env, lambda engine: stop(engine, "chat", emitted[0]))
    shown = call("dead-letters", "show", "chat", emitted[0], env=env)
    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.split("\n\n")[0].splitlines()
    told = {line[:12].rstrip(): line[12:] for line in lines}
    assert told["projection"] == "strategies, version 1"
    assert told["event"] == f"{emitted[0]} of type user_message"
    assert told["position"] == "none yet; the stream stands before this event"
    assert told["waiting"] == "2 events wait behind it"
    assert (told["op"], told["type"]) == ("", "user_message")
    assert told["data"] == f'{{"content":"{"x" * 488}…'
    assert told["data bytes"] == "1,014; --full shows all of them"
    assert shown.stdout.endswith(f"\n\n{TRACEBACK}\n")
    assert "x" * 1_000 in call("dead-letters", "show", "chat", emitted[0], "--full", env=env).stdout
    known = json.loads(call("dead-letters", "show", "chat", emitted[0], "--json", "--full", env=env).stdout)
    assert json.loads(known["entry"]["data"]) == {"content": "x" * 1_000}
    assert (known["blocks"], known["waiting"], known["position"]) == (True, 2, None)


def test_what_is_not_utf8_is_shown_escaped(servers: RunningServers, env: dict[str, str]) -> None:
    with Redis.from_url(servers.redis_url) as client:
        fields: Any = {b"type": b"user_message", b"data": b"\xff\x1b\n"}
        client.xadd(Keys(env["WORKER_KEY_PREFIX"]).log("chat"), fields, id="1-0")
    do(env, lambda engine: pass_over(engine, "chat", "1-0"))
    shown = call("dead-letters", "show", "chat", "1-0", env=env).stdout
    assert "data        \\xff\\x1b\\n\n" in shown
    assert "op          missing\n" in shown
    assert "wait behind it" not in shown


@pytest.mark.usefixtures("letters")
def test_an_event_that_is_no_dead_letter_cannot_be_shown(env: dict[str, str]) -> None:
    shown = call("dead-letters", "show", "chat-1", "11-0", env=env)
    assert (shown.returncode, shown.stdout) == (1, "")
    assert shown.stderr == "Event 11-0 of stream 'chat-1' is no dead letter.\n"
    gone = call("dead-letters", "show", "chat-1", "10-0", env=env)
    assert "gone from the log" in gone.stdout
    assert call("dead-letters", "show", "chat-1", "eleven", env=env).returncode == 2


def test_of_several_projections_one_must_be_named(env: dict[str, str]) -> None:
    async def write(engine: AsyncEngine) -> None:
        await stop(engine, "chat", "1-0")
        await stop(engine, "chat", "1-0", projection="others")

    do(env, write)
    for command in (("show", "chat", "1-0"), ("skip", "chat", "1-0", "--reason", "x")):
        refused = call("dead-letters", *command, env=env)
        assert refused.returncode == 2
        assert "others or strategies" in " ".join(refused.stderr.replace("│", " ").split())
    named = call("dead-letters", "show", "chat", "1-0", "--projection", "strategies", env=env)
    assert named.returncode == 0, named.stderr
    unknown = call("dead-letters", "show", "chat", "1-0", "--projection", "others", env=env)
    assert unknown.returncode == 2
    assert "WORKER_PROJECTIONS" in unknown.stderr


# retry


@pytest.mark.usefixtures("letters")
def test_a_retry_makes_letters_due_and_hints(servers: RunningServers, env: dict[str, str]) -> None:
    do(env, lambda engine: run(engine, "UPDATE dead_letters SET retry_at = NULL"))
    retried = call("dead-letters", "retry", "--stream", "chat-1", env=env)
    assert (retried.returncode, retried.stdout) == (0, "Dead letters that are tried again now: 1.\n")
    due = stored(env)
    assert due["chat-1"].retry_at is not None
    assert due["chat-2"].retry_at is None
    assert [hinted(servers, env, stream) for stream in ("chat-1", "chat-2")] == [1, 0]
    everything = call("dead-letters", "retry", "--all", env=env)
    assert (everything.returncode, everything.stdout) == (0, "Dead letters that are tried again now: 2.\n")
    assert [hinted(servers, env, stream) for stream in ("chat-1", "chat-2", "chat-3")] == [2, 1, 0]


@pytest.mark.usefixtures("letters")
def test_a_retry_says_of_which_streams_nothing_is_open(env: dict[str, str]) -> None:
    streams = ("--stream", "chat-3", "--stream", "chat-1", "--stream", "chat-4")
    retried = call("dead-letters", "retry", *streams, env=env)
    assert (retried.returncode, retried.stdout) == (1, "Dead letters that are tried again now: 1.\n")
    passed, unknown = retried.stderr.splitlines()
    assert passed.startswith(
        "Stream 'chat-3' has no open dead letter. Event 7-0 of stream 'chat-3' was passed"
    )
    assert "raise the projection's version" in passed
    assert unknown == "Stream 'chat-4' has no open dead letter."
    nothing = call("dead-letters", "retry", "--all", "--projection", "others", env=env)
    assert (nothing.returncode, nothing.stderr) == (1, "No dead letter is open.\n")


@pytest.mark.usefixtures("letters")
def test_without_redis_a_retry_is_recorded_and_says_so(env: dict[str, str]) -> None:
    do(env, lambda engine: run(engine, "UPDATE dead_letters SET retry_at = NULL"))
    away = {**env, "REDIS_URL": "redis://127.0.0.1:1/0"}
    retried = call("dead-letters", "retry", "--all", env=away)
    assert retried.returncode == 1
    assert retried.stderr.startswith("The workers could not be told")
    assert len(retried.stderr.splitlines()) == 1
    due = stored(env)
    assert due["chat-1"].retry_at is not None
    assert due["chat-2"].retry_at is not None


@pytest.mark.parametrize("arguments", [(), ("--all", "--stream", "chat")])
def test_a_retry_needs_streams_or_all(env: dict[str, str], arguments: tuple[str, ...]) -> None:
    assert call("dead-letters", "retry", *arguments, env=env).returncode == 2


# skip


@pytest.mark.usefixtures("letters")
def test_an_event_is_skipped_with_who_and_why(servers: RunningServers, env: dict[str, str]) -> None:
    named = (*SKIP, "chat-1", "10-0", "--reason", "sent twice")
    skipped = call(*named, "--by", "anna", env=env)
    assert (skipped.returncode, skipped.stderr) == (0, "")
    assert skipped.stdout == "Skipped event 10-0 of stream 'chat-1' in strategies.\n"
    letter = stored(env)["chat-1"]
    assert (letter.state, letter.skipped_by, letter.skipped_because) == ("skipped", "anna", "sent twice")
    assert hinted(servers, env, "chat-1") == 1
    shown = call("dead-letters", "show", "chat-1", "10-0", env=env).stdout
    assert "by          anna\nbecause     sent twice\n" in shown
    again = call(*named, env=env)
    assert (again.returncode, again.stdout) == (1, "")
    assert again.stderr == "Event 10-0 of stream 'chat-1' is skipped already, by 'anna': 'sent twice'.\n"
    assert hinted(servers, env, "chat-1") == 1


@pytest.mark.usefixtures("letters")
def test_the_login_name_tells_who_skipped(env: dict[str, str]) -> None:
    env = {**env, "LOGNAME": "ben"}
    assert call(*SKIP, "chat-1", "10-0", "--reason", "x", env=env).returncode == 0
    assert stored(env)["chat-1"].skipped_by == "ben"


@pytest.mark.usefixtures("letters")
def test_streams_are_skipped_and_those_without_an_open_letter_named(env: dict[str, str]) -> None:
    skipped = call(*SKIP, "--stream", "chat-2", "--stream", "chat-3", "--reason", "x", env=env)
    assert skipped.returncode == 1
    assert skipped.stderr.startswith("Stream 'chat-3' has no open dead letter.")
    assert states(env) == {"chat-1": "open", "chat-2": "skipped", "chat-3": "passed"}


@pytest.mark.usefixtures("letters")
def test_an_event_that_was_applied_meanwhile_holds_up_no_other(env: dict[str, str]) -> None:
    moved = "INSERT INTO stream_projections (stream_id, last_event_id, version) VALUES ('chat-1', '11-0', 1)"
    do(env, lambda engine: run(engine, moved))
    skipped = call(*SKIP, "--all", "--yes", "--reason", "x", env=env)
    assert skipped.returncode == 1
    assert skipped.stderr == "Event 10-0 of stream 'chat-1' was applied meanwhile.\n"
    assert states(env) == {"chat-1": "open", "chat-2": "skipped", "chat-3": "passed"}


@pytest.mark.usefixtures("letters")
@pytest.mark.parametrize(("answer", "code", "state"), [("y", 0, "skipped"), ("n", 1, "open")])
def test_a_person_is_asked_before_all_are_skipped(
    env: dict[str, str], answer: str, code: int, state: str
) -> None:
    person, terminal = pty.openpty()
    try:
        os.write(person, f"{answer}\n".encode())
        asked = call(*SKIP, "--all", "--reason", "x", env=env, stdin=terminal)
    finally:
        os.close(person)
        os.close(terminal)
    assert asked.returncode == code, asked.stderr
    assert asked.stdout.startswith("Skip 2 events of 2 streams?")
    assert states(env) == {"chat-1": state, "chat-2": state, "chat-3": "passed"}


@pytest.mark.usefixtures("letters")
@pytest.mark.parametrize(
    "arguments",
    [
        ("chat-1", "10-0"),
        ("--reason", "x"),
        ("chat-1", "--reason", "x"),
        ("chat-1", "10-0", "--all", "--yes", "--reason", "x"),
        ("chat-1", "10-0", "--reason", " "),
        ("--all", "--reason", "x"),
        ("--stream", os.fsdecode(b"\xff"), "--reason", "x"),
    ],
    ids=["no reason", "nothing", "no event", "two ways", "empty reason", "nobody to ask", "not UTF-8"],
)
def test_a_skip_that_is_not_clear_is_refused(env: dict[str, str], arguments: tuple[str, ...]) -> None:
    refused = call(*SKIP, *arguments, env=env)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "Traceback" not in refused.stderr
    assert "skipped" not in states(env).values()


# status


@pytest.mark.usefixtures("letters")
def test_status_counts_blocked_streams(env: dict[str, str]) -> None:
    counts = json.loads(call("status", "--json", env=env).stdout)[0]["letters"]
    assert (counts["blocked"], counts["passed"], counts["skipped"]) == (2, 1, 0)
    assert counts["blocked_since"] > 0
    shown = " ".join(call("status", env=env).stdout.split())
    assert "blocked streams │ 2, the first for" in shown
    assert "events passed over, skipped │ 1, 0" in shown


# With a worker.


async def _total(engine: AsyncEngine) -> int | None:
    async with engine.connect() as connection:
        total: int | None = await connection.scalar(
            text("SELECT total FROM tallies WHERE last_event_id IS NOT NULL")
        )
        return total


def test_a_worker_tries_again_when_asked_and_goes_on_after_a_skip(env: dict[str, str]) -> None:
    env = {**env, "WORKER_PROJECTIONS": "tests.acceptance.tallying"}
    do(env, create_tallies)
    events = [("add", {"n": 1}), ("fail", {}), ("add", {"n": 2})]
    lines = [json.dumps({"stream_id": "chat", "type": name, "data": data}) for name, data in events]
    emitted = call("emit", "--from-file", "-", env=env, stdin="\n".join(lines)).stdout.split()
    with running("run", env=env):
        stopped = block_until(lambda: stored(env).get("chat"), "the stream to be stopped", timeout=30)
        assert (str(stopped.event_id), do(env, _total)) == (emitted[1], 1)
        do(env, lambda engine: run(engine, "UPDATE dead_letters SET retry_at = NULL"))
        before = stored(env)["chat"].attempts
        assert call("dead-letters", "retry", "--stream", "chat", env=env).returncode == 0
        block_until(lambda: stored(env)["chat"].attempts > before, "it to be tried again")
        assert do(env, _total) == 1
        assert call(*SKIP, "--stream", "chat", "--reason", "broken", env=env).returncode == 0
        block_until(lambda: do(env, _total) == 3, "the stream to go on")
    assert states(env) == {"chat": "skipped"}
