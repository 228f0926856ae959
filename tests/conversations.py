"""Generated conversations: single ones as (type, payload), and universes of several logs as Redis would hold
them.

`conversation_events` and `universes` are hypothesis strategies. `random_universe` makes the same things
from a seeded random number generator, for tests that run for long and need no shrinking.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from hypothesis import strategies as st

from tests.payloads import PAYLOADS
from tests.payloads.choices import Choices, Drawn, Rolled, make_object

T = TypeVar("T")

EventType: TypeAlias = str | bytes | None
"""Text as a rule; bytes that are not UTF-8, or None for an entry without a type."""


@dataclass(frozen=True, slots=True)
class RawData:
    """Data that goes into the log as it is; None leaves the field out."""

    data: bytes | None


ConversationEvent: TypeAlias = tuple[EventType, Any]
"""A type, and a payload: any JSON value, or RawData."""

Entry: TypeAlias = tuple[str, dict[bytes, bytes]]
Universe: TypeAlias = dict[str, list[Entry]]
"""The log of each stream, event ids strictly increasing within each."""

ALL_TYPES = tuple(PAYLOADS)
CLAIM_TYPES = ("strategy_link",) * 6 + ("graph_cleared", "user_message")
"""What moves claims, and little else: many collisions in few events."""

UNPROJECTABLE_TYPES: tuple[EventType, ...] = ("error", None, b"\xff", "", "USER_MESSAGE", "strategy_link ")

# U+FF5E is before U+1F600 in byte order, but after it in UTF-16; a locale would sort "B" between "a" and "é".
STREAM_IDS = ("a", "b", "B", "aa", "a-1", "é", "e\u0301", "\uff5e", "\U0001f600", "7", "10", "stream:a", "x ")

LAST_OF_YEAR_9999 = 253_402_300_799_999
FIRST_IDS = (
    *((1_700_000_000_000, 0), (5, 8)) * 4,
    *((9, 0), (0, 1), (5, 2**64 - 2), (LAST_OF_YEAR_9999 - 5, 0), (2**63, 0)),
)
STEPS_OF_THE_CLOCK = ("next", "same", "next", "same", "sequence", "sequence", "hour")

_A_BIT_OF_ALL = b'"name": "n", "modelId": "m", "wdkStrategyId": 1, "graphSnapshot": {"name": "g"}'


def _nested(levels: int) -> bytes:
    """A payload of so many levels, itself the first, with a good field for every type."""
    lists = levels - 2
    return b'{%s, "plan": {"deep": %s%s}}' % (_A_BIT_OF_ALL, b"[" * lists, b"]" * lists)


UNDECODABLE: tuple[bytes | None, ...] = (
    None,
    b"",
    b"nonsense",
    b'{"name": "cut',
    b'{"name": "two"} {}',
    b"[]",
    b'"text"',
    b"7",
    b"null",
    b"NaN",
    b'{"name": "\xff"}',
    b'{"name": "\xed\xa0\x80"}',
    b'\xef\xbb\xbf{"name": "marked"}',
    '{"name": "wide"}'.encode("utf-16"),
    b'{"name": "line\nbreak"}',
    _nested(501),
    _nested(20_000),
    b"[" * 20_000,
)

ODD_BUT_DECODABLE: tuple[bytes, ...] = (
    b"{}",
    b" {%s}\n" % _A_BIT_OF_ALL,
    b'{"name": "first", "name": "last", "wdkStrategyId": 1, "wdkStrategyId": 2}',
    b'{"plan": {"root": {"searchName": "S", "n": [1e400, -1e400, NaN, Infinity, 1E5, -0, 1.10]}}}',
    b'{"isSaved": NaN, "wdkStrategyId": 1e400, "plan": NaN, "modelId": "\\u0000\\ud800", "name": Infinity}',
    b'{"plan": {"\\u0000": {"\\udfff": 18446744073709551616}}, "name": "\\ud83e\\uddec"}',
    _nested(500),
)


def make_event(choices: Choices, types: Sequence[str]) -> ConversationEvent:
    """One event: mostly of one of the types with a payload for it, now and then broken in some way.

    The plainest event takes a single choice: hypothesis removes from a list only what takes few.
    """
    kind = choices.pick(("delta",) + ("sound",) * 24 + ("unprojectable", "undecodable", "odd", "foreign"))
    if kind == "delta":
        return "assistant_delta", {}
    event_type = choices.pick(types)
    match kind:
        case "unprojectable":
            return choices.pick(UNPROJECTABLE_TYPES), make_object(choices, PAYLOADS[event_type])
        case "undecodable":
            return event_type, RawData(choices.pick(UNDECODABLE))
        case "odd":
            return event_type, RawData(choices.pick(ODD_BUT_DECODABLE))
        case "foreign":
            return event_type, make_object(choices, PAYLOADS[choices.pick(ALL_TYPES)])
    return event_type, make_object(choices, PAYLOADS[event_type])


@st.composite
def conversation_event(draw: st.DrawFn, types: Sequence[str] = ALL_TYPES) -> ConversationEvent:
    """One event of a conversation."""
    return make_event(Drawn(draw), types)


def few_or_many(elements: st.SearchStrategy[T], max_size: int) -> st.SearchStrategy[list[T]]:
    """Lists of five or so, as hypothesis makes them if left alone, and as often far longer ones."""
    return st.lists(elements, max_size=max_size) | st.lists(
        elements, min_size=max_size // 2, max_size=max_size
    )


def conversation_events(
    types: Sequence[str] = ALL_TYPES, *, max_size: int = 30
) -> st.SearchStrategy[list[ConversationEvent]]:
    """The events of one conversation in order, as (type, payload)."""
    return few_or_many(conversation_event(types), max_size)


def universes(
    types: Sequence[str] = ALL_TYPES, *, streams: int = 5, max_size: int = 30
) -> st.SearchStrategy[Universe]:
    """The logs of two streams or more, their events merged in any way, often at equal event ids."""
    stream_ids = st.lists(st.sampled_from(STREAM_IDS), min_size=2, max_size=streams, unique=True)
    steps = st.sampled_from(STEPS_OF_THE_CLOCK)
    move = st.tuples(st.integers(0, streams - 1), steps, conversation_event(types))
    return st.builds(universe, stream_ids, st.sampled_from(FIRST_IDS), few_or_many(move, max_size))


def random_universe(
    rng: random.Random, streams: int = 3, events: int = 30, types: Sequence[str] = ALL_TYPES
) -> Universe:
    """Logs of so many streams and, together, events; equal for equal states of the generator."""
    names = (*STREAM_IDS, *(f"stream-{number}" for number in range(streams - len(STREAM_IDS))))
    stream_ids = rng.sample(names, streams)
    first_id = rng.choice(FIRST_IDS)
    choices = Rolled(rng)
    moves = [
        (rng.randrange(streams), rng.choice(STEPS_OF_THE_CLOCK), make_event(choices, types))
        for _ in range(events)
    ]
    return universe(stream_ids, first_id, moves)


def universe(
    stream_ids: Sequence[str],
    first_id: tuple[int, int],
    moves: Sequence[tuple[int, str, ConversationEvent]],
) -> Universe:
    """Logs in which each move appends an event to a stream, after a step of the clock that all share."""
    logs: Universe = {stream_id: [] for stream_id in stream_ids}
    last_ids: dict[str, tuple[int, int]] = {}
    clock = first_id
    for number, step, event in moves:
        stream_id = stream_ids[number % len(stream_ids)]
        clock = _after(clock, step)
        if last_ids.get(stream_id) == clock:
            clock = _after(clock, "sequence")
        last_ids[stream_id] = clock
        logs[stream_id].append((f"{clock[0]}-{clock[1]}", entry_fields(*event)))
    return logs


def _after(clock: tuple[int, int], step: str) -> tuple[int, int]:
    milliseconds, sequence = clock
    match step:
        case "same":
            return clock
        case "sequence" if sequence < 2**64 - 1:
            return milliseconds, sequence + 1
        case "hour":
            return milliseconds + 3_600_000, 0
    return milliseconds + 1, 0


def log_of(conversation: Sequence[ConversationEvent], first_ms: int = 1_700_000_000_000) -> list[Entry]:
    """The log of one conversation, an event each millisecond."""
    return [(f"{first_ms + number}-0", entry_fields(*event)) for number, event in enumerate(conversation)]


def entry_fields(event_type: EventType, payload: Any) -> dict[bytes, bytes]:
    """The fields of an entry, as a producer in any language might have written them."""
    fields = {b"op": b""}
    if event_type is not None:
        fields[b"type"] = event_type.encode("utf-8") if isinstance(event_type, str) else event_type
    data = payload.data if isinstance(payload, RawData) else _json(payload)
    if data is not None:
        fields[b"data"] = data
    return fields


def _json(payload: Any) -> bytes:
    """JSON with its text as it is, or in escapes where UTF-8 cannot say it."""
    try:
        return json.dumps(payload, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return json.dumps(payload).encode("utf-8")
