"""What the signature of a handler or upcaster says, read once when it is registered."""

from __future__ import annotations

import functools
import inspect
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from worker.errors import DeclarationError
from worker.events import Event

NOT_ANNOTATED: Any = inspect.Parameter.empty

_FORMS = "(row, event: Event), (row, payload: Model) or (row, event: Event, payload: Model)"
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True, slots=True)
class HandlerSignature:
    """What a handler takes: the row, the event, a payload, or the event and a payload.

    ``row`` and ``payload`` are annotations, NOT_ANNOTATED where there is none, or, for ``row``, none that can
    be resolved.
    """

    row: Any
    takes_event: bool
    takes_payload: bool
    payload: Any = NOT_ANNOTATED


def callers_names() -> Mapping[str, Any]:
    """The local names where the caller was called: models may be defined in a function, such as a test."""
    return dict(sys._getframe(2).f_locals)


def check_plain(where: str, function: Any) -> None:
    """Raise DeclarationError for what is no plain function."""
    if isinstance(function, type) or not callable(function):
        raise DeclarationError(f"{where} is no function; write one with def.")
    for code in (function, function.__call__):  # the latter of an object that can be called
        if inspect.iscoroutinefunction(code) or inspect.isasyncgenfunction(code):
            raise DeclarationError(f"{where} is async; it does no I/O, so write it with def alone.")
        if inspect.isgeneratorfunction(code):
            raise DeclarationError(f"{where} is a generator, which would never run; take the yield out.")


def name_of(function: Any) -> str:
    """What people call a function."""
    return getattr(_unwrapped(function), "__name__", None) or type(function).__name__


def takes(function: Callable[..., Any], number: int) -> bool:
    """Whether a function can be called with so many positional arguments."""
    try:
        inspect.signature(function).bind(*range(number))
    except TypeError:
        return False
    return True


def read_handler(where: str, handler: Any, names: Mapping[str, Any]) -> HandlerSignature:
    """What a handler takes; ``names`` are those local to the place where it is registered.

    Raises DeclarationError for what no handler can be.
    """
    check_plain(where, handler)
    parameters = [p for p in inspect.signature(handler).parameters.values() if p.kind in _POSITIONAL]
    if parameters and parameters[0].name in ("self", "cls"):
        raise DeclarationError(f"{where} is a method; write a plain function outside of any class.")
    of = _Annotations(where, handler, names)
    if takes(handler, 2):
        _check_spare(where, parameters, of)
        row, second = of.first(parameters, 2)
        _check_row(where, row)
        if second in (NOT_ANNOTATED, Any, Event):
            return HandlerSignature(row, takes_event=True, takes_payload=False)
        return HandlerSignature(row, takes_event=False, takes_payload=True, payload=second)
    if not takes(handler, 3):
        raise DeclarationError(f"{where} takes {inspect.signature(handler)}; write it as {_FORMS}.")
    row, event, payload = of.first(parameters, 3)
    _check_row(where, row)
    if event not in (NOT_ANNOTATED, Any, Event) or payload is Event:
        raise DeclarationError(f"{where} takes its parameters in another order; write it as {_FORMS}.")
    return HandlerSignature(row, takes_event=True, takes_payload=True, payload=payload)


def _check_row(where: str, row: Any) -> None:
    if row is Event:
        raise DeclarationError(f"{where} takes the event first; write it as {_FORMS}.")


def _check_spare(where: str, parameters: Sequence[inspect.Parameter], of: _Annotations) -> None:
    """Refuse a payload with a default, which would never be given; other defaults are the author's."""
    for parameter in parameters[2:3]:
        model = of.read(parameter, needed=False)
        if isinstance(model, type) and "__annotations__" in vars(model):
            raise DeclarationError(
                f"{where} has a default for {parameter.name}, which would then never be given; take it away."
            )


def _unwrapped(function: Any) -> Any:
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.unwrap(function) if callable(function) else function


class _Annotations:
    """Resolves the annotations of one handler, which may be strings."""

    def __init__(self, where: str, handler: Any, names: Mapping[str, Any]) -> None:
        self._where = where
        function = _unwrapped(handler)
        self._globals = getattr(function, "__globals__", {})
        self._names = names

    def first(self, parameters: Sequence[inspect.Parameter], number: int) -> list[Any]:
        """The annotations of the first so many parameters; the row's need not be resolved."""
        read = [self.read(p, needed=at > 0) for at, p in enumerate(parameters[:number])]
        return read + [NOT_ANNOTATED] * (number - len(read))

    def read(self, parameter: inspect.Parameter, *, needed: bool) -> Any:
        """An annotation. Raises DeclarationError for one that is needed and cannot be resolved."""
        if (annotation := parameter.annotation) is NOT_ANNOTATED:
            return NOT_ANNOTATED
        try:
            hints = typing.get_type_hints(
                SimpleNamespace(__annotations__={"it": annotation}),
                self._globals,
                dict(self._names),
                include_extras=True,
            )
        except (NameError, AttributeError, SyntaxError, TypeError):
            if not needed:
                return NOT_ANNOTATED
            # Often imported for type checkers alone, and nothing else is called so.
            if isinstance(annotation, str) and annotation.rpartition(".")[2] == Event.__name__:
                return Event
            raise DeclarationError(
                f"{self._where} annotates {parameter.name} with {_spelled(annotation)}, which cannot be "
                "resolved; import or define it in the module itself, not only for type checkers."
            ) from None
        return _without_metadata_of_event(hints["it"])


def _spelled(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else repr(annotation)


def _without_metadata_of_event(annotation: Any) -> Any:
    plain = typing.get_origin(annotation) is typing.Annotated and typing.get_args(annotation)[0] is Event
    return Event if plain else annotation
