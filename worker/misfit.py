"""Why a payload does not fit its model, for people who read letters and logs.

The reasons are made of names of fields and of what models ask for. What pydantic and msgspec say beyond
that may quote the payload, and so may what a model's own checks say: it is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

from pydantic import ValidationError
from pydantic_core.core_schema import ErrorType

_MAX_FAULTS = 5
_MAX_NAME_CHARACTERS = 60
_OWN_CHECK = "is refused by a check of the model"
_OWN_CHECKS = ("value_error", "assertion_error")
_KNOWN = frozenset(get_args(ErrorType)) - {*_OWN_CHECKS}
# What a message says after its first comma or colon quotes the payload if its context has one of these.
_QUOTING = frozenset({"error", "encoding_error", "tz_actual"})
_SAID = {"missing": "is missing", "extra_forbidden": "is not known"}
# How messages of msgspec begin that say nothing of values.
_STRUCT_SAFE = ("Expected ", "Object missing ", "Object contains unknown ", "Array missing ")


def misfit(model: str, error: ValidationError) -> str:
    """The reason for a payload that pydantic refuses."""
    faults = error.errors(include_url=False, include_input=False)
    return _sentence(model, [f"{_path(fault['loc'])} {_said(fault)}" for fault in faults])


def misfit_of_struct(model: str, error: Exception) -> str:
    """The reason for a payload that msgspec refuses, which tells of the first fault only."""
    what, _, path = str(error).rpartition(" - at `$")
    what, field = (what, path.rstrip("`").lstrip(".")) if what else (str(error), "")
    if error.__cause__ is not None:
        what = _OWN_CHECK
    elif not what.startswith(_STRUCT_SAFE):
        what = "is a value that the model does not allow"
    else:
        what = what[0].lower() + what[1:].replace("`", "")
    place = _shortened(field) if field else "the payload"
    return _sentence(
        model, [f"{place}: {what}" if what.startswith(("expected", "object")) else f"{place} {what}"]
    )


def _sentence(model: str, faults: Sequence[str]) -> str:
    more = len(faults) - _MAX_FAULTS
    told = [*faults[:_MAX_FAULTS], *([f"and {more} more"] if more > 0 else [])]
    return f"the payload does not fit {model}: {'; '.join(told)}"


def _said(fault: Mapping[str, Any]) -> str:
    kind, message = fault["type"], fault["msg"]
    context: Iterable[str] = fault.get("ctx", {})
    if kind in _SAID:
        return _SAID[kind]
    if kind == "union_tag_invalid":
        return f"has a value of {fault['ctx']['discriminator']} that no model has"
    if kind not in _KNOWN:
        return _OWN_CHECK
    if kind.endswith("_parsing") or _QUOTING & set(context):
        message = message.partition(", ")[0].partition(": ")[0]
    message = message.removeprefix("Input ").removeprefix("Data ")
    return message if message.startswith("should ") else f"is refused: {_within_sentence(message)}"


def _within_sentence(message: str) -> str:
    """Without the capital that it begins with, unless that is of an abbreviation."""
    return message if message[:2].isupper() else message[:1].lower() + message[1:]


def _path(place: Sequence[str | int]) -> str:
    return ".".join(_shortened(str(part)) for part in place) or "the payload"


def _shortened(name: str) -> str:
    return name if len(name) <= _MAX_NAME_CHARACTERS else f"{name[: _MAX_NAME_CHARACTERS - 1]}…"
