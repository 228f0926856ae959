"""Whatever stands in a log or in the feed: it can be stored in the end, or is refused for a reason.

The values are wilder than those of `tests.conversations`: any fields, any bytes, and any JSON under the names
that handlers look at.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from projections import strategies
from tests.reference.model import new_row, single_reader
from worker.events import Event, EventId, EventTypes, OtherEntry, UndecodableEvent, parse_entry, type_field
from worker.fold import Folded
from worker.hint import parse_hint
from worker.payload import MAX_WRITTEN_OUT_BYTES
from worker.row import RawJson

LIMIT = 16 * 1024 * 1024
KNOWN_TYPES = EventTypes(strategies.types)
TYPES = sorted(strategies.types)
FOLDED = ("name", "record_type", "model_id", "message_count", "step_count", "plan", "steps", "root_step_id")

# Entries.

parts = st.integers(0, 2**64 - 1)
raw_ids = st.builds("{}-{}".format, parts | st.just(2**64 - 1), parts | st.just(2**64 - 1)).map(str.encode)
names = st.sampled_from([b"op", b"type", b"data", b"stream", b"", b"TYPE"]) | st.binary(max_size=4)
raw_values = st.binary(max_size=8) | st.sampled_from(
    [name.encode() for name in TYPES] + [b"{}", b'{"name":"\\u0000"}', b'{"plan":{"n":NaN}}', b"[" * 600]
)
raw_fields = st.lists(names | raw_values, max_size=12)
tidy_fields = st.lists(st.tuples(names, raw_values), max_size=5).map(
    lambda pairs: [part for pair in pairs for part in pair]
)

# Payloads.

FIELDS = (
    *("name", "recordType", "modelId", "wdkStrategyId", "isSaved", "plan", "graphSnapshot", "steps", "id"),
    *("rootStepId", "graphName", "kind", "operator", "searchName", "displayName", "parameters", "root"),
    *("colocationParams", "primaryInputStepId", "secondaryInputStepId", "primaryInput", "secondaryInput"),
)
any_text = st.text(st.characters(), max_size=6) | st.sampled_from(["", "a", "b", "\0", "\ud800", "combine"])
scalars = st.one_of(
    any_text,
    st.none(),
    st.booleans(),
    st.integers(-(2**64), 2**64),
    st.integers(-(10**40), 10**40),
    st.floats(),
    st.sampled_from([1e308, -1e-308, 5e-324, float("nan"), float("inf"), 2**63, -(2**63) - 1]),
)
fields = st.sampled_from(FIELDS)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(fields | any_text, inner, max_size=5),
    max_leaves=25,
)
steps = st.lists(st.dictionaries(fields, anything, max_size=6) | anything, max_size=5)
snapshots = st.fixed_dictionaries(
    {}, optional={"steps": steps, "rootStepId": anything, "name": anything, "graphName": anything}
)
payloads = st.dictionaries(fields, anything, max_size=5) | st.fixed_dictionaries(
    {"graphSnapshot": snapshots | anything}, optional={"plan": anything, "name": anything}
)
documents = st.builds(lambda value, ascii_only: spelled(value, ascii_only), payloads, st.booleans())


def spelled(value: Any, ascii_only: bool) -> bytes:
    return json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")


def cut_or_changed(raw: bytes, at: int, to: int) -> bytes:
    """A document with a byte changed, or cut off there."""
    at %= len(raw)
    return raw[:at] if to == 256 else raw[:at] + bytes([to]) + raw[at + 1 :]


broken = st.builds(cut_or_changed, documents, st.integers(0, 10**6), st.integers(0, 256))
logs = st.lists(st.tuples(st.sampled_from(TYPES), documents | broken | st.binary(max_size=20)), max_size=6)


def assert_storable(value: Any) -> None:
    """That PostgreSQL could hold this, as text or in jsonb."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += [*value, *value.values()]
        elif isinstance(value, list):
            waiting += value
        elif isinstance(value, str):
            assert "\0" not in value
            value.encode("utf-8")
        elif isinstance(value, float):
            assert value - value == 0
        else:
            assert value is None or isinstance(value, int)


def parsed(raw_id: bytes, fields: Sequence[bytes]) -> Event | UndecodableEvent | OtherEntry:
    event_type = KNOWN_TYPES[type_field(fields)]
    return (
        event_type if isinstance(event_type, OtherEntry) else parse_entry(raw_id, event_type, fields, LIMIT)
    )


@given(raw_ids, raw_fields | tidy_fields)
@example(b"18446744073709551615-18446744073709551615", [b"type", b"user_message", b"data", b"{}"])
@example(b"0-1", [b"type"])
def test_any_entry_is_an_event_that_can_be_stored_or_is_passed_over(
    raw_id: bytes, fields: list[bytes]
) -> None:
    event = parsed(raw_id, fields)
    assert event == parsed(raw_id, fields)
    if isinstance(event, OtherEntry):
        return
    assert event.id == EventId.parse(raw_id)
    assert event.type in strategies.types
    if isinstance(event, UndecodableEvent):
        assert event.reason
    else:
        assert_storable([event.data, event.operation_id])


