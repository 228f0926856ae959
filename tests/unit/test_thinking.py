"""What the assistant is doing now."""

from __future__ import annotations

from projections.messages import THINKING_TYPES
from tests.unit.said import END, REPLY, START, call, call_end, call_start, task, thinking_after


def test_nothing_happens_before_a_turn_starts() -> None:
    assert thinking_after() is None
    assert thinking_after(call_start()) is None


def test_nothing_happens_after_a_turn_has_ended() -> None:
    assert thinking_after(START, call_start(), END) is None
    assert thinking_after(START, END, call_start()) is None


def test_a_turn_that_has_started_is_thinking_also_without_calls() -> None:
    assert thinking_after(START) == {"toolCalls": []}
    assert thinking_after(START, call_start(), call_end()) == {"toolCalls": []}


def test_calls_that_have_not_ended_are_shown_with_their_whole_payload() -> None:
    running = [call_start("c2", arguments="{", more=1), call_start("c3")]
    assert thinking_after(START, call_start("c1"), running[0], call_end("c1"), running[1]) == {
        "toolCalls": [data for _, data in running]
    }


def test_only_calls_since_the_last_start_count() -> None:
    assert thinking_after(START, call_start("c1"), START, call_start("c2")) == {"toolCalls": [call("c2")]}


def test_an_end_does_not_end_a_call_that_starts_after_it() -> None:
    again = call_start(arguments={"again": True})
    assert thinking_after(START, call_start(), call_end(), again) == {"toolCalls": [again[1]]}


def test_calls_without_an_id_end_together() -> None:
    assert thinking_after(START, ("tool_call_start", {}), ("tool_call_start", {"id": ""}), call_end("")) == {
        "toolCalls": []
    }


def test_other_types_do_not_matter_to_thinking() -> None:
    assert "tool_call_start" in THINKING_TYPES
    assert thinking_after(START, call_start(), REPLY, task("tool_call_end", id="c1")) == {
        "toolCalls": [call()]
    }
