"""Typed payloads: handlers get what they are annotated with, and what does not fit is rejected."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
import pytest
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from typing_extensions import TypeAliasType, TypedDict

from tests.tallies import Tally, tallies
from worker import Event, EventId, Projection, RejectedEventError
from worker.fold import Folded

SECRET = "s3cr3t"


class Size(StrEnum):
    SMALL = "small"


class Line(BaseModel):
    sku: str
    quantity: int = Field(1, gt=0)
    at: datetime | None = None
    size: Size = Size.SMALL
    kind: Literal["book", "film"] = "book"
    prices: dict[str, int] = {}
    notes: list[int] = []


class StructLine(msgspec.Struct):
    sku: str
    quantity: Annotated[int, msgspec.Meta(gt=0)] = 1
    at: datetime | None = None
    size: Size = Size.SMALL
    kind: Literal["book", "film"] = "book"
    prices: dict[str, int] = {}
    notes: list[int] = []

    def __post_init__(self) -> None:
        if self.sku == SECRET:
            raise ValueError(f"not {self.sku}")


@dataclass
class PlainLine:
    sku: str
    quantity: int = 1
    at: datetime | None = None


class DictLine(TypedDict):
    sku: str


class StrictLine(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    at: datetime
    line: PlainLine
    id: UUID | None = None


class Book(BaseModel):
    kind: Literal["book"]
    pages: int


class Film(BaseModel):
    kind: Literal["film"]


BookOrFilm = Annotated[Book | Film, Field(discriminator="kind")]
Named = TypeAliasType("Named", Book | Film)


class StructBook(msgspec.Struct, tag="book", tag_field="kind"):
    pages: int


class StructFilm(msgspec.Struct, tag="film", tag_field="kind"):
    pass


class Checked(BaseModel):
    sku: str

    @field_validator("sku")
    @classmethod
    def not_secret(cls, sku: str) -> str:
        if sku == SECRET:
            raise ValueError(f"not {sku}")
        assert sku != "odd", sku
        if sku == "reject":
            raise RejectedEventError("of no use")
        if sku == "break":
            raise ZeroDivisionError
        return sku


class Takes(BaseModel):
    """A model that takes its input apart."""

    lines: list[str]

    @model_validator(mode="before")
    @classmethod
    def take(cls, data: dict[str, Any]) -> dict[str, Any]:
        return {"lines": [data.pop("first"), *data["rest"].pop("lines")]}


def projected(annotation: Any, seen: list[Any]) -> Projection:
    """A projection with a handler that is annotated so, and shows what it was given."""
    projection = tallies()

    def handler(row: Any, payload: Any) -> None:
        row.note = "called"
        seen.append(payload)

    handler.__annotations__["payload"] = annotation
    projection.on("line")(handler)
    return projection


def fold(annotation: Any, data: dict[str, Any]) -> tuple[Folded, list[Any]]:
    """The fold of one event, and what its handler saw; the event's data stay as they are."""
    seen: list[Any] = []
    projection, before = projected(annotation, seen), copy.deepcopy(data)
    folded = projection.fold(projection.new_state, [Event(EventId(1, 0), "line", data)])
    assert data == before
    return folded, seen


AT = datetime(2026, 1, 2, tzinfo=UTC)
AT_TEXT = "2026-01-02T00:00:00Z"

FITTING: list[tuple[Any, dict[str, Any], Any]] = [
    (Line, {"sku": "a", "at": AT_TEXT}, Line(sku="a", at=AT)),
    (StructLine, {"sku": "a", "at": AT_TEXT, "size": "small"}, StructLine("a", at=AT)),
    (PlainLine, {"sku": "a", "at": AT_TEXT, "more": 1}, PlainLine("a", at=AT)),
    (DictLine, {"sku": "a"}, {"sku": "a"}),
    (StrictLine, {"at": AT_TEXT, "line": {"sku": "a"}}, StrictLine(at=AT, line=PlainLine("a"))),
    (BookOrFilm, {"kind": "film"}, Film(kind="film")),
    (Named, {"kind": "book", "pages": 2**70}, Book(kind="book", pages=2**70)),
    (StructBook | StructFilm, {"kind": "book", "pages": 3}, StructBook(3)),
    (Takes, {"first": "a", "rest": {"lines": ["b"]}}, Takes.model_construct(lines=["a", "b"])),
    (dict[str, Any], {"a": {"b": [1]}}, {"a": {"b": [1]}}),
    (dict, {"a": 1}, {"a": 1}),
    (Mapping[str, Any], {"a": 1}, {"a": 1}),
    (dict[str, int], {"a": 1}, {"a": 1}),
]


@pytest.mark.parametrize(("annotation", "data", "expected"), FITTING)
def test_a_handler_gets_what_it_is_annotated_with(
    annotation: Any, data: dict[str, Any], expected: Any
) -> None:
    folded, seen = fold(annotation, data)
    assert (folded.rejections, folded.failure, folded.applied) == ((), None, 1)
    assert seen == [expected]
    assert type(seen[0]) is type(expected)


