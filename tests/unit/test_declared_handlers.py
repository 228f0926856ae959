"""Handlers and upcasters as authors register them: every mistake is one sentence, said when it is made."""

from __future__ import annotations

import sys
import typing
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from pydantic import BaseModel, create_model
from sqlalchemy import Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from tests.tallies import Tally
from worker import Event, EventId, ProjectedRow, Projection
from worker.errors import DeclarationError

if TYPE_CHECKING:
    import worker as imagined
    from tests.tallies import Tally as Imagined


class Base(DeclarativeBase):
    pass


class Other(ProjectedRow, Base):
    """The row of another projection."""

    __tablename__ = "others"

    note: Mapped[str | None] = mapped_column(Text)


class Added(BaseModel):
    n: int


ONE = Added(n=1)


class Put(msgspec.Struct):
    n: int


class Row(msgspec.Struct, array_like=True):
    n: int


Unfinished = create_model("Unfinished", item=(typing.cast(Any, typing.ForwardRef("Nowhere")), ...))


class Opaque:
    pass


@dataclass
class Holder:
    it: Opaque


class OldStyle(typing.TypedDict):
    n: int


def projection() -> Projection:
    return Projection("p", table=Tally)


def nothing(row: Any, event: Event) -> None:
    """A handler that does nothing."""


def of_row_alone(row: Any) -> None: ...
def of_four(row: Any, event: Event, payload: Added, more: Any) -> None: ...
def of_keywords(row: Any, event: Event, *, payload: Added) -> None: ...
def event_first(event: Event, row: Any) -> None: ...
def payload_first(row: Any, payload: Added, event: Event) -> None: ...
def method(self: Any, row: Any, event: Event) -> None: ...
def with_default(row: Any, event: Event, payload: Added = ONE) -> None: ...
def of_text(row: Any, payload: str) -> None: ...
def of_list(row: Any, payload: list[Added]) -> None: ...
def of_opaque(row: Any, payload: Opaque) -> None: ...
def of_holder(row: Any, payload: Holder) -> None: ...
def of_event_or_none(row: Any, event: Event | None) -> None: ...
def of_array(row: Any, payload: Row) -> None: ...
def of_unfinished(row: Any, payload: Unfinished) -> None: ...
def of_two_kinds(row: Any, payload: Added | Put) -> None: ...
def of_imagined(row: Any, payload: Imagined) -> None: ...
def of_another_row(row: Other, event: Event) -> None: ...
def of_old_style(row: Any, payload: OldStyle) -> None: ...


async def asynchronous(row: Any, event: Event) -> None: ...


async def asynchronous_generator(row: Any, event: Event) -> AsyncIterator[int]:
    yield 1


def generator(row: Any, event: Event) -> Iterator[int]:
    yield 1


class AsynchronousObject:
    async def __call__(self, row: Any, event: Event) -> None: ...


def on(*types: Any, handler: Any = nothing) -> Callable[[], object]:
    return lambda: projection().on(*types)(handler)


def handled(handler: Any) -> Callable[[], object]:
    return on("add", handler=handler)


def same(payload: dict[str, Any]) -> dict[str, Any]:
    return payload


async def asynchronous_upcaster(payload: dict[str, Any]) -> dict[str, Any]:
    return payload


def upcast(*versions: Any, event_type: Any = "add", upcaster: Any = same) -> Callable[[], object]:
    """A projection with upcasters for these versions of a type."""

    def declare() -> None:
        declared = projection()
        declared.on("add")(nothing)
        for version in versions:
            declared.upcast(event_type, version=version)(upcaster)
        declared.check()

    return declare


