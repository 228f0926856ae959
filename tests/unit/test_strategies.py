"""The strategies read model: what each type of event does to the row of its conversation."""

from __future__ import annotations

from typing import Any

import pytest

from projections import strategies
from projections.claim_facts import Claimed, Cleared, Saved
from tests.unit.graphs import snapshot, step
from tests.unit.rows import (
    NOT_AN_OBJECT,
    NOT_TEXT,
    NOT_TEXT_OR_EMPTY,
    Said,
    change,
    facts_after,
    folded,
    row_after,
)
from worker import EventId

LINK = "strategy_link"


def test_a_new_row_has_the_defaults() -> None:
    assert row_after() == {
        "name": "New Conversation",
        "record_type": None,
        "model_id": None,
        "message_count": 0,
        "step_count": 0,
        "plan": {},
        "steps": [],
        "root_step_id": None,
    }


def test_eight_types_are_projected_and_four_are_checkpoints() -> None:
    assert strategies.types == {
        *("user_message", "assistant_message", "strategy_meta", "strategy_link"),
        *("graph_snapshot", "graph_plan", "model_selected", "graph_cleared"),
    }
    assert strategies.checkpoints == {"strategy_link", "graph_snapshot", "graph_plan", "model_selected"}


# Messages, names, models.


def test_messages_of_both_sides_are_counted() -> None:
    messages: list[Said] = [
        ("user_message", {"content": "hi"}),
        ("assistant_message", {}),
        ("user_message", {}),
    ]
    assert change(*messages) == {"message_count": 3}


@pytest.mark.parametrize("event_type", ["strategy_meta", "graph_plan"])
def test_name_and_record_type_are_set(event_type: str) -> None:
    data = {"name": "Kinases", "recordType": "gene"}
    assert change((event_type, data)) == {"name": "Kinases", "record_type": "gene"}


@pytest.mark.parametrize("event_type", ["strategy_meta", "graph_plan"])
@pytest.mark.parametrize("wrong", NOT_TEXT_OR_EMPTY)
def test_of_name_and_record_type_each_is_ignored_for_itself(event_type: str, wrong: Any) -> None:
    assert change((event_type, {"name": wrong, "recordType": "gene"})) == {"record_type": "gene"}
    assert change((event_type, {"name": "Kinases", "recordType": wrong})) == {"name": "Kinases"}


def test_the_model_is_set_even_to_nothing() -> None:
    selected = ("model_selected", {"modelId": "gpt"})
    assert change(selected) == {"model_id": "gpt"}
    assert change(selected, ("model_selected", {"modelId": ""})) == {"model_id": ""}


@pytest.mark.parametrize("wrong", NOT_TEXT)
def test_a_model_that_is_no_text_is_ignored(wrong: Any) -> None:
    assert change(("model_selected", {"modelId": wrong})) == {}


@pytest.mark.parametrize("event_type", sorted(strategies.types - {"user_message", "assistant_message"}))
def test_an_event_without_payload_still_moves_the_position(event_type: str) -> None:
    assert change((event_type, {})) == {}
    assert folded((event_type, {})).last == EventId(5, 0)


# Plans.


def test_a_plan_is_taken_as_it_is_and_its_steps_are_counted() -> None:
    plan = {"root": {"searchName": "A", "primaryInput": {"searchName": "B", "secondaryInput": {}}}, "x": 1}
    assert change(("graph_plan", {"plan": plan})) == {"plan": plan, "step_count": 2}


def test_a_plan_takes_the_place_of_the_one_before() -> None:
    first = {"root": {"searchName": "A"}}
    assert row_after(("graph_plan", {"plan": first}), ("graph_plan", {"plan": {}}))["step_count"] == 0


@pytest.mark.parametrize("wrong", NOT_AN_OBJECT)
def test_a_plan_that_is_no_object_is_ignored(wrong: Any) -> None:
    assert change(("graph_plan", {"plan": wrong, "name": "Kinases"})) == {"name": "Kinases"}


# Clearing.


def test_clearing_keeps_messages_model_and_record_type() -> None:
    before: list[Said] = [
        ("user_message", {}),
        ("model_selected", {"modelId": "gpt"}),
        ("graph_snapshot", {"graphSnapshot": snapshot(step(), name="Kinases", recordType="gene")}),
    ]
    assert change(*before, ("graph_cleared", {})) == {
        "message_count": 1,
        "model_id": "gpt",
        "record_type": "gene",
    }


def test_clearing_gives_up_the_claim() -> None:
    assert facts_after(("graph_cleared", {})) == (Cleared(EventId(5, 0)),)


# Claims.


def test_a_link_claims_and_saves() -> None:
    assert facts_after((LINK, {"wdkStrategyId": 7, "isSaved": True})) == (
        Claimed(EventId(5, 0), 7),
        Saved(EventId(5, 0), True),
    )
    assert facts_after((LINK, {"isSaved": False})) == (Saved(EventId(5, 0), False),)
    assert change((LINK, {"wdkStrategyId": 7, "isSaved": True})) == {}


@pytest.mark.parametrize("wrong", [None, "7", 7.0, True, False, [7], {}])
def test_a_strategy_id_that_is_no_integer_claims_nothing(wrong: Any) -> None:
    assert facts_after((LINK, {"wdkStrategyId": wrong, "isSaved": True})) == (Saved(EventId(5, 0), True),)


@pytest.mark.parametrize("wrong", [None, "true", 0, 1, 1.0, [], {}])
def test_a_saved_flag_that_is_no_boolean_saves_nothing(wrong: Any) -> None:
    assert facts_after((LINK, {"wdkStrategyId": 7, "isSaved": wrong})) == (Claimed(EventId(5, 0), 7),)


@pytest.mark.parametrize("wdk_strategy_id", [0, -1, 2**63 - 1, -(2**63)])
def test_every_bigint_can_be_claimed(wdk_strategy_id: int) -> None:
    assert facts_after((LINK, {"wdkStrategyId": wdk_strategy_id})) == (
        Claimed(EventId(5, 0), wdk_strategy_id),
    )


@pytest.mark.parametrize("wdk_strategy_id", [2**63, -(2**63) - 1, 10**30])
def test_no_other_integer_can_be_applied(wdk_strategy_id: int) -> None:
    fold = folded((LINK, {"wdkStrategyId": wdk_strategy_id, "isSaved": True}))
    assert (fold.facts, fold.changed, fold.last) == ((), frozenset(), EventId(5, 0))
    [rejection] = fold.rejections
    assert "bigint" in rejection.reason
