"""The transcripts of the reference, held against the rules by examples written out by hand."""

from typing import Any

import pytest

from tests.conversations import ConversationEvent, RawData, log_of
from tests.reference.transcript import messages, thinking

START: ConversationEvent = ("message_start", {})
END: ConversationEvent = ("message_end", {})
ANSWER: ConversationEvent = ("assistant_message", {"content": "answer"})


def shortly(value: object) -> str:
    return repr(value)[:20]


def transcript(*events: ConversationEvent) -> list[dict[str, Any]]:
    return messages(log_of(events))


def metadata(*events: ConversationEvent) -> dict[str, Any]:
    """What the last message has beyond role, content, id and timestamp."""
    plain = {"role", "content", "messageId", "timestamp"}
    return {name: value for name, value in transcript(*events)[-1].items() if name not in plain}


def call(call_id: str, **more: Any) -> ConversationEvent:
    return "tool_call_start", {"id": call_id, "name": "search", "arguments": {}, **more}


def done(call_id: str, result: Any) -> ConversationEvent:
    return "tool_call_end", {"id": call_id, "result": result}


def test_messages_have_content_id_and_time() -> None:
    assert messages(
        log_of([("user_message", {"content": "hello", "messageId": "m1"}), ANSWER], first_ms=0)
    ) == [
        {"role": "user", "content": "hello", "messageId": "m1", "timestamp": "1970-01-01T00:00:00+00:00"},
        {
            "role": "assistant",
            "content": "answer",
            "messageId": None,
            "timestamp": "1970-01-01T00:00:00.001000+00:00",
        },
    ]
    assert transcript(("user_message", {}))[0]["content"] == ""


@pytest.mark.parametrize("data", [None, b"", b"[]", b"null", b"\xff", b"{", b"[" * 50_000], ids=shortly)
@pytest.mark.parametrize("event_type", ["user_message", "message_start", "message_end", "tool_call_start"])
def test_entries_without_an_object_are_passed_over(event_type: str, data: bytes | None) -> None:
    assert metadata(("model_selected", {"modelId": "m"}), (event_type, RawData(data)), ANSWER) == {
        "modelId": "m"
    }


def test_an_assistant_message_shows_what_its_turn_gathered() -> None:
    assert metadata(
        START,
        ("model_selected", {"modelId": "m"}),
        call("c1", arguments='{"query": "x"}'),
        done("c1", "found"),
        ("citations", {"citations": [1, 2]}),
        ("citations", {"citations": [3]}),
        ("citations", {"citations": "no list"}),
        ("planning_artifact", {"planningArtifact": {"id": "p"}}),
        ("planning_artifact", {"planningArtifact": {}}),
        ("reasoning", {"reasoning": "first"}),
        ("reasoning", {"reasoning": "last"}),
        ("reasoning", {"reasoning": None}),
        ANSWER,
    ) == {
        "modelId": "m",
        "toolCalls": [{"id": "c1", "name": "search", "arguments": {"query": "x"}, "result": "found"}],
        "citations": [1, 2, 3],
        "planningArtifacts": [{"id": "p"}],
        "reasoning": "last",
    }


@pytest.mark.parametrize("boundary", [START, END])
def test_boundaries_empty_the_turn(boundary: ConversationEvent) -> None:
    gathered = ("model_selected", {"modelId": "m"}), call("c1"), ("subkani_task_start", {"task": "t"})
    assert metadata(*gathered, boundary, ANSWER) == {}


def test_a_second_assistant_message_shows_the_same() -> None:
    first, second = transcript(call("c1"), ANSWER, ANSWER)
    assert first["toolCalls"] == second["toolCalls"] == [{"id": "c1", "name": "search", "arguments": {}}]


def test_a_result_reaches_a_message_already_written_and_a_later_call_does_not() -> None:
    (message,) = transcript(call("c1"), call("c1"), ANSWER, done("c1", "late"), call("c2"))
    plain = {"id": "c1", "name": "search", "arguments": {}}
    assert message["toolCalls"] == [plain | {"result": "late"}, plain]


def test_a_result_does_not_reach_a_call_of_an_earlier_turn() -> None:
    assert "result" not in transcript(call("c1"), ANSWER, END, done("c1", "too late"))[0]["toolCalls"][0]


