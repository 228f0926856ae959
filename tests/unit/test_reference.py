"""The reference single reader, held against the rules by examples written out by hand."""

import json
from datetime import UTC, datetime
from typing import Any, TypeAlias

import pytest

from tests.conversations import RawData, entry_fields
from tests.reference.model import as_stored, single_reader
from tests.reference.wire import Entry

Event: TypeAlias = tuple[str, Any]

NEVER_APPLIED = (
    RawData(None),
    RawData(b""),
    RawData(b"{"),
    RawData(b"[]"),
    RawData(b"null"),
    RawData(b'{"name": "\xff"}'),
    RawData(b'{"name": "n", "deep": ' + b"[" * 500 + b"]" * 500 + b"}"),
    RawData(b'{"name": "n", "deep": ' + b"[" * 50_000 + b"]" * 50_000 + b"}"),
)


def entry(event_id: str, event_type: str | bytes | None, payload: Any) -> Entry:
    return event_id, entry_fields(event_type, payload)


def row_after(*events: Event) -> dict[str, Any]:
    """The row of a single stream with these events, at 1-0, 2-0 and so on."""
    log = [entry(f"{number}-0", *event) for number, event in enumerate(events, start=1)]
    return single_reader({"s": log})["s"]


def claim(event_id: str, wdk_strategy_id: Any, **more: Any) -> Entry:
    return entry(event_id, "strategy_link", {"wdkStrategyId": wdk_strategy_id, **more})


