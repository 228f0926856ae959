"""Claims as a single reader settles them, who applies all events of all logs in order."""

from __future__ import annotations

from itertools import permutations
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from projections.claim_facts import Claimed, Cleared, Fact, Saved
from projections.claims import Claims
from worker import EventId

Held = tuple[int | None, bool]
NOTHING: Held = (None, False)


def claim(at: int, wdk_strategy_id: int = 7, seq: int = 0) -> Claimed:
    return Claimed(EventId(at, seq), wdk_strategy_id)


def saved(at: int, is_saved: bool = True) -> Saved:
    return Saved(EventId(at, 0), is_saved)


def cleared(at: int) -> Cleared:
    return Cleared(EventId(at, 0))


def settle(**facts: list[Fact]) -> dict[str, Held]:
    """What each stream shows in the end: the strategy it holds, and whether it is saved."""
    shown = Claims().settle(facts)
    return {stream: (row["wdk_strategy_id"], row["is_saved"]) for stream, row in shown.items()}


def test_three_streams_in_turn_take_a_strategy_from_each_other() -> None:
    facts: dict[str, list[Fact]] = {"A": [claim(10), saved(15)], "B": [claim(12)], "C": [claim(30)]}
    for order in permutations(facts):
        shown = settle(**{stream: facts[stream] for stream in order})
        assert shown == {"A": (None, True), "B": NOTHING, "C": (7, False)}


def test_who_claims_holds() -> None:
    assert settle(A=[claim(1)], B=[claim(2, 8)]) == {"A": (7, False), "B": (8, False)}


def test_a_stream_without_facts_shows_nothing() -> None:
    assert settle(A=[]) == {"A": NOTHING}


def test_who_loses_a_strategy_is_not_saved_any_more() -> None:
    assert settle(A=[claim(1), saved(2)], B=[claim(3)]) == {"A": NOTHING, "B": (7, False)}


def test_what_was_saved_before_the_claim_is_lost_with_it() -> None:
    assert settle(A=[saved(1), claim(2)], B=[claim(3)])["A"] == NOTHING


def test_a_claim_that_was_lost_does_not_come_back() -> None:
    assert settle(A=[claim(1)], B=[claim(2), cleared(3)]) == {"A": NOTHING, "B": NOTHING}
    assert settle(A=[claim(1)], B=[claim(2), claim(3, 8)]) == {"A": NOTHING, "B": (8, False)}


def test_a_strategy_can_be_claimed_back() -> None:
    assert settle(A=[claim(1), claim(3)], B=[claim(2), saved(4)]) == {"A": (7, False), "B": (None, True)}


def test_a_claim_on_another_strategy_gives_up_the_first() -> None:
    assert settle(A=[claim(1), claim(2, 8), saved(4)], B=[claim(3)]) == {"A": (8, True), "B": (7, False)}


def test_who_claims_what_it_holds_keeps_what_was_saved() -> None:
    assert settle(A=[claim(1), saved(2), claim(3)]) == {"A": (7, True)}


def test_clearing_gives_up_strategy_and_flag() -> None:
    assert settle(A=[claim(1), saved(2), cleared(3)], B=[]) == {"A": NOTHING, "B": NOTHING}


def test_who_has_cleared_loses_nothing_to_a_later_claim() -> None:
    assert settle(A=[claim(1), cleared(2), saved(3)], B=[claim(4)]) == {"A": (None, True), "B": (7, False)}


def test_event_ids_are_compared_as_numbers() -> None:
    assert settle(A=[claim(5, seq=10)], B=[claim(5, seq=9)]) == {"A": (7, False), "B": NOTHING}
    assert settle(A=[claim(10)], B=[claim(9)]) == {"A": (7, False), "B": NOTHING}


def test_at_one_event_id_the_order_is_that_of_the_stream_ids_bytes() -> None:
    first, last = "\uff5e", "\U0001f600"  # UTF-16 would have it the other way round.
    both: dict[str, list[Fact]] = {last: [claim(1)], first: [claim(1)]}
    assert settle(**both) == {last: (7, False), first: NOTHING}
    assert settle(B=[claim(1)], a=[claim(1)]) == {"a": (7, False), "B": NOTHING}


def test_an_event_that_claims_and_saves_claims_first() -> None:
    assert settle(A=[claim(1)], B=[claim(2), saved(2)]) == {"A": NOTHING, "B": (7, True)}


facts = st.lists(
    st.tuples(st.sampled_from(["claim", "save", "clear"]), st.integers(1, 3), st.integers(0, 4)), max_size=6
)


@given(st.dictionaries(st.sampled_from("ABC"), facts, min_size=1))
def test_the_answer_is_the_same_in_whatever_order_streams_are_given(universe: dict[str, Any]) -> None:
    logs: dict[str, list[Fact]] = {stream: [_fact(*one) for one in log] for stream, log in universe.items()}
    for log in logs.values():
        log.sort(key=lambda fact: fact.event_id)
    answer = settle(**logs)
    assert all(settle(**{stream: logs[stream] for stream in order}) == answer for order in permutations(logs))
    held = [wdk for wdk, _ in answer.values() if wdk is not None]
    assert len(held) == len(set(held))


def _fact(kind: str, wdk_strategy_id: int, at: int) -> Fact:
    facts: dict[str, Fact] = {"claim": claim(at, wdk_strategy_id), "save": saved(at), "clear": cleared(at)}
    return facts[kind]
