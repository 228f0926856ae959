"""What one look at one stream finds, without servers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from projections import strategies
from tests.versions import failing, of_version
from worker import Projection
from worker.difference import Columns
from worker.events import Event, EventId
from worker.extent import Extent
from worker.finding import Finding, Obstacle, examine, of_other_version, without_row
from worker.letters import Heeded, OpenLetter
from worker.log import Page
from worker.replay import FoldedLog, fold_page
from worker.row import RawJson
from worker.rule import StoredFacts

EVENTS = [
    Event(EventId(1_000, 0), "user_message", {}),
    Event(EventId(2_000, 0), "strategy_link", {"wdkStrategyId": 7}),
    Event(EventId(3_000, 0), "strategy_meta", {"name": "n"}),
]
EXTENT = Extent(exists=True, first_id="1000-0", last_id="3000-0", newest_id="3000-0")


def folded(*events: Event, projection: Projection = strategies) -> FoldedLog:
    page = Page(str(events[0].id), str(events[-1].id), events, ended=True)
    return fold_page(projection, FoldedLog(projection.new_state), page)


def row(**changed: Any) -> dict[str, Any]:
    """The row that is right after the events."""
    columns: dict[str, Any] = {
        "stream_id": "a",
        "last_event_id": "3000-0",
        "updated_at": EVENTS[-1].id.time,
        "first_event_id": "1000-0",
        "generation": 0,
        "version": 1,
        **dict(zip(strategies.columns, folded(*EVENTS).state, strict=True)),
        "wdk_strategy_id": 7,
        "is_saved": False,
    }
    return {**columns, **changed}


def facts(**changed: Any) -> StoredFacts:
    claims = [{"wdk_strategy_id": 7, "from": "2000-0", "until": None}]
    own = {"own_is_saved": None, "own_is_saved_ms": None, "own_is_saved_seq": None}
    return StoredFacts({"claims": claims, **own, **changed}, {"wdk_strategy_id": 7, "is_saved": False})


def look(
    stored: Columns,
    *,
    stored_facts: StoredFacts | None = None,
    heeded: Heeded | None = None,
    log: FoldedLog | None = None,
    extent: Extent = EXTENT,
    projection: Projection = strategies,
) -> Finding:
    log = log or folded(*EVENTS, projection=projection)
    return examine(projection, "a", stored, stored_facts or facts(), {}, heeded, log, extent)


def wrong_columns(finding: Finding) -> set[str]:
    return {difference.column for difference in finding.differences}


def test_a_row_that_is_right_has_nothing_to_tell() -> None:
    found = look(row())
    assert (found.compared, found.wrong, found.differences, found.obstacle) == (True, False, (), None)


@pytest.mark.parametrize("column", ["name", "message_count", "updated_at", "first_event_id"])
def test_a_wrong_column_is_named(column: str) -> None:
    found = look(row(**{column: None}))
    assert wrong_columns(found) == {column}
    assert found.drifted


def test_facts_and_what_follows_from_them_are_compared_apart() -> None:
    assert wrong_columns(look(row(), stored_facts=facts(claims=[]))) == {"claims"}
    assert wrong_columns(look(row(wdk_strategy_id=None))) == {"wdk_strategy_id"}


def test_a_version_and_a_generation_that_cannot_be_are_wrong_values() -> None:
    assert of_other_version("a", row(version=0), running=1) is None
    assert wrong_columns(look(row(version=0, generation=-1))) == {"version", "generation"}


def test_numbers_in_json_are_compared_by_value() -> None:
    event = Event(EventId(4_000, 0), "graph_plan", {"plan": {"n": 1e23}})
    log = folded(*EVENTS, event)
    stored = row(
        plan=RawJson('{"n": 100000000000000000000000}'), last_event_id="4000-0", updated_at=event.id.time
    )
    assert wrong_columns(look(stored, log=log)) == set()


@pytest.mark.parametrize(
    ("extent", "log", "obstacle"),
    [
        (Extent(exists=False, holds=False), FoldedLog(strategies.new_state), Obstacle.GONE),
        (replace(EXTENT, holds=False), None, Obstacle.DIVERGED),
        (EXTENT, FoldedLog(strategies.new_state, refusal="WRONGTYPE"), Obstacle.UNREADABLE),
        (EXTENT, FoldedLog(strategies.new_state, torn=True), Obstacle.BUSY),
        (replace(EXTENT, first_id="2000-0"), folded(*EVENTS[1:]), Obstacle.TRIMMED),
    ],
)
def test_what_cannot_be_compared_is_told_with_the_reason(
    extent: Extent, log: FoldedLog | None, obstacle: Obstacle
) -> None:
    found = look(row(), log=log, extent=extent)
    assert (found.obstacle, found.compared, found.differences) == (obstacle, False, ())


def test_a_beginning_that_a_whole_log_never_had_is_a_wrong_value_and_no_trimming() -> None:
    assert look(row(first_event_id="500-0")).obstacle is Obstacle.TRIMMED
    found = look(row(first_event_id="500-0"), extent=replace(EXTENT, whole=True))
    assert (found.obstacle, wrong_columns(found)) == (None, {"first_event_id"})


def test_a_handler_that_fails_below_the_position_is_told() -> None:
    found = look(row(), projection=of_version(1, strategy_meta=failing))
    assert (found.obstacle, found.wrong, found.drifted) == (Obstacle.HANDLER_FAILED, True, False)
    assert "ValueError at event 3000-0" in found.detail


def test_times_that_cannot_be_told_are_not_compared() -> None:
    late = Event(EventId(253_402_300_800_000, 0), "user_message", {})
    log = replace(folded(*EVENTS), updated_at=None)
    assert late.id.time is None
    assert not look(row(updated_at=EventId(5, 0).time), log=log).wrong


@pytest.mark.parametrize(
    ("letter", "blocked"),
    [
        (OpenLetter(EventId(4_000, 0), 1, due=False), True),
        (OpenLetter(EventId(3_000, 0), 1, due=False), False),
        (OpenLetter(EventId(4_000, 0), 0, due=False), False),
    ],
)
def test_only_a_letter_of_this_version_after_the_position_stops_a_stream(
    letter: OpenLetter, blocked: bool
) -> None:
    found = look(row(), heeded=Heeded(letter))
    assert (found.obstacle is Obstacle.BLOCKED, found.compared) == (blocked, True)


def test_streams_without_a_row() -> None:
    stopped = Heeded(OpenLetter(EventId(1, 0), 1, due=False))
    assert without_row("a", None, 1, None).obstacle is Obstacle.NOTHING
    assert without_row("a", None, 1, "1-0").missing == "1-0"
    assert without_row("a", stopped, 1, "1-0").obstacle is Obstacle.BLOCKED


@pytest.mark.parametrize(
    ("version", "obstacle"), [(1, Obstacle.OLDER_VERSION), (3, Obstacle.NEWER_VERSION), (2, None), (0, None)]
)
def test_rows_of_other_versions_are_told(version: int, obstacle: Obstacle | None) -> None:
    found = of_other_version("a", row(version=version), running=2)
    assert (found and found.obstacle) == obstacle
    assert not (found and found.wrong)
