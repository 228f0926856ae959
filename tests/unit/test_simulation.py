"""Simulated conversations are repeatable, look like real ones and hold all that is projected."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from typing import Any

import pytest

from projections.messages import TRANSCRIPT_TYPES, Transcript
from projections.plan import build_plan, count_steps
from projections.simulation import SimulatedEvent, simulate_conversation

WDK_IDS = (101, 102, 103)
PROJECTED_TYPES = {
    "user_message",
    "assistant_message",
    "strategy_meta",
    "strategy_link",
    "graph_snapshot",
    "graph_plan",
    "model_selected",
    "graph_cleared",
}


def conversation(
    seed: int = 1, *, wdk_ids: Sequence[int] = WDK_IDS, turns: int = 300
) -> list[SimulatedEvent]:
    return list(simulate_conversation(random.Random(seed), wdk_ids, turns=turns))


def of_type(event_type: str, **chosen: Any) -> list[dict[str, Any]]:
    return [event.data for event in conversation(**chosen) if event.type == event_type]


def test_a_seed_gives_the_same_conversation_again() -> None:
    assert conversation(5, turns=20) == conversation(5, turns=20)
    assert conversation(5, turns=20) != conversation(6, turns=20)


def test_a_conversation_has_no_end_unless_one_is_asked_for() -> None:
    endless = simulate_conversation(random.Random(1), WDK_IDS)
    assert list(islice(endless, 1000)) == conversation()[:1000]


def test_only_known_types_and_all_that_are_projected_occur() -> None:
    types = {event.type for event in conversation()}
    assert types >= PROJECTED_TYPES
    assert types <= PROJECTED_TYPES | TRANSCRIPT_TYPES | {"assistant_delta"}


def test_every_payload_is_json() -> None:
    for event in conversation(turns=50):
        assert json.loads(json.dumps(event.data)) == event.data


def test_every_turn_has_what_a_turn_has() -> None:
    turns: dict[str, list[str]] = {}
    for event in conversation():
        turns.setdefault(event.operation_id, []).append(event.type)
    assert len(turns) == 300
    for types in turns.values():
        counts = Counter(types)
        assert (types[0], types[-1]) == ("message_start", "message_end")
        assert counts["user_message"] == counts["assistant_message"] == counts["graph_snapshot"] == 1
        assert counts["tool_call_start"] == counts["tool_call_end"] == 4
        assert 26 <= counts["assistant_delta"] <= 34


@pytest.mark.parametrize(
    ("event_type", "least", "most"),
    [
        ("strategy_link", 60, 120),
        ("strategy_meta", 25, 70),
        ("model_selected", 15, 50),
        ("graph_plan", 15, 50),
        ("graph_cleared", 5, 30),
        ("citations", 80, 160),
        ("reasoning", 110, 190),
        ("subkani_task_start", 45, 110),
    ],
)
def test_other_events_come_now_and_then(event_type: str, least: int, most: int) -> None:
    assert least <= len(of_type(event_type)) <= most


def test_the_deltas_are_the_answer() -> None:
    events = conversation(turns=1)
    (answer,) = (event.data["content"] for event in events if event.type == "assistant_message")
    assert "".join(event.data["delta"] for event in events if event.type == "assistant_delta") == answer


def test_answers_have_about_six_hundred_bytes() -> None:
    for data in of_type("assistant_message"):
        assert 450 <= len(data["content"].encode()) <= 750


def test_claims_are_drawn_from_the_shared_ids() -> None:
    links = of_type("strategy_link")
    assert {link["wdkStrategyId"] for link in links} == set(WDK_IDS)
    assert {link.get("isSaved") for link in links} == {True, False, None}
    assert of_type("strategy_link", wdk_ids=()) == []


def test_a_snapshot_is_a_graph_of_three_to_six_steps_with_a_plan() -> None:
    sizes = set()
    for data in of_type("graph_snapshot"):
        plan = build_plan(data["graphSnapshot"])
        assert plan is not None
        assert count_steps(plan) == len(data["graphSnapshot"]["steps"])
        sizes.add(count_steps(plan))
    assert sizes == {3, 4, 5, 6}


def test_the_transcript_of_a_conversation_is_complete() -> None:
    transcript = Transcript()
    for number, event in enumerate(conversation(turns=30)):
        transcript.apply(f"1-{number}", event.type, event.data)
    assert [message["role"] for message in transcript.messages] == ["user", "assistant"] * 30
    for message in transcript.messages:
        assert message["tokenUsage"]["totalTokens"] > 0
    for message in transcript.messages[1::2]:
        assert ["result" in call for call in message["toolCalls"]] == [True] * 4