MISTAKES: dict[str, tuple[Callable[[], object], str]] = {
    "on without types": (lambda: projection().on(nothing), "on() was given nothing and no event type"),  # type: ignore[arg-type]
    "a set of types": (on({"a"}), "on() takes event types one by one, not a set of them; put a * before"),
    "a list of types": (on(["a", "b"]), "not a list of them"),
    "a number as type": (on(1), "an event type is a string, not 1"),
    "bytes as type": (on(b"a"), "an event type is a string, not b'a'"),
    "an empty type": (on(""), "on() has an empty event type"),
    "a type that is no text": (on("\ud800"), "which no log may hold as a type"),
    "the same type twice": (on("a", "a"), "two handlers for 'a'; keep one"),
    "a handler of one": (handled(of_row_alone), "handler of_row_alone takes (row"),
    "a handler of four": (handled(of_four), "write it as (row, event: Event), (row, payload: Model) or"),
    "a handler of keywords": (handled(of_keywords), "handler of_keywords takes (row"),
    "a lambda of none": (handled(lambda: None), "handler <lambda> takes ()"),
    "the event first": (handled(event_first), "handler event_first takes the event first"),
    "the payload first": (handled(payload_first), "takes its parameters in another order"),
    "a method": (handled(method), "handler method is a method; write a plain function"),
    "a payload with a default": (handled(with_default), "has a default for payload, which would then never"),
    "an async handler": (handled(asynchronous), "handler asynchronous is async; it does no I/O"),
    "an async partial": (handled(partial(asynchronous)), "handler asynchronous is async"),
    "an async object": (handled(AsynchronousObject()), "handler AsynchronousObject is async"),
    "an async generator": (handled(asynchronous_generator), "handler asynchronous_generator is async"),
    "a generator": (handled(generator), "handler generator is a generator, which would never run"),
    "a class": (handled(Opaque), "handler Opaque is no function"),
    "no function": (handled("add"), "handler str is no function"),
    "text as payload": (handled(of_text), "annotates its payload with str; take a pydantic model"),
    "a list as payload": (handled(of_list), "annotates its payload with list["),
    "an odd class as payload": (handled(of_opaque), "annotates its payload with Opaque"),
    "an odd class in a model": (handled(of_holder), "cannot have its payload as Holder; mend that type"),
    "an event or none": (handled(of_event_or_none), "annotates its payload with"),
    "models of two kinds": (handled(of_two_kinds), "Structs of msgspec and others at once"),
    "an array": (handled(of_array), "as an array-like Struct, but payloads are objects"),
    "an unfinished model": (handled(of_unfinished), "cannot have its payload as Unfinished; mend that type:"),
    "a model for type checkers": (handled(of_imagined), "annotates payload with Imagined, which cannot be"),
    "another projection's row": (handled(of_another_row), "takes a row of Other, but the projection's table"),
    "upcaster of nothing handled": (
        upcast(1, event_type="ad"),
        "upcasters for ['ad'], which have no handler",
    ),
    "upcaster of version 0": (upcast(0), "upcaster for 'add': version must be 1 or more, not 0"),
    "upcaster of version true": (upcast(True), "version must be an integer such as 1, not True"),
    "two upcasters": (upcast(1, 1), "two upcasters for 'add' of version 1; keep one"),
    "a gap between upcasters": (upcast(1, 3), "no upcaster for 'add' of version 2, though there is one of"),
    "no first upcaster": (upcast(2), "no upcaster for 'add' of version 1, though there is one of version 2"),
    "upcaster of two": (upcast(1, upcaster=nothing), "upcaster nothing must take the payload alone"),
    "async upcaster": (upcast(1, upcaster=asynchronous_upcaster), "asynchronous_upcaster is async"),
    "upcaster of no type": (upcast(1, event_type=""), "upcast() has an empty event type"),
    "upcaster without parentheses": (lambda: projection().upcast(same, version=1), "upcast() was given same"),  # type: ignore[arg-type]
}
if sys.version_info < (3, 12):
    MISTAKES["a TypedDict of typing"] = (handled(of_old_style), "import TypedDict from typing_extensions")


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence(mistake: str) -> None:
    make, told = MISTAKES[mistake]
    with pytest.raises(DeclarationError) as caught:
        make()
    sentence = str(caught.value)
    assert told in sentence
    assert sentence.startswith("Projection p: ")
    assert sentence.endswith(".")
    assert "\n" not in sentence


# What is fine, however odd.


def of_any(row, event) -> None:  # type: ignore[no-untyped-def]
    assert isinstance(event, Event)


def of_imagined_event(row: Imagined, event: imagined.Event) -> None:
    assert isinstance(event, Event)


def of_base(row: ProjectedRow, event: typing.Annotated[Event, "the event"]) -> None:
    assert isinstance(event, Event)


def of_everything(*both: Any) -> None:
    assert isinstance(both[1], Event)


class CallableObject:
    def __call__(self, row: Tally, event: Event) -> None:
        assert isinstance(event, Event)

    def method(self, row: Tally, event: Event) -> None:
        assert isinstance(event, Event)


FINE: dict[str, Callable[..., None]] = {
    "without annotations": of_any,
    "types for type checkers alone": of_imagined_event,
    "a base of the model": of_base,
    "any arguments": of_everything,
    "a lambda that remembers": lambda row, event, weight=2: of_any(row, event),
    "a partial": partial(lambda weight, row, event: of_any(row, event), 2),
    "an object": CallableObject(),
    "a bound method": CallableObject().method,
}


@pytest.mark.parametrize("handler", FINE.values(), ids=FINE)
def test_a_handler_that_takes_the_event_is_called_as_it_is(handler: Callable[..., None]) -> None:
    declared = projection()
    assert declared.on("add", "a b")(handler) is handler
    assert declared._handlers["add"] is handler
    folded = declared.fold(declared.new_state, [Event(EventId(1, 0), "add", {})])
    assert (folded.applied, folded.failure) == (1, None)
