"""Typed payloads: what a handler's annotation asks for is made of the event's data before it is called.

A payload that does not fit rejects its event. The reason names fields and says what is wrong with them, and
never quotes a value, since it is logged.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import is_dataclass
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, PydanticUserError, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError
from typing_extensions import is_typeddict

from worker.errors import DeclarationError, RejectedEventError
from worker.events import Event
from worker.fold import Handler
from worker.misfit import misfit, misfit_of_struct
from worker.payload import copy_of, encode
from worker.signature import NOT_ANNOTATED, HandlerSignature

Parser = Callable[[dict[str, Any]], Any]
"""Makes what a handler asks for of an event's data, which it leaves alone; raises RejectedEventError."""

_KINDS = "a pydantic model, a msgspec Struct, a dataclass, a TypedDict or dict[str, Any]"
_PLAIN = (dict, Mapping, MutableMapping)


def typed_handler(where: str, handler: Callable[..., None], signature: HandlerSignature) -> Handler:
    """The handler as the fold calls it: itself, unless it takes a payload."""
    if not signature.takes_payload:
        return handler
    parse = parser_of(where, signature.payload)
    if signature.takes_event:

        def both(row: Any, event: Event) -> None:
            handler(row, event, parse(event.data))

        return both

    def payload_alone(row: Any, event: Event) -> None:
        handler(row, parse(event.data))

    return payload_alone


def parser_of(where: str, annotation: Any) -> Parser:
    """The parser for an annotation; raises DeclarationError for one that no payload can become."""
    if _is_plain(annotation):
        return copy_of
    members = _members(annotation)
    structs = [_is_struct(member) for member in members]
    if not all(struct or _is_model(member) for struct, member in zip(structs, members, strict=True)):
        raise DeclarationError(f"{where} annotates its payload with {_named(annotation)}; take {_KINDS}.")
    if all(structs):
        return _struct_parser(where, annotation)
    if any(structs):
        raise DeclarationError(
            f"{where} annotates its payload with Structs of msgspec and others at once; take one kind."
        )
    return _pydantic_parser(where, annotation)


def _pydantic_parser(where: str, annotation: Any) -> Parser:
    adapter = _adapter(where, annotation)
    name = _named(annotation)

    def parse(data: dict[str, Any]) -> Any:
        try:
            return adapter.validate_python(copy_of(data))
        except ValidationError as error:
            as_python = error
        # A strict model takes dates and the like, written as text, only of what it knows to be JSON.
        try:
            return adapter.validate_json(encode(data))
        except ValidationError as error:
            unread = any(fault["type"] == "json_invalid" for fault in error.errors())
            raise RejectedEventError(misfit(name, as_python if unread else error)) from None

    return parse


def _adapter(where: str, annotation: Any) -> TypeAdapter[Any]:
    try:
        adapter = TypeAdapter[Any](annotation)
        adapter.rebuild()
    except PydanticUserError as error:
        if error.code == "typed-dict-version":
            raise DeclarationError(
                f"{where}: {_named(annotation)} is or holds a TypedDict of typing, which cannot be checked "
                "before Python 3.12; import TypedDict from typing_extensions."
            ) from None
        raise DeclarationError(_unusable(where, annotation, error)) from None
    except (PydanticSchemaGenerationError, NameError, TypeError) as error:
        raise DeclarationError(_unusable(where, annotation, error)) from None
    return adapter


def _struct_parser(where: str, annotation: Any) -> Parser:
    msgspec = sys.modules["msgspec"]  # Whoever has defined a Struct has imported it.
    if any(member.__struct_config__.array_like for member in _members(annotation)):
        raise DeclarationError(
            f"{where} takes its payload as an array-like Struct, but payloads are objects; let it be none."
        )
    try:
        msgspec.json.Decoder(annotation)
    except (TypeError, NameError) as error:
        raise DeclarationError(_unusable(where, annotation, error)) from None
    name = _named(annotation)

    def parse(data: dict[str, Any]) -> Any:
        try:
            return msgspec.convert(copy_of(data), annotation, str_keys=True)
        except msgspec.ValidationError as error:
            raise RejectedEventError(misfit_of_struct(name, error)) from None

    return parse


def _unusable(where: str, annotation: Any, error: Exception) -> str:
    first_line = (str(error).splitlines() or [""])[0]
    first_sentence = first_line.partition(". ")[0].rstrip(".")
    return f"{where} cannot have its payload as {_named(annotation)}; mend that type: {first_sentence}."


def _is_plain(annotation: Any) -> bool:
    if annotation in (NOT_ANNOTATED, Any, object):
        return True
    return (get_origin(annotation) or annotation) in _PLAIN and get_args(annotation) in (
        (),
        (str, Any),
        (str, object),
    )


def _members(annotation: Any) -> list[Any]:
    """The classes that a payload may become: several for a union."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [member for part in get_args(annotation) for member in _members(part)]
    if (named := getattr(annotation, "__value__", None)) is not None:  # type Line = ...
        return _members(named)
    return [get_origin(annotation) or annotation]


def _is_model(member: Any) -> bool:
    if is_typeddict(member) or member in _PLAIN:
        return True
    return isinstance(member, type) and (issubclass(member, BaseModel) or is_dataclass(member))


def _is_struct(member: Any) -> bool:
    msgspec = sys.modules.get("msgspec")
    return msgspec is not None and isinstance(member, type) and issubclass(member, msgspec.Struct)


def _named(annotation: Any) -> str:
    """As people call it: models by their names alone, without what is said about them."""
    if get_origin(annotation) is Annotated:
        return _named(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return " | ".join(_named(part) for part in get_args(annotation))
    return annotation.__name__ if isinstance(annotation, type) else str(annotation).replace("typing.", "")
