"""Messages, and what they show of their turn."""

from __future__ import annotations

from typing import Any

import pytest

from projections.messages import TRANSCRIPT_TYPES, Transcript
from tests.unit.said import (
    ACTIVITY,
    AT,
    END,
    REPLY,
    START,
    Said,
    call,
    call_end,
    call_start,
    reply_after,
    task,
    transcript_of,
)


def test_a_user_message_has_content_id_and_time() -> None:
    said = ("user_message", {"content": "Which kinases?", "messageId": "m1", "other": 1})
    assert transcript_of(said) == [
        {"role": "user", "content": "Which kinases?", "messageId": "m1", "timestamp": AT}
    ]


@pytest.mark.parametrize("role", ["user", "assistant"])
def test_a_message_has_defaults(role: str) -> None:
    expected = {"role": role, "content": "", "messageId": None, "timestamp": AT}
    assert transcript_of((f"{role}_message", {})) == [expected]


@pytest.mark.parametrize(
    ("ms", "timestamp"),
    [
        (0, "1970-01-01T00:00:00+00:00"),
        (1_700_000_000_123, "2023-11-14T22:13:20.123000+00:00"),
        (253_402_300_799_999, "9999-12-31T23:59:59.999000+00:00"),
        (253_402_300_800_000, None),
        (2**64 - 1, None),
    ],
)
def test_the_timestamp_is_the_time_of_the_event_id(ms: int, timestamp: str | None) -> None:
    transcript = Transcript()
    transcript.apply(f"{ms}-0", "user_message", {})
    assert transcript.messages[0]["timestamp"] == timestamp


def test_messages_keep_their_order() -> None:
    said = [("user_message", {"content": "1"}), REPLY, ("user_message", {"content": "3"})]
    assert [message["content"] for message in transcript_of(*said)] == ["1", "Found 12 genes.", "3"]


def test_a_user_message_shows_nothing_of_the_turn() -> None:
    gathered = (call_start(), ("model_selected", {"modelId": "m"}), ("user_message", {"reasoning": "x"}))
    assert transcript_of(*gathered)[0].keys() == {"role", "content", "messageId", "timestamp"}


def test_other_types_change_nothing() -> None:
    others = ("assistant_delta", "error", "graph_snapshot", "strategy_link", "", "subkani_task")
    data = {
        "id": "c1",
        "task": "explore",
        "modelId": "m",
        "citations": [1],
        "reasoning": "x",
        "totalTokens": 9,
    }
    transcript = Transcript()
    for event_type in others:
        assert event_type not in TRANSCRIPT_TYPES
        transcript.apply("1-0", event_type, data)
    assert (transcript.messages, transcript.turn) == ([], Transcript().turn)


# What an assistant message shows of its turn.


def test_a_message_shows_only_what_the_turn_has_gathered() -> None:
    assert reply_after() == {}


def test_a_message_shows_all_that_the_turn_has_gathered() -> None:
    assert reply_after(
        START,
        ("model_selected", {"modelId": "gpt"}),
        call_start(),
        ("citations", {"citations": [{"doi": "1"}]}),
        ("planning_artifact", {"planningArtifact": {"id": "p"}}),
        ("reasoning", {"reasoning": "because"}),
        task("task_start"),
    ) == {
        "modelId": "gpt",
        "toolCalls": [call()],
        "citations": [{"doi": "1"}],
        "planningArtifacts": [{"id": "p"}],
        "reasoning": "because",
        ACTIVITY: {"calls": {"explore": []}, "status": {"explore": "running"}},
    }


@pytest.mark.parametrize("boundary", [START, END])
def test_a_boundary_empties_the_turn(boundary: Said) -> None:
    gathered = (
        ("model_selected", {"modelId": "gpt"}),
        call_start(),
        ("citations", {"citations": [1]}),
        ("planning_artifact", {"planningArtifact": {"id": "p"}}),
        ("reasoning", {"reasoning": "because"}),
        task("task_start"),
    )
    assert reply_after(*gathered, boundary) == {}