def test_the_payload_fills_in_what_the_turn_did_not_gather() -> None:
    payload = {"citations": ["own"], "planningArtifacts": None, "reasoning": "own", "modelId": "no"}
    assert metadata(("citations", {"citations": ["gathered"]}), ("assistant_message", payload)) == {
        "citations": ["gathered"],
        "planningArtifacts": None,
        "reasoning": "own",
    }


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"a": 1}, {"a": 1}),
        ('{"a": 1}', {"a": 1}),
        ("[1]", {}),
        ("nonsense", {}),
        ("", {}),
        ("[" * 50_000, {}),
        ([1], {}),
        (None, {}),
    ],
    ids=shortly,
)
def test_tool_arguments_become_an_object(arguments: Any, expected: dict[str, Any]) -> None:
    assert metadata(call("c1", arguments=arguments), ANSWER)["toolCalls"][0]["arguments"] == expected


def test_ids_and_names_of_calls_default_to_empty_text() -> None:
    started = metadata(("tool_call_start", {}), ("tool_call_end", {"result": 1}), ANSWER)["toolCalls"]
    assert started == [{"id": "", "name": "", "arguments": {}, "result": 1}]


def test_sub_agents_have_calls_and_a_status() -> None:
    assert metadata(
        ("subkani_task_start", {"task": "t", "modelId": ""}), ("subkani_task_start", {}), ANSWER
    ) == {"subKaniActivity": {"calls": {"t": []}, "status": {"t": "running"}}}


def test_sub_agents_show_models_and_tokens_where_they_have_any() -> None:
    usage = {"promptTokens": 0, "estimatedCostUsd": 0.5}
    assert metadata(
        ("subkani_task_start", {"task": "t", "modelId": "first"}),
        ("subkani_tool_call_start", {"task": "t", "id": "c1", "name": "search"}),
        ("subkani_tool_call_end", {"task": "t", "id": "c1", "result": "found"}),
        ("subkani_tool_call_end", {"task": "other", "id": "c1", "result": "nowhere"}),
        ("subkani_task_end", {"task": "t", "modelId": "second", **usage}),
        ("subkani_task_end", {"task": "u", "status": "failed", "promptTokens": None}),
        ("subkani_task_end", {"task": "", "status": "ignored"}),
        ANSWER,
    )["subKaniActivity"] == {
        "calls": {"t": [{"id": "c1", "name": "search", "arguments": {}, "result": "found"}]},
        "status": {"t": "done", "u": "failed"},
        "models": {"t": "second"},
        "tokenUsage": {"t": {"completionTokens": 0, "llmCallCount": 0, **usage}},
    }


def test_tokens_go_to_the_last_messages_that_have_none_yet() -> None:
    ask: ConversationEvent = ("user_message", {})
    written = transcript(
        ask,
        ask,
        ANSWER,
        ("message_end", {"totalTokens": 3, "modelId": "m"}),
        ("message_end", {"totalTokens": 4}),
    )
    assert [message.get("tokenUsage", {}).get("totalTokens") for message in written] == [4, 3, 3]
    assert written[1]["tokenUsage"] == {
        "promptTokens": 0,
        "completionTokens": 0,
        "totalTokens": 3,
        "cachedTokens": 0,
        "toolCallCount": 0,
        "registeredToolCount": 0,
        "llmCallCount": 0,
        "subKaniPromptTokens": 0,
        "subKaniCompletionTokens": 0,
        "subKaniCallCount": 0,
        "estimatedCostUsd": 0,
        "modelId": "m",
    }
    assert written[2]["tokenUsage"] == written[1]["tokenUsage"]


@pytest.mark.parametrize("total", [0, -1, True, "3", 3.0, None])
def test_without_a_number_of_tokens_nothing_is_added(total: Any) -> None:
    assert "tokenUsage" not in transcript(("user_message", {}), ("message_end", {"totalTokens": total}))[0]


def test_thinking_shows_the_open_calls_of_the_last_turn() -> None:
    first, second = {"id": "c1", "name": "search"}, {"id": "c2", "extra": True}
    events: list[ConversationEvent] = [
        *(START, call("before"), START),
        *(("tool_call_start", first), ("tool_call_start", second), done("c1", "found")),
    ]
    assert thinking(log_of(events)) == {"toolCalls": [second]}
    assert thinking(log_of([*events, ANSWER])) == {"toolCalls": [second]}
    assert thinking(log_of([*events, END])) is None
    assert thinking(log_of([*events, START])) == {"toolCalls": []}
    assert thinking(log_of([call("c1")])) is None
