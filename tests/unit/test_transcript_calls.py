"""Tool calls in transcripts: the assistant's, and those of its sub-agents."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.said import (
    ACTIVITY,
    REPLY,
    START,
    Payload,
    call,
    call_end,
    call_start,
    reply_after,
    task,
    transcript_of,
)

# The assistant's.


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ({"a": 1}, {"a": 1}),
        ('{"a": {"b": [1]}}', {"a": {"b": [1]}}),
        ('{"big": 123456789012345678901234567890}', {"big": 123456789012345678901234567890}),
        *((junk, {}) for junk in ("", "[]", "null", "7", '"{}"', '{"a"', "[" * 100_000, "9" * 5000)),
        *((junk, {}) for junk in (None, [], ["a"], 5, True)),
    ],
)
def test_arguments_are_an_object(arguments: Any, shown: Payload) -> None:
    assert reply_after(call_start(arguments=arguments)) == {"toolCalls": [call(arguments=shown)]}


def test_a_call_has_defaults() -> None:
    assert reply_after(("tool_call_start", {})) == {"toolCalls": [{"id": "", "name": "", "arguments": {}}]}


def test_a_call_without_an_id_ends_with_an_end_without_an_id() -> None:
    ended = reply_after(("tool_call_start", {}), ("tool_call_end", {"result": 1}))
    assert ended["toolCalls"][0]["result"] == 1


def test_a_result_goes_into_the_first_call_of_its_id() -> None:
    calls = reply_after(call_start("c1"), call_start("c2"), call_start("c2"), call_end("c2", result={"n": 1}))
    assert calls["toolCalls"] == [call("c1"), call("c2", result={"n": 1}), call("c2")]


def test_a_later_result_replaces_an_earlier_one() -> None:
    calls = reply_after(call_start(), call_end(result=1), call_start(), call_end(result=2))
    assert calls["toolCalls"] == [call(result=2), call()]


def test_a_call_that_ended_without_a_result_has_the_result_null() -> None:
    assert reply_after(call_start(), ("tool_call_end", {"id": "c1"}))["toolCalls"] == [call(result=None)]


def test_an_end_without_its_call_is_passed_over() -> None:
    assert reply_after(call_end(), call_start())["toolCalls"] == [call()]
    assert reply_after(call_start(), START, call_end()) == {}


def test_ids_of_different_types_are_different() -> None:
    calls = reply_after(*map(call_start, ("5", 5, ["5"])), call_end(5))["toolCalls"]  # type: ignore[arg-type]
    assert ["result" in each for each in calls] == [False, True, False]


def test_a_result_reaches_messages_that_are_written() -> None:
    first, second, third = transcript_of(
        call_start("c1"), REPLY, call_start("c2"), REPLY, call_end("c1"), call_end("c2"), REPLY
    )
    assert first["toolCalls"] == [call("c1", result="found")]
    assert second == third
    assert third["toolCalls"] == [call("c1", result="found"), call("c2", result="found")]


def test_a_result_does_not_reach_messages_of_earlier_turns() -> None:
    assert transcript_of(call_start(), REPLY, START, call_start(), call_end())[0]["toolCalls"] == [call()]


# Sub-agents'.


def test_a_task_starts_running_with_no_calls() -> None:
    activity = reply_after(task("task_start"))[ACTIVITY]
    assert activity == {"calls": {"explore": []}, "status": {"explore": "running"}}


def test_a_task_that_starts_again_keeps_its_calls_and_runs() -> None:
    again = (task("task_start"), task("tool_call_start", id="s"), task("task_end"), task("task_start"))
    activity = reply_after(*again)[ACTIVITY]
    assert [each["id"] for each in activity["calls"]["explore"]] == ["s"]
    assert activity["status"] == {"explore": "running"}


def test_a_tasks_calls_are_like_the_turns() -> None:
    written, later = transcript_of(
        task("task_start"),
        task("tool_call_start", id="s", name="search", arguments='{"q": "kinase"}'),
        task("tool_call_start", "other", id="s"),
        REPLY,
        task("tool_call_end", id="s", result=12),
        task("tool_call_end", "nobody", id="s", result=13),
        call_end("s"),
        REPLY,
    )
    assert written == later
    assert written[ACTIVITY] == {
        "calls": {
            "explore": [{"id": "s", "name": "search", "arguments": {"q": "kinase"}, "result": 12}],
            "other": [{"id": "s", "name": "", "arguments": {}}],
        },
        "status": {"explore": "running"},
    }


@pytest.mark.parametrize(("fields", "status"), [({}, "done"), ({"status": "failed"}, "failed")])
def test_a_task_ends_with_its_own_status_or_done(fields: Payload, status: str) -> None:
    assert reply_after(task("task_start"), task("task_end", **fields))[ACTIVITY]["status"] == {
        "explore": status
    }


def test_a_task_may_end_without_having_started() -> None:
    assert reply_after(task("task_end"))[ACTIVITY] == {"calls": {}, "status": {"explore": "done"}}


def test_tasks_note_the_last_model_that_is_not_empty() -> None:
    activity = reply_after(
        task("task_start", modelId="small"),
        task("task_end", modelId=""),
        task("task_start", "b", modelId=5),
        task("task_end", "b", modelId="large"),
        task("task_start", "c"),
    )[ACTIVITY]
    assert activity["models"] == {"explore": "small", "b": "large"}


@pytest.mark.parametrize("prompt_tokens", [0, 5])
def test_a_task_that_ends_with_prompt_tokens_has_token_usage(prompt_tokens: int) -> None:
    ended = task("task_end", promptTokens=prompt_tokens, estimatedCostUsd=0.25)
    assert reply_after(ended)[ACTIVITY]["tokenUsage"] == {
        "explore": {
            "promptTokens": prompt_tokens,
            "completionTokens": 0,
            "llmCallCount": 0,
            "estimatedCostUsd": 0.25,
        }
    }


@pytest.mark.parametrize("fields", [{}, {"promptTokens": None}, {"completionTokens": 5}])
def test_a_task_that_ends_without_prompt_tokens_has_no_token_usage(fields: Payload) -> None:
    assert "tokenUsage" not in reply_after(task("task_end", **fields))[ACTIVITY]


@pytest.mark.parametrize("name", ["", None, 5, ["explore"]])
@pytest.mark.parametrize("kind", ["task_start", "task_end", "tool_call_start", "tool_call_end"])
def test_events_with_an_empty_task_are_ignored(kind: str, name: Any) -> None:
    assert reply_after(task(kind, name)) == {}
    assert reply_after((f"subkani_{kind}", {})) == {}