def test_writing_a_message_does_not_empty_the_turn() -> None:
    first, second = transcript_of(call_start(), ("reasoning", {"reasoning": "because"}), REPLY, REPLY)
    assert first == second


def test_what_is_gathered_later_does_not_reach_a_message_that_is_written() -> None:
    first, second = transcript_of(
        call_start("c1"),
        ("citations", {"citations": [1]}),
        task("task_start"),
        task("tool_call_start", id="s1"),
        REPLY,
        call_start("c2"),
        ("citations", {"citations": [2]}),
        ("planning_artifact", {"planningArtifact": {"id": "p"}}),
        task("tool_call_start", id="s2"),
        task("task_end"),
        REPLY,
    )
    assert [each["id"] for each in first["toolCalls"]] == ["c1"]
    assert first["citations"] == [1]
    assert "planningArtifacts" not in first
    assert [each["id"] for each in first[ACTIVITY]["calls"]["explore"]] == ["s1"]
    assert first[ACTIVITY]["status"] == {"explore": "running"}
    assert [each["id"] for each in second["toolCalls"]] == ["c1", "c2"]
    assert second["citations"] == [1, 2]
    assert [each["id"] for each in second[ACTIVITY]["calls"]["explore"]] == ["s1", "s2"]


CARRIED = {
    "citations": [9],
    "planningArtifacts": [{"id": "q"}],
    "toolCalls": [call("c9")],
    "reasoning": "own",
}


def test_what_the_turn_did_not_gather_is_taken_from_the_payload() -> None:
    data = {"content": "x", **CARRIED, "modelId": "gpt", ACTIVITY: {}}
    assert transcript_of(("assistant_message", data))[0].keys() == {
        *("role", "content", "messageId", "timestamp"),
        *CARRIED,
    }


def test_what_the_turn_did_gather_is_not_taken_from_the_payload() -> None:
    message = transcript_of(
        call_start(), ("reasoning", {"reasoning": "because"}), ("assistant_message", CARRIED)
    )[0]
    assert message["toolCalls"] == [call()]
    assert message["reasoning"] == "because"
    assert message["citations"] == [9]


def test_the_payload_does_not_become_part_of_the_turn() -> None:
    assert reply_after(("assistant_message", CARRIED)) == {}


def test_results_do_not_reach_calls_of_the_payload() -> None:
    data = {"toolCalls": [call()]}
    assert transcript_of(("assistant_message", data), call_start(), call_end())[0]["toolCalls"] == [call()]


@pytest.mark.parametrize("model", [None, 5, "", ["gpt"]])
def test_only_text_is_a_model(model: Any) -> None:
    assert reply_after(("model_selected", {"modelId": model})) == {}


def test_the_last_model_wins() -> None:
    selected = [("model_selected", {"modelId": model}) for model in ("a", "b", None)]
    assert reply_after(*selected) == {"modelId": "b"}


def test_citations_are_appended_one_by_one() -> None:
    cited = [("citations", {"citations": value}) for value in ([1, 2], [], None, "x", {"y": 1}, [3])]
    assert reply_after(*cited) == {"citations": [1, 2, 3]}
    assert reply_after(("citations", {"citations": []}), ("citations", {})) == {}


def test_artifacts_that_are_not_empty_are_appended() -> None:
    values: list[Any] = [{"id": "p"}, {}, None, "", [], 0, False, "text", {"id": "q"}]
    events = [("planning_artifact", {"planningArtifact": value}) for value in values]
    assert reply_after(*events) == {"planningArtifacts": [{"id": "p"}, "text", {"id": "q"}]}


def test_the_last_reasoning_that_is_text_wins() -> None:
    events = [("reasoning", {"reasoning": value}) for value in ("first", "last", None, 5, ["x"])]
    assert reply_after(*events) == {"reasoning": "last"}
    assert reply_after(*events, ("reasoning", {"reasoning": ""})) == {}
