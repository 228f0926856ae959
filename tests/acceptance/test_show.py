"""The command `show`, as an operator types it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.acceptance.commands import DEADLINE_SECONDS, call, call_here, worker_environment
from tests.letters import stop
from tests.projecting import Replica, run
from tests.servers import RunningServers
from tests.writes import create_tallies
from worker import Keys
from worker.database import make_engine, parse_database_url
from worker.redis_client import make_client

HOSTILE = "chat \x1b]0;owned\x07\n[red]ü[/red]\u202e"
PLAN = {"root": {"searchName": "GenesByTaxon", "parameters": {"organism": "x" * 200}}}


@pytest.fixture
def env(servers: RunningServers, database_url: str, keys_prefix: str) -> dict[str, str]:
    return worker_environment(servers.redis_url, database_url, keys_prefix)


def do(env: dict[str, str], work: Callable[[Replica], Awaitable[Any]]) -> None:
    """Do something with both servers, as producers and workers would."""

    async def with_replica() -> None:
        engine = make_engine(parse_database_url(env["DATABASE_URL"]), pool_size=1, application_name="test")
        client = make_client(env["REDIS_URL"])
        try:
            await work(Replica(client, Keys(env["WORKER_KEY_PREFIX"]), engine))
        finally:
            await client.aclose()
            await engine.dispose()

    asyncio.run(with_replica())


async def _converse(replica: Replica) -> None:
    """A conversation whose strategy is taken from it by another."""
    at = 1_767_348_000_000  # 2026-01-02 10:00 UTC
    await replica.append("chat-1", "strategy_meta", {"name": "Kinases"}, at=f"{at}-0")
    await replica.append(
        "chat-1", "strategy_link", {"wdkStrategyId": 7, "isSaved": True}, at=f"{at + 1_000}-0"
    )
    await replica.append("chat-2", "strategy_link", {"wdkStrategyId": 7}, at=f"{at + 2_000}-0")
    await replica.append("chat-1", "user_message", {"content": "secret"}, at=f"{at + 3_000}-0")
    await replica.append("chat-1", "graph_plan", {"plan": PLAN}, at=f"{at + 3_600_000}-0")
    await replica.project("chat-1", "chat-2")


@pytest.fixture
def conversation(env: dict[str, str]) -> None:
    do(env, _converse)


def shown(env: dict[str, str], *arguments: str) -> str:
    found = call_here("show", *arguments, env=env)
    assert found.returncode == 0, found.stderr
    assert "secret" not in found.stdout
    return found.stdout


def shown_json(env: dict[str, str], *arguments: str) -> Any:
    return json.loads(shown(env, *arguments, "--json"))


def lines(text: str) -> dict[str, str]:
    """Names to values, as they are printed in two columns."""
    return dict(line.split(maxsplit=1) for line in text.splitlines() if len(line.split()) > 1)


# The row


@pytest.mark.usefixtures("conversation")
def test_a_row_is_shown_with_how_it_stands(env: dict[str, str]) -> None:
    text = shown(env, "chat-1")
    about, row = text.split("\n\n")
    told = lines(about)
    assert told["standing"] == "caught up: nothing waits to be projected"
    assert told["position"] == "1767351600000-0 (2026-01-02 11:00:00.000Z)"
    assert (told["version"], told["generation"], told["waiting"]) == ("1", "0", "nothing")
    assert told["taken"].startswith("is_saved: true -> false, by stream 'chat-2' with event 1767348002000-0")
    assert "wdk_strategy_id: 7 -> null, by stream 'chat-2'" in about
    assert "to do" not in about
    columns = lines(row)
    assert (columns["name"], columns["message_count"], columns["is_saved"]) == ('"Kinases"', "1", "false")
    assert columns["plan"].endswith("…")
    assert len(columns["plan"]) == 80
    assert f'"organism": "{"x" * 200}"' in shown(env, "chat-1", "--full")


@pytest.mark.usefixtures("conversation")
def test_a_row_is_shown_as_json(env: dict[str, str]) -> None:
    view = shown_json(env, "chat-1")
    assert (view["standing"], view["position"]) == ("caught up", "1767351600000-0")
    assert view["waiting"] == {"events": 0, "counted": True, "oldest": None, "oldest_seconds": None}
    assert view["row"]["plan"] == PLAN
    assert view["row"]["own_is_saved_ms"] == 1767348001000
    assert view["row"]["updated_at"] == "2026-01-02T11:00:00+00:00"
    [taken] = view["taken"]
    assert (taken["stream_id"], taken["event_id"]) == ("chat-2", "1767348002000-0")
    assert {"column": "wdk_strategy_id", "path": [], "before": 7, "after": None} in taken["changes"]


def test_a_stream_with_neither_row_nor_log_is_no_stream(env: dict[str, str]) -> None:
    for options in ((), ("--at", "now"), ("--diff", "start", "now"), ("--history",)):
        found = call_here("show", "chat-1", *options, env=env)
        assert (found.returncode, found.stdout) == (1, "")
        assert found.stderr == (
            "Stream 'chat-1' has neither a log nor a row; see whether it is spelled rightly.\n"
        )
    found = call("show", "chat-1", "--json", env=env)
    assert (found.returncode, json.loads(found.stdout)["standing"]) == (1, "unknown")


def test_a_log_without_a_row_shows_what_the_row_would_be(env: dict[str, str]) -> None:
    do(env, lambda replica: replica.append("chat-1", "user_message"))
    text = shown(env, "chat-1")
    assert "waiting     1 events, the oldest " in text
    assert "There is no row yet. It would be:" in text
    view = shown_json(env, "chat-1")
    assert (view["row"], view["would_be"]["message_count"], view["standing"]) == (None, 1, "behind")


@pytest.mark.usefixtures("conversation")
def test_a_blocked_stream_says_why_and_what_to_do(env: dict[str, str]) -> None:
    async def block(replica: Replica) -> None:
        event_id = await replica.append("chat-1", "user_message", at="1767351600001-0")
        await stop(replica.engine, "chat-1", event_id)

    do(env, block)
    text = shown(env, "chat-1")
    assert "standing    blocked: it stands before an event that could not be applied" in text
    assert "blocked by  event 1767351600001-0 of type user_message: handler_failed" in text
    assert "next try    20" in text
    assert "to do       projection-worker dead-letters show chat-1 1767351600001-0;" in text
    blocked_by = shown_json(env, "chat-1")["blocked_by"]
    assert (blocked_by["event_id"], blocked_by["reason"]) == ("1767351600001-0", "handler_failed")


@pytest.mark.usefixtures("conversation")
def test_a_diverged_stream_and_rows_of_other_versions_say_what_to_do(env: dict[str, str]) -> None:
    set_version = "UPDATE stream_projections SET version = {}"
    do(env, lambda replica: run(replica.engine, set_version.format(0)))
    text = shown(env, "chat-1")
    assert "version     0, older than 1" in text
    assert "projection-worker rebuild --stream chat-1" in text
    do(env, lambda replica: run(replica.engine, set_version.format(2)))
    assert "version     2, newer than 1" in shown(env, "chat-1")
    do(env, lambda replica: run(replica.engine, set_version.format(1)))
    do(env, lambda replica: replica.admin.xdel(replica.keys.log("chat-1"), "1767351600000-0"))
    text = shown(env, "chat-1")
    assert "standing    diverged: the log no longer holds the row's position" in text
    assert "if events were taken back on purpose, projection-worker rebuild --stream chat-1;" in text
    do(env, lambda replica: replica.admin.delete(replica.keys.log("chat-1")))
    assert "standing    log gone: there is a row, but no log" in shown(env, "chat-1")
    do(env, lambda replica: replica.admin.set(replica.keys.log("chat-1"), "text"))
    assert "standing    unreadable: the key of its log holds something else" in shown(env, "chat-1")


# The past


@pytest.mark.usefixtures("conversation")
@pytest.mark.parametrize(
    ("point", "position", "held"),
    [
        ("2026-01-02 12:00:01.999+02:00", "1767348001000-0", 7),
        ("1767348002000", "1767348001000-0", None),
        ("-1s", "1767351600000-0", None),
    ],
)
def test_a_row_is_shown_as_it_was(env: dict[str, str], point: str, position: str, held: int | None) -> None:
    past = shown_json(env, "chat-1", "--at", point)
    assert (past["position"], past["row"]["last_event_id"]) == (position, position)
    assert (past["row"]["wdk_strategy_id"], past["row"]["is_saved"]) == (held, held is not None)


@pytest.mark.usefixtures("conversation")
def test_a_row_of_the_past_is_printed_and_one_that_was_not_yet_is_told(env: dict[str, str]) -> None:
    text = shown(env, "chat-1", "--at", "1767348000000-0")
    assert text.startswith(
        "at          1767348000000-0: position 1767348000000-0 (2026-01-02 10:00:00.000Z)\n\n"
    )
    assert lines(text)["name"] == '"Kinases"'
    assert shown(env, "chat-1", "--at", "2026-01-01") == "at          1767225600000: there was no row yet\n"
    assert shown_json(env, "chat-1", "--at", "start")["row"] is None


@pytest.mark.usefixtures("conversation")
def test_what_changed_between_two_points_is_told_by_paths(env: dict[str, str]) -> None:
    text = shown(env, "chat-1", "--diff", "1767348001000", "now")
    cells = [line.split("\t") for line in text.splitlines()]
    assert [row[0] for row in cells] == [
        "message_count",
        "step_count",
        "plan.root",
        "wdk_strategy_id",
        "is_saved",
    ]
    assert cells[0] == ["message_count", "0", "1"]
    assert cells[2][1] == "(absent)"
    told = shown_json(env, "chat-1", "--diff", "start", "1767348001000", "--column", "name")
    assert told["changes"] == [
        {"column": "name", "path": [], "before": "New Conversation", "after": "Kinases"}
    ]
    assert (told["from"]["position"], told["to"]["position"]) == (None, "1767348001000-0")
    nothing = call("show", "chat-1", "--diff", "now", "now", env=env)
    assert (nothing.returncode, nothing.stdout, nothing.stderr) == (0, "", "Nothing differs.\n")


@pytest.mark.usefixtures("conversation")
def test_a_history_is_a_line_for_each_change_in_a_pipe(env: dict[str, str]) -> None:
    cells = [line.split("\t") for line in shown(env, "chat-1", "--history").splitlines()]
    assert cells[:5] == [
        ["1767348000000-0", "2026-01-02 10:00:00.000Z", "strategy_meta", "chat-1", "name",
         '"New Conversation"', '"Kinases"'],
        ["1767348001000-0", "2026-01-02 10:00:01.000Z", "strategy_link", "chat-1", "wdk_strategy_id",
         "null", "7"],
        ["1767348001000-0", "2026-01-02 10:00:01.000Z", "strategy_link", "chat-1", "is_saved",
         "false", "true"],
        ["1767348002000-0", "2026-01-02 10:00:02.000Z", "", "chat-2", "wdk_strategy_id", "7", "null"],
        ["1767348002000-0", "2026-01-02 10:00:02.000Z", "", "chat-2", "is_saved", "true", "false"],
    ]  # fmt: skip
    assert [row[4] for row in cells[5:]] == ["message_count", "step_count", "plan.root"]


@pytest.mark.usefixtures("conversation")
def test_a_history_is_an_object_a_line_as_json(env: dict[str, str]) -> None:
    entries = [json.loads(line) for line in shown(env, "chat-1", "--history", "--json").splitlines()]
    assert [entry["type"] for entry in entries] == [
        "strategy_meta", "strategy_link", None, "user_message", "graph_plan"
    ]  # fmt: skip
    assert entries[4]["changes"][1] == {"column": "plan", "path": ["root"], "after": PLAN["root"]}
    some = shown(env, "chat-1", "--history", "--json", "--column", "is_saved", "--column", "name")
    assert [json.loads(line)["type"] for line in some.splitlines()] == [
        "strategy_meta",
        "strategy_link",
        None,
    ]
    first = shown(env, "chat-1", "--history", "--json", "--first", "2").splitlines()
    last = shown(env, "chat-1", "--history", "--json", "--last", "2").splitlines()
    assert [json.loads(line) for line in first] == entries[:2]
    assert [json.loads(line) for line in last] == entries[-2:]


@pytest.mark.usefixtures("conversation")
def test_on_a_terminal_changes_stand_under_their_event(env: dict[str, str]) -> None:
    env = {**env, "FORCE_COLOR": "1"}
    text = shown(env, "chat-1", "--history")
    assert (
        "1767348002000-0 (2026-01-02 10:00:02.000Z)  taken by stream 'chat-2'\n"
        "  wdk_strategy_id: 7 -> null\n  is_saved: true -> false\n"
    ) in text
    text = shown(env, "chat-1", "--diff", "start", "1767348000000")
    assert text == (
        "from        start: there was no row yet\n"
        "to          1767348000000: position 1767348000000-0 (2026-01-02 10:00:00.000Z)\n"
        '  name: "New Conversation" -> "Kinases"\n'
    )


@pytest.mark.usefixtures("conversation")
def test_a_reader_of_the_pipe_may_go_away(env: dict[str, str]) -> None:
    do(env, lambda replica: replica.append_many("long", *["user_message"] * 5_000))
    command = f"{sys.executable} -m worker show long --history | head -n 1"
    piped = subprocess.run(
        ["/bin/sh", "-c", command],
        env=env,
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=True,
    )
    assert piped.stdout.startswith("1-0\t")
    assert piped.stderr == ""


@pytest.mark.usefixtures("conversation")
def test_a_past_that_is_gone_is_refused_unless_the_loss_is_accepted(env: dict[str, str]) -> None:
    do(env, lambda r: r.admin.xtrim(r.keys.log("chat-1"), minid="1767348003000-0", approximate=False))
    for options in (("--at", "now"), ("--diff", "start", "now")):
        refused = call_here("show", "chat-1", *options, env=env)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "was trimmed: it begins with 1767348003000-0" in refused.stderr
        assert "--accept-loss" in refused.stderr
        assert len(refused.stderr.splitlines()) == 1
        accepted = call_here("show", "chat-1", *options, "--accept-loss", "--json", env=env)
        assert accepted.returncode == 0
        assert json.loads(accepted.stdout)["loss"]["log_starts_at"] == "1767348003000-0"
        assert "may be wrong" in accepted.stderr
    told = call_here("show", "chat-1", "--history", env=env)
    assert told.returncode == 0
    assert told.stdout.startswith("1767348003000-0\t")
    assert "was trimmed: it begins with 1767348003000-0" in told.stderr
    assert "was trimmed" in shown(env, "chat-1")


def test_a_stream_that_stops_at_an_event_says_so_in_the_past_too(env: dict[str, str]) -> None:
    env = {**env, "WORKER_PROJECTIONS": "tests.acceptance.tallying"}

    async def tally(replica: Replica) -> None:
        await create_tallies(replica.engine)
        await replica.append("chat", "add", {"n": 1}, at="1-0")
        await replica.append("chat", "fail", {}, at="2-0")

    do(env, tally)
    text = shown(env, "chat", "--at", "now")
    assert "stopped     before event 2-0, whose handler raises ZeroDivisionError" in text
    assert shown_json(env, "chat", "--at", "now")["stopped_before"] == "2-0"
    assert shown(env, "chat", "--history").splitlines()[-1].split("\t")[4:] == [
        "stopped",
        "",
        "ZeroDivisionError",
    ]


def test_of_several_projections_one_must_be_named(env: dict[str, str]) -> None:
    env = {**env, "WORKER_PROJECTIONS": "tests.acceptance.two_projections"}
    do(env, lambda replica: replica.append("chat", "user_message"))
    refused = call_here("show", "chat", env=env)
    assert refused.returncode == 2
    assert "strategies or tallies" in " ".join(refused.stderr.replace("│", " ").split())
    assert shown_json(env, "chat", "--projection", "strategies")["projection"] == "strategies"
    unknown = call_here("show", "chat", "--projection", "others", env=env)
    assert unknown.returncode == 2
    assert "strategies or tallies" in " ".join(unknown.stderr.replace("│", " ").split())


@pytest.mark.parametrize(
    ("terminal", "encoding"), [(True, "ascii"), (False, "utf-8")], ids=["terminal", "pipe"]
)
def test_nothing_of_a_row_reaches_the_terminal_raw(
    env: dict[str, str], terminal: bool, encoding: str
) -> None:
    async def write(replica: Replica) -> None:
        await replica.append(HOSTILE, "strategy_meta", {"name": HOSTILE})
        await replica.append(HOSTILE, "graph_plan", {"plan": {HOSTILE: HOSTILE}})
        await replica.append(HOSTILE, "model_selected", {"modelId": "\x9b31m"})
        await replica.project(HOSTILE)

    do(env, write)
    env = {**env, "PYTHONIOENCODING": encoding} | ({"FORCE_COLOR": "1"} if terminal else {})
    for options in (("--full",), ("--diff", "start", "now"), ("--history",)):
        text = shown(env, HOSTILE, *options)
        assert text.replace("\n", "").replace("\t", "").isprintable()
        assert text.isascii() == (encoding == "ascii")
        assert "owned" in text


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("chat", "--at", "yesterday"),
        ("chat", "--at", "now", "--history"),
        ("chat", "--diff", "now"),
        ("chat", "--last", "5"),
        ("chat", "--history", "--first", "5", "--last", "5"),
        ("chat", "--at", "now", "--column", "name"),
        ("chat", "--history", "--column", "nmae"),
        (os.fsdecode(b"\xff"),),
    ],
    ids=[
        "no stream", "no point", "two ways", "one point", "no history", "both ends", "no changes",
        "no column", "not UTF-8",
    ],
)  # fmt: skip
def test_what_is_not_clear_is_refused(env: dict[str, str], arguments: tuple[str, ...]) -> None:
    refused = call_here("show", *arguments, env=env)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "Traceback" not in refused.stderr
