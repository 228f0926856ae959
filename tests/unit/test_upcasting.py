"""Upcasters: handlers see payloads of the newest version, whatever the log holds."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from tests.tallies import Tally
from worker import Event, EventId, Projection, RejectedEventError
from worker.fold import Folded
from worker.payload import copy_of


class Added(BaseModel):
    version: int
    items: list[int]


def projection(**options: Any) -> Projection:
    """A projection whose additions were a single number once, then a list with an odd name."""
    declared = Projection("p", table=Tally, **options)
    field = options.get("payload_version", "version")

    @declared.upcast("add", version=2)
    def with_items(payload: dict[str, Any]) -> dict[str, Any]:
        return {"items": payload["numbers"], field: "nonsense"}

    @declared.on("add")
    def add(row: Tally, event: Event) -> None:
        row.total += sum(event.data["items"])
        row.note = f"{event.data.get(field)} {event.type} {event.id}"

    @declared.upcast("add", version=1)
    def with_numbers(payload: dict[str, Any]) -> dict[str, Any]:
        payload["numbers"] = [payload.pop("number"), *payload.get("more", [])]
        payload.get("more", []).clear()
        return payload

    @declared.on("typed")
    def typed(row: Tally, payload: Added) -> None:
        row.total += sum(payload.items)
        row.note = str(payload.version)

    @declared.upcast("typed", version=1)
    def with_items_alone(payload: dict[str, Any]) -> dict[str, Any]:
        return {"items": [payload["number"]]}

    @declared.on("refuse", "fail", "odd")
    def nothing(row: Tally, event: Event) -> None:
        if event.data.get("refuse"):
            raise RejectedEventError("no")

    @declared.upcast("refuse", version=1)
    def refuse(payload: dict[str, Any]) -> dict[str, Any]:
        raise RejectedEventError("never was")

    @declared.upcast("fail", version=1)
    def fail(payload: dict[str, Any]) -> dict[str, Any]:
        raise ZeroDivisionError

    @declared.upcast("odd", version=1)
    def forgets_to_return(payload: dict[str, Any]) -> dict[str, Any]:
        return None  # type: ignore[return-value]

    declared.check()
    return declared


def fold(event_type: str, data: dict[str, Any], **options: Any) -> Folded:
    declared = projection(**options)
    before = copy_of(data)
    folded = declared.fold(declared.new_state, [Event(EventId(1, 0), event_type, data)])
    assert data == before
    return folded


@pytest.mark.parametrize(
    ("data", "total", "version"),
    [
        ({"number": 3}, 3, 3),
        ({"number": 3, "more": [4]}, 7, 3),
        ({"version": 1, "number": 3}, 3, 3),
        ({"version": 2, "numbers": [3, 4]}, 7, 3),
        ({"version": 3, "items": [5]}, 5, 3),
        ({"version": 9, "items": [5]}, 5, 9),
        ({"version": 2**70, "items": [5]}, 5, 2**70),
    ],
)
def test_a_payload_is_made_new_step_by_step(data: dict[str, Any], total: int, version: int) -> None:
    folded = fold("add", data)
    assert folded.failure is None
    assert folded.state[:2] == (total, f"{version} add 1-0")


def test_upcasters_run_before_payloads_are_parsed() -> None:
    assert fold("typed", {"number": 3}).state[:2] == (3, "2")


def test_the_version_may_stand_in_another_field() -> None:
    folded = fold("add", {"v": 2, "version": "1.0", "numbers": [3]}, payload_version="v")
    assert folded.state[:2] == (3, "3 add 1-0")


@pytest.mark.parametrize("version", [0, -1, "2", 2.0, True, None, [1]])
def test_a_version_that_is_none_is_rejected(version: Any) -> None:
    [rejection] = fold("add", {"version": version, "number": 1}).rejections
    assert rejection.reason == "the payload's version is no positive integer"


def test_an_upcaster_may_reject_its_event() -> None:
    assert fold("refuse", {}).rejections[0].reason == "never was"
    assert fold("refuse", {"version": 2, "refuse": True}).rejections[0].reason == "no"


def test_an_upcaster_that_raises_is_a_failure() -> None:
    failure = fold("fail", {}).failure
    assert failure is not None
    assert isinstance(failure.error, ZeroDivisionError)


def test_an_upcaster_that_returns_no_payload_is_named() -> None:
    failure = fold("odd", {}).failure
    assert failure is not None
    assert str(failure.error) == (
        "Upcaster forgets_to_return of 'odd', version 1, returned NoneType; return the payload as a dict."
    )


def test_a_type_without_upcasters_is_left_alone() -> None:
    declared = projection()

    @declared.on("plain")
    def plain(row: Tally, event: Event) -> None:
        row.note = str(event.data["version"])

    assert declared._handlers["plain"] is plain
    event = Event(EventId(1, 0), "plain", {"version": "any"})
    assert declared.fold(declared.new_state, [event]).state[1] == "any"