@given(raw_ids, raw_fields | tidy_fields | st.none())
@example(b"1-0", [b"stream", b"x" * 10_000])
@example(b"1-0", [b"stream", b"a", b"type", b"\xff" * 1_000_000])
@example(b"1-0", [b"stream"])
def test_any_hint_names_a_stream_or_is_none(raw_id: bytes, fields: list[bytes] | None) -> None:
    hint = parse_hint(3, raw_id, fields)
    assert hint == parse_hint(3, raw_id, fields)
    if hint is not None:
        assert (hint.partition, hint.id) == (3, raw_id)
        assert_storable(hint.stream_id)
        assert len(hint.stream_id.encode()) <= 512
        assert len(hint.type) <= 1_000


# Handlers.


def fold(log: list[tuple[str, bytes]]) -> Folded:
    entries = [(b"%d-0" % at, [b"type", kind.encode(), b"data", raw]) for at, (kind, raw) in enumerate(log)]
    events = [parsed(raw_id, fields) for raw_id, fields in entries]
    return strategies.fold(
        strategies.new_state, [event for event in events if not isinstance(event, OtherEntry)]
    )


def columns_of(folded: Folded) -> dict[str, Any]:
    values = zip(strategies.columns, folded.state, strict=True)
    return {name: json.loads(value.text) if isinstance(value, RawJson) else value for name, value in values}


@given(logs)
def test_any_events_give_the_row_of_the_reference_and_fail_no_handler(log: list[tuple[str, bytes]]) -> None:
    folded = fold(log)
    assert folded.failure is None
    assert (folded.applied + len(folded.rejections)) == len(log)
    columns = columns_of(folded)
    assert_storable(columns)
    assert columns == columns_of(fold(log))
    reference = {
        "s": [(f"{at}-0", {b"type": kind.encode(), b"data": raw}) for at, (kind, raw) in enumerate(log)]
    }
    expected = single_reader(reference).get("s", new_row("s"))
    assert json.dumps([columns[name] for name in FOLDED]) == json.dumps([expected[name] for name in FOLDED])


@pytest.mark.parametrize("event_type", TYPES)
@pytest.mark.parametrize(
    "raw",
    [
        b'{"plan": {"a": [%s]}, "graphSnapshot": {"steps": [{}, %s]}}' % ((b"1e308," * 5_000 + b"1",) * 2),
        b'{"plan": {"a": %s}, "wdkStrategyId": %s}' % ((b"9" * 4_300,) * 2),
        b'{"plan": {"a": "%s"}, "name": "%s"}' % ((b"\\u0000" * 100_000,) * 2),
        b'{"name": "%s"}' % (b"x" * (LIMIT - len(b'{"name": ""}'))),
    ],
    ids=["floats", "digits", "NULs", "16 MiB"],
)
def test_what_is_merely_large_is_applied(event_type: str, raw: bytes) -> None:
    folded = fold([(event_type, raw)])
    assert folded.failure is None
    assert all("wdkStrategyId" in rejection.reason for rejection in folded.rejections)
    assert_storable(columns_of(folded))


@pytest.mark.parametrize("event_type", TYPES)
@pytest.mark.parametrize(
    "raw",
    [
        b'{"name": "%s"}' % (b"x" * (LIMIT + 1 - len(b'{"name": ""}'))),
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b'{"plan": {"a": %s}}' % (b"9" * 5_000),
        b'{"name": "a", "name": "\xff"}',
    ],
    ids=["one byte too many", "too deep", "too many digits", "not UTF-8"],
)
def test_what_can_never_be_applied_moves_the_position_alone(event_type: str, raw: bytes) -> None:
    folded = fold([(event_type, raw)])
    assert len(folded.rejections) == 1
    assert folded.state == strategies.new_state
    assert folded.last == EventId(0, 0)


@pytest.mark.parametrize("event_type", ["graph_plan", "graph_snapshot"])
def test_numbers_that_would_fill_postgresql_are_rejected_and_the_stream_goes_on(event_type: str) -> None:
    floats = b"1e308," * (MAX_WRITTEN_OUT_BYTES // 300) + b"1"
    raw = b'{"plan": {"a": [%s]}, "graphSnapshot": {"steps": [[%s]]}}' % (floats, floats)
    folded = fold([("user_message", b"{}"), (event_type, raw), ("strategy_meta", b'{"name": "after"}')])
    assert folded.failure is None
    assert [rejection.event_id for rejection in folded.rejections] == [EventId(1, 0)]
    columns = columns_of(folded)
    assert (columns["message_count"], columns["plan"], columns["steps"], columns["name"]) == (
        1,
        {},
        [],
        "after",
    )
