"""Which messages get the token usage that the end of a turn tells."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.said import END, REPLY, Said, transcript_of

NO_TOKENS = {
    "promptTokens": 0,
    "completionTokens": 0,
    "totalTokens": 0,
    "cachedTokens": 0,
    "toolCallCount": 0,
    "registeredToolCount": 0,
    "llmCallCount": 0,
    "subKaniPromptTokens": 0,
    "subKaniCompletionTokens": 0,
    "subKaniCallCount": 0,
    "estimatedCostUsd": 0,
    "modelId": "",
}
QUESTION: Said = ("user_message", {"content": "?"})


def ends(total: Any, **fields: Any) -> Said:
    return "message_end", {"totalTokens": total, **fields}


def totals(*events: Said) -> list[tuple[str, int | None]]:
    return [
        (message["role"], message.get("tokenUsage", {}).get("totalTokens"))
        for message in transcript_of(*events)
    ]


def test_token_usage_has_all_counts() -> None:
    counts = {**{field: n for n, field in enumerate(NO_TOKENS, start=1)}, "modelId": "gpt"}
    question, reply = transcript_of(QUESTION, REPLY, ("message_end", {**counts, "other": 1}))
    assert question["tokenUsage"] == reply["tokenUsage"] == counts
    (reply,) = transcript_of(REPLY, ends(7))
    assert reply["tokenUsage"] == {**NO_TOKENS, "totalTokens": 7}


def test_token_usage_goes_to_the_last_message_of_each_role_that_has_none_yet() -> None:
    assert totals(QUESTION, QUESTION, REPLY, QUESTION, ends(1)) == [
        ("user", None),
        ("user", None),
        ("assistant", 1),
        ("user", 1),
    ]
    assert totals(QUESTION, QUESTION, REPLY, ends(1), ends(2)) == [
        ("user", 2),
        ("user", 1),
        ("assistant", 1),
    ]
    assert totals(QUESTION, REPLY, ends(1), QUESTION, REPLY, ends(2), ends(3)) == [
        ("user", 1),
        ("assistant", 1),
        ("user", 2),
        ("assistant", 2),
    ]


@pytest.mark.parametrize("total", [0, -1, True, 7.0, "7", None, [7]])
def test_only_an_integer_above_zero_is_a_total(total: Any) -> None:
    assert totals(QUESTION, REPLY, ends(total), END) == [("user", None), ("assistant", None)]


def test_the_end_of_a_turn_without_messages_adds_tokens_to_nothing() -> None:
    assert transcript_of(ends(5)) == []