MISFITS: list[tuple[Any, dict[str, Any], str]] = [
    (Line, {}, "the payload does not fit Line: sku is missing"),
    (
        Line,
        {"sku": 7, "quantity": SECRET},
        "Line: sku should be a valid string; quantity should be a valid int",
    ),
    (Line, {"sku": "a", "quantity": -3}, "quantity should be greater than 0"),
    (Line, {"sku": "a", "at": SECRET}, "at should be a valid datetime"),
    (Line, {"sku": "a", "size": SECRET}, "size should be 'small'"),
    (Line, {"sku": "a", "kind": SECRET}, "kind should be 'book' or 'film'"),
    (Line, {"sku": "a", "prices": {"x": SECRET}}, "prices.x should be a valid integer"),
    (
        Line,
        {"sku": "a", "notes": [SECRET] * 9},
        "notes.4 should be a valid integer; and 4 more",
    ),
    (PlainLine, {"sku": "a", "quantity": SECRET}, "fit PlainLine: quantity should be a valid integer"),
    (DictLine, {"sku": 1}, "fit DictLine: sku should be a valid string"),
    (StrictLine, {"at": AT_TEXT, "line": {"sku": 1}}, "fit StrictLine: line.sku should be a valid string"),
    (StrictLine, {"at": 5, "line": {"sku": "a"}, "x": 1}, "at should be a valid datetime; x is not known"),
    (BookOrFilm, {"kind": SECRET}, "the payload has a value of 'kind' that no model has"),
    (BookOrFilm, {"kind": "book"}, "book.pages is missing"),
    (BookOrFilm, {"kind": "book"}, "does not fit Book | Film: "),
    (Book | Film, {}, "does not fit Book | Film: Book.kind is missing"),
    (StrictLine, {"at": AT_TEXT, "line": {"sku": "a"}, "id": 5}, "id is refused: UUID input should"),
    (Checked, {"sku": SECRET}, "fit Checked: sku is refused by a check of the model"),
    (Checked, {"sku": "odd"}, "fit Checked: sku is refused by a check of the model"),
    (Checked, {"sku": "reject"}, "of no use"),
    (StructLine, {}, "fit StructLine: the payload: object missing required field sku"),
    (StructLine, {"sku": "a", "quantity": SECRET}, "fit StructLine: quantity: expected int, got str"),
    (StructLine, {"sku": "a", "quantity": 0}, "quantity: expected int >= 1"),
    (StructLine, {"sku": "a", "at": SECRET}, "at is a value that the model does not allow"),
    (StructLine, {"sku": "a", "size": SECRET}, "size is a value that the model does not allow"),
    (StructLine, {"sku": "a", "prices": {SECRET: "x"}}, "prices[...]: expected int, got str"),
    (StructLine, {"sku": SECRET}, "the payload is refused by a check of the model"),
    (StructBook | StructFilm, {"kind": SECRET}, "fit StructBook | StructFilm: kind is a value"),
    (StructBook | StructFilm, {"kind": SECRET}, "kind is a value that the model does not allow"),
]


@pytest.mark.parametrize(("annotation", "data", "reason"), MISFITS)
def test_a_payload_that_does_not_fit_rejects_its_event_and_quotes_nothing(
    annotation: Any, data: dict[str, Any], reason: str
) -> None:
    folded, seen = fold(annotation, data)
    [rejection] = folded.rejections
    assert reason in rejection.reason
    assert SECRET not in rejection.reason
    assert "\n" not in rejection.reason
    assert rejection.decoded
    assert rejection.raised is None
    assert (seen, folded.failure, folded.changed) == ([], None, frozenset())
    assert folded.last == EventId(1, 0)


def test_long_names_are_shortened() -> None:
    folded, _ = fold(Line, {"sku": "a", "prices": {"n" * 9_000: "x"}})
    assert len(folded.rejections[0].reason) < 300


def test_a_check_that_breaks_is_a_failure_of_the_handler() -> None:
    folded, _ = fold(Checked, {"sku": "break"})
    assert folded.failure is not None
    assert isinstance(folded.failure.error, ZeroDivisionError)


def with_both(row: Tally, event: Event, payload: PlainLine) -> None:
    row.note = f"{event.id} {event.data['sku']} {payload.sku}"


def with_both_and_plain(row: Tally, event: Event, payload: Any) -> None:
    row.note = f"{event.id} {event.data['sku']} {payload.pop('sku')}"


def without_annotations(row, event, payload) -> None:  # type: ignore[no-untyped-def]
    row.note = f"{event.id} {event.data['sku']} {payload.pop('sku')}"


@pytest.mark.parametrize("handler", [with_both, with_both_and_plain, without_annotations])
def test_a_handler_may_take_event_and_payload(handler: Callable[..., None]) -> None:
    projection = tallies()
    projection.on("line")(handler)
    folded = projection.fold(projection.new_state, [Event(EventId(1, 0), "line", {"sku": "a"})])
    assert folded.failure is None
    assert folded.state[1] == "1-0 a a"


def test_a_model_may_be_defined_in_a_function() -> None:
    class Inner(BaseModel):
        n: int

    projection = tallies()

    @projection.on("inner")
    def inner(row: Tally, payload: Inner) -> None:
        row.total += payload.n

    folded = projection.fold(projection.new_state, [Event(EventId(1, 0), "inner", {"n": 3})])
    assert folded.state[0] == 3


def test_an_event_that_is_applied_twice_is_parsed_from_the_same_data() -> None:
    seen: list[Any] = []
    projection = projected(dict[str, Any], seen)

    @projection.on("take")
    def take(row: Tally, payload: dict[str, Any]) -> None:
        row.total += payload["deep"].pop("n")

    event = Event(EventId(1, 0), "take", {"deep": {"n": 4}})
    folded = projection.fold(projection.new_state, [event, Event(EventId(2, 0), "refuse", {})])
    assert (folded.state[0], folded.applied, folded.failure) == (4, 1, None)
    assert event.data == {"deep": {"n": 4}}
