"""What producers append: events without end, with the ids that they shall have."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence

from tests.conversations import (
    CLAIM_TYPES,
    LAST_OF_YEAR_9999,
    STEPS_OF_THE_CLOCK,
    ConversationEvent,
    make_event,
    universe,
)
from tests.payloads import PAYLOADS
from tests.payloads.choices import Rolled
from tests.reference.model import BIGINT, in_order
from worker import EventId

NumberedEvent = tuple[str, str, dict[bytes, bytes]]
"""Stream id, event id and fields."""

TODAY = (1_700_000_000_000, 0)
LONG_AGO = (5, 8)
YEAR_9999 = (LAST_OF_YEAR_9999 - 200 * 3_600_000, 0)  # Over within a minute: an hour passes ever so often.

_ALL_TYPES = tuple(PAYLOADS)
_AT_ONCE = 60
_STREAMS_AT_ONCE = 6
_STRATEGIES_AT_ONCE = 1_000


def lasting(stream_ids: list[str], first_id: tuple[int, int], rng: random.Random) -> Iterator[NumberedEvent]:
    """Events of the same streams for ever, in the order of their ids."""
    while True:
        events = _some(
            stream_ids, first_id, rng, [make_event(Rolled(rng), _ALL_TYPES) for _ in range(_AT_ONCE)]
        )
        yield from events
        first_id = EventId.parse(events[-1][1]).ms + 1, 0


def brief(rng: random.Random) -> Iterator[NumberedEvent]:
    """Events of ever new streams, in the order of their ids: a few at a time that claim from each other.

    Nobody claims their strategies later on, so that what once is wrong stays wrong.
    """
    first_id = TODAY
    for number in itertools.count(1):
        stream_ids = [f"brief-{number}-{letter}" for letter in "abcdefgh"[:_STREAMS_AT_ONCE]]
        made = (make_event(Rolled(rng), CLAIM_TYPES) for _ in range(_AT_ONCE))
        events = _some(
            stream_ids, first_id, rng, [_moved(event, number * _STRATEGIES_AT_ONCE) for event in made]
        )
        yield from events
        first_id = EventId.parse(events[-1][1]).ms + 1, 0


def sound_event(rng: random.Random) -> tuple[str, dict[str, object]]:
    """An event that `emit` takes."""
    while True:
        event_type, payload = make_event(Rolled(rng), _ALL_TYPES)
        if isinstance(event_type, str) and event_type and isinstance(payload, dict):
            return event_type, payload


def _some(
    stream_ids: list[str], first_id: tuple[int, int], rng: random.Random, events: Sequence[ConversationEvent]
) -> list[NumberedEvent]:
    moves = [(rng.randrange(len(stream_ids)), rng.choice(STEPS_OF_THE_CLOCK), event) for event in events]
    return in_order(universe(stream_ids, first_id, moves))


def _moved(event: ConversationEvent, by: int) -> ConversationEvent:
    """The same event about another WDK strategy."""
    event_type, payload = event
    claimed = payload.get("wdkStrategyId") if isinstance(payload, dict) else None
    if not isinstance(claimed, int) or isinstance(claimed, bool) or claimed + by not in BIGINT:
        return event
    return event_type, {**payload, "wdkStrategyId": claimed + by}