def held(rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {stream_id: (row["wdk_strategy_id"], row["is_saved"]) for stream_id, row in rows.items()}


def test_a_row_starts_with_its_defaults() -> None:
    assert row_after(("model_selected", {})) == {
        "stream_id": "s",
        "name": "New Conversation",
        "record_type": None,
        "wdk_strategy_id": None,
        "is_saved": False,
        "model_id": None,
        "message_count": 0,
        "step_count": 0,
        "plan": {},
        "steps": [],
        "root_step_id": None,
        "last_event_id": "1-0",
        "updated_at": datetime(1970, 1, 1, 0, 0, 0, 1_000, tzinfo=UTC),
    }


@pytest.mark.parametrize(
    "event_type", ["assistant_delta", "error", "message_start", None, b"\xff", "", "Strategy_Meta"]
)
def test_unprojected_events_never_touch_a_row(event_type: str | bytes | None) -> None:
    stray = entry("2-0", event_type, {"name": "stray"})
    assert single_reader({"s": [stray]}) == {}
    assert single_reader({"s": [entry("1-0", "user_message", {}), stray]})["s"]["last_event_id"] == "1-0"


def test_the_position_moves_even_if_nothing_else_does() -> None:
    row = row_after(("strategy_meta", {"name": "n"}), ("strategy_meta", {}))
    assert (row["name"], row["last_event_id"], row["updated_at"].microsecond) == ("n", "2-0", 2_000)


def test_event_ids_compare_as_numbers() -> None:
    log = [
        entry("5-9", "strategy_meta", {"name": "ninth"}),
        entry("5-10", "strategy_meta", {"name": "tenth"}),
    ]
    assert single_reader({"s": log})["s"]["name"] == "tenth"
    assert held(single_reader({"a": [claim("5-10", 7)], "b": [claim("5-9", 7)]})) == {
        "a": (7, False),
        "b": (None, False),
    }


def test_messages_are_counted() -> None:
    assert row_after(("user_message", {}), ("assistant_message", {"content": 5}))["message_count"] == 2


def test_meta_and_model_take_text_of_the_right_kind() -> None:
    row = row_after(
        ("strategy_meta", {"name": "n", "recordType": "gene"}),
        ("strategy_meta", {"name": "", "recordType": 5}),
        ("strategy_meta", {"name": ["x"], "recordType": "transcript"}),
        ("model_selected", {"modelId": "m"}),
        ("model_selected", {"modelId": None}),
    )
    assert (row["name"], row["record_type"], row["model_id"]) == ("n", "transcript", "m")
    assert row_after(("model_selected", {"modelId": ""}))["model_id"] == ""


def test_clearing_keeps_record_type_model_and_messages() -> None:
    row = row_after(
        ("user_message", {}),
        ("strategy_meta", {"name": "n", "recordType": "gene"}),
        ("model_selected", {"modelId": "m"}),
        ("strategy_link", {"wdkStrategyId": 7, "isSaved": True}),
        ("graph_snapshot", {"graphSnapshot": {"steps": [{"id": "a"}], "rootStepId": "a"}}),
        ("graph_cleared", {}),
    )
    kept: tuple[Event, ...] = (
        ("model_selected", {"modelId": "m"}),
        ("strategy_meta", {"recordType": "gene"}),
        ("user_message", {}),
    )
    moved = {"last_event_id": "6-0", "updated_at": row["updated_at"]}
    assert row == row_after(*kept) | moved


class TestClaims:
    def test_the_later_claim_wins_and_a_loser_may_be_saved_afterwards(self) -> None:
        a = [claim("10-0", 7), entry("15-0", "strategy_link", {"isSaved": True})]
        rows = single_reader({"a": a, "b": [claim("12-0", 7)], "c": [claim("30-0", 7)]})
        assert held(rows) == {"a": (None, True), "b": (None, False), "c": (7, False)}

    def test_a_loser_is_no_longer_saved(self) -> None:
        rows = single_reader({"a": [claim("1-0", 7, isSaved=True)], "b": [claim("2-0", 7)]})
        assert held(rows) == {"a": (None, False), "b": (7, False)}
        assert rows["a"]["last_event_id"] == "1-0"

    def test_of_equal_event_ids_the_greater_stream_id_in_bytes_wins(self) -> None:
        rows = single_reader({"\U0001f600": [claim("1-0", 7)], "\uff5e": [claim("1-0", 7)]})
        assert held(rows) == {"\uff5e": (None, False), "\U0001f600": (7, False)}

    def test_a_claim_can_be_taken_back(self) -> None:
        rows = single_reader({"a": [claim("1-0", 7), claim("3-0", 7)], "b": [claim("2-0", 7, isSaved=True)]})
        assert held(rows) == {"a": (7, False), "b": (None, False)}

    def test_a_stream_holds_one_id_and_what_it_leaves_is_nobodys(self) -> None:
        rows = single_reader({"a": [claim("1-0", 7)], "b": [claim("2-0", 7, isSaved=True), claim("3-0", 8)]})
        assert held(rows) == {"a": (None, False), "b": (8, True)}

    def test_clearing_gives_the_claim_up(self) -> None:
        cleared = [claim("1-0", 7, isSaved=True), entry("2-0", "graph_cleared", {})]
        assert held(single_reader({"a": cleared, "b": []})) == {"a": (None, False)}

    @pytest.mark.parametrize("no_integer", [True, "7", 7.0, None, [7]])
    def test_what_is_no_integer_claims_nothing(self, no_integer: Any) -> None:
        assert held(single_reader({"a": [claim("1-0", no_integer, isSaved=True)]})) == {"a": (None, True)}

    @pytest.mark.parametrize("no_boolean", [None, 1, 0, "true"])
    def test_what_is_no_boolean_saves_nothing(self, no_boolean: Any) -> None:
        log = [claim("1-0", 7, isSaved=True), claim("2-0", 8, isSaved=no_boolean)]
        assert held(single_reader({"a": log})) == {"a": (8, True)}

    @pytest.mark.parametrize("edge", [2**63 - 1, -(2**63), 0, -1])
    def test_every_bigint_can_be_claimed(self, edge: int) -> None:
        assert held(single_reader({"a": [claim("1-0", edge)]})) == {"a": (edge, False)}

    @pytest.mark.parametrize("beyond", [2**63, -(2**63) - 1, 10**30])
    def test_an_integer_outside_bigint_spoils_its_event(self, beyond: int) -> None:
        rows = single_reader({"a": [claim("1-0", 7), claim("2-0", beyond, isSaved=True)]})
        assert held(rows) == {"a": (7, False)}
        assert rows["a"]["last_event_id"] == "2-0"


class TestInputNobodyWanted:
    @pytest.mark.parametrize("payload", NEVER_APPLIED)
    def test_what_can_never_be_applied_moves_only_the_position(self, payload: RawData) -> None:
        assert row_after(("strategy_meta", payload)) == row_after(("strategy_meta", {}))
        before: tuple[Event, ...] = ("strategy_meta", {"name": "n"}), ("user_message", {})
        assert row_after(*before, ("user_message", payload)) == row_after(*before, ("strategy_meta", {}))
        assert row_after(*before, ("graph_cleared", payload), ("user_message", {}))["name"] == "n"

    def test_500_levels_are_not_too_many(self) -> None:
        deep = b'{"name": "n", "deep": ' + b"[" * 499 + b"]" * 499 + b"}"
        assert row_after(("strategy_meta", RawData(deep)))["name"] == "n"

    def test_a_payload_may_be_as_long_as_the_limit(self) -> None:
        log = [entry("1-0", "strategy_meta", RawData(b'{"name": "n"}'))]
        assert single_reader({"s": log}, payload_limit=13)["s"]["name"] == "n"
        assert single_reader({"s": log}, payload_limit=12)["s"]["name"] == "New Conversation"

    def test_after_the_year_9999_only_the_position_moves(self) -> None:
        last = entry("253402300799999-5", "strategy_meta", {"name": "last"})
        late = entry("253402300800000-0", "strategy_meta", {"name": "late"})
        row = single_reader({"s": [last, late]})["s"]
        assert (row["last_event_id"], row["name"]) == ("253402300800000-0", "last")
        assert row["updated_at"] == datetime(9999, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC)
        assert single_reader({"s": [late]})["s"]["updated_at"] is None

    def test_text_that_cannot_be_stored_is_replaced(self) -> None:
        row = row_after(
            ("strategy_meta", RawData(rb'{"name": "a\u0000b\ud800c", "recordType": "\ud83e\uddec"}')),
            ("graph_snapshot", RawData(rb'{"graphSnapshot": {"steps": [{"\u0000": ["\udfff"]}]}}')),
        )
        assert (row["name"], row["record_type"]) == ("a\ufffdb\ufffdc", "\U0001f9ec")
        assert row["steps"] == [{"\ufffd": ["\ufffd"]}]

    def test_numbers_that_are_none_become_null(self) -> None:
        data = b'{"plan": {"n": [NaN, Infinity, -Infinity, 1e400, 1.5]}, "name": NaN}'
        assert row_after(("graph_plan", RawData(data)))["plan"] == {"n": [None, None, None, None, 1.5]}

    @pytest.mark.parametrize("stream_id", ["a\x00b", "\ud800", "x" * 513, "é" * 257])
    def test_streams_that_cannot_be_stored_have_no_row(self, stream_id: str) -> None:
        assert list(single_reader({stream_id: [claim("2-0", 7)], "x" * 512: [claim("1-0", 7)]})) == [
            "x" * 512
        ]

    def test_a_skipped_event_moves_only_the_position(self) -> None:
        logs = {"a": [claim("1-0", 7)], "b": [claim("2-0", 7), entry("3-0", "error", {})]}
        rows = single_reader(logs, skipped={("b", "2-0"), ("b", "3-0")})
        assert held(rows) == {"a": (7, False), "b": (None, False)}
        assert rows["b"]["last_event_id"] == "2-0"


def test_jsonb_writes_large_numbers_out() -> None:
    stored = as_stored({"n": [1e23, 1.5, 2.0, 1e-7, 10**30, None]})
    assert stored == {"n": [10**23, 1.5, 2.0, 1e-7, 10**30, None]}
    assert json.dumps(as_stored(stored)) == json.dumps(stored)
