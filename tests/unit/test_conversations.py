"""The generators themselves: what they make is valid, repeatable and varied, and can all be read."""

import random
from collections import Counter

from hypothesis import given

from tests.conversations import (
    CLAIM_TYPES,
    ConversationEvent,
    Universe,
    conversation_events,
    log_of,
    random_universe,
    universes,
)
from tests.reference.model import as_stored, single_reader
from tests.reference.transcript import messages
from tests.reference.wire import numerically

OWN_COLUMNS = (
    "name",
    "record_type",
    "model_id",
    "message_count",
    "plan",
    "steps",
    "last_event_id",
    "updated_at",
)


@given(universes())
def test_event_ids_increase_within_each_stream(universe: Universe) -> None:
    for log in universe.values():
        ids = [numerically(event_id) for event_id, _ in log]
        assert ids == sorted(set(ids))
        assert all((0, 0) < event_id < (2**64, 0) and event_id[1] < 2**64 for event_id in ids)


@given(universes())
def test_streams_meet_only_in_their_claims(universe: Universe) -> None:
    together = single_reader(universe)
    for stream_id, log in universe.items():
        alone = single_reader({stream_id: log}).get(stream_id, {})
        row = together.get(stream_id, {})
        assert {name: row.get(name) for name in OWN_COLUMNS} == {
            name: alone.get(name) for name in OWN_COLUMNS
        }


@given(universes(CLAIM_TYPES))
def test_no_two_rows_hold_one_id_however_the_logs_are_listed(universe: Universe) -> None:
    rows = single_reader(universe)
    held = Counter(row["wdk_strategy_id"] for row in rows.values() if row["wdk_strategy_id"] is not None)
    assert set(held.values()) <= {1}
    assert single_reader(dict(reversed(universe.items()))) == rows


@given(conversation_events())
def test_a_transcript_is_a_dialogue(conversation: list[ConversationEvent]) -> None:
    log = log_of(conversation)
    assert {message["role"] for message in messages(log)} <= {"user", "assistant"}


def test_a_seed_says_it_all() -> None:
    assert random_universe(random.Random(7), 20, 50) == random_universe(random.Random(7), 20, 50)


def test_random_universes_reach_every_column() -> None:
    seen: Counter[str] = Counter()
    for seed in range(40):
        rows = single_reader(random_universe(random.Random(seed), streams=4, events=50))
        for row in rows.values():
            seen.update(name for name, value in row.items() if value not in (None, 0, [], {}))
            assert as_stored(as_stored(row["steps"])) == as_stored(row["steps"])
    assert set(seen) == {*single_reader({"s": log_of([("user_message", {})])})["s"]}
