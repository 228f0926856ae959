"""`assert_replay_equals_live` in memory, the strategies for it, and what it finds out."""

from __future__ import annotations

import sys

import pytest
from hypothesis import find, given
from hypothesis import strategies as st

from tests.impure import boards
from tests.orders import PAYLOADS, SKUS, orders
from tests.tallies import tallies
from worker.errors import MissingExtraError
from worker.testing import assert_replay_equals_live, event, event_sequences, events
from worker.testing.memory import MemoryReplica, MemoryTable
from worker.testing.purity import fold_purely
from worker.testing.replay import StreamDraft, check_replayed


@given(event_sequences(orders(), PAYLOADS))
def test_orders_are_the_fold_of_their_logs_whatever_replicas_do(appended: list[StreamDraft]) -> None:
    assert_replay_equals_live(orders(), appended)


@given(event_sequences(orders(), PAYLOADS, malformed=True))
def test_payloads_that_do_not_fit_stop_or_pass_in_both(appended: list[StreamDraft]) -> None:
    assert_replay_equals_live(orders(), appended)


@pytest.mark.parametrize("event_type", ["clock", "global", "payload"])
def test_handlers_that_are_not_pure_are_found_out(event_type: str) -> None:
    with pytest.raises(AssertionError):
        assert_replay_equals_live(boards(), [event(event_type), event("pure")])


def test_a_handler_that_depends_on_its_batch_is_found_by_hypothesis() -> None:
    payloads = {"batch": st.fixed_dictionaries({"key": SKUS}), "pure": st.just({})}

    def breaks(appended: list[StreamDraft]) -> bool:
        try:
            assert_replay_equals_live(boards(), appended)
        except AssertionError:
            return True
        return False

    smallest = find(event_sequences(boards(), payloads), breaks)
    assert [one[1] for one in smallest] == ["batch", "batch"]


def test_what_was_done_to_a_stream_is_told() -> None:
    projection = tallies()
    log = events(event("add", n=1), event("add", n=2))
    table = MemoryTable(projection)
    MemoryReplica("replica 1", table).project("a", log, 1)
    with pytest.raises(AssertionError) as failed:
        check_replayed(projection, {"a": fold_purely(projection, log)}, table)
    assert "total: expected 3, found 1" in str(failed.value)
    assert "replica 1: events 1 to 1" in str(failed.value)


def test_a_replica_that_comes_too_late_writes_nothing() -> None:
    projection = tallies()
    log = events(*(event("add", n=n) for n in (1, 2, 3)))
    table = MemoryTable(projection)
    late, other = MemoryReplica("late", table), MemoryReplica("other", table)
    assert late.project("a", log, 1)
    assert other.project("a", log, 1)
    assert not late.project("a", log, 1)
    assert table.kept("a").columns(projection)["total"] == 3
    assert late.project("a", log, 9)
    assert table.kept("a").columns(projection)["total"] == 6


@given(event_sequences(orders(), PAYLOADS))
def test_payloads_fit_unless_others_are_asked_for(appended: list[StreamDraft]) -> None:
    assert not any(isinstance(payload, bytes) for _, _, payload in appended)


def test_malformed_payloads_come_on_request() -> None:
    def is_malformed(appended: list[StreamDraft]) -> bool:
        return any(isinstance(payload, bytes) for _, _, payload in appended)

    assert find(event_sequences(orders(), PAYLOADS, malformed=True), is_malformed)


def test_types_without_handler_are_refused() -> None:
    with pytest.raises(TypeError, match="Projection orders has no handler for paid"):
        event_sequences(orders(), {"paid": st.just({})})


def test_without_hypothesis_a_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'projection-worker\[testing\]'"):
        event_sequences(orders(), {})
