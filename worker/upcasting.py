"""Upcasters: payloads of old versions made into those of today before handlers see them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from worker.errors import DeclarationError, RejectedEventError
from worker.events import Event
from worker.fold import Handler
from worker.payload import copy_of
from worker.signature import check_plain, name_of, takes

Upcaster = Callable[[dict[str, Any]], dict[str, Any]]
"""Makes a payload of the next version of one that it may change or take apart. Pure, like handlers."""


class Upcasters:
    """The upcasters of one projection, by event type and the version that each takes."""

    def __init__(self, projection: str, version_field: str) -> None:
        self._projection = projection
        self._field = version_field
        self._chains: dict[str, _Chain] = {}

    def add(self, event_type: str, version: int, upcaster: Any) -> bool:
        """Register one, and tell whether it is the first of its type; raises DeclarationError."""
        where = f"Projection {self._projection}: upcaster {name_of(upcaster)}"
        check_plain(where, upcaster)
        if not takes(upcaster, 1):
            raise DeclarationError(f"{where} must take the payload alone; write it as (payload).")
        chain = self._chains.setdefault(event_type, _Chain(event_type, self._field))
        if version in chain.steps:
            raise DeclarationError(
                f"Projection {self._projection}: two upcasters for {event_type!r} of version {version}; "
                "keep one."
            )
        chain.steps[version] = upcaster
        return len(chain.steps) == 1

    def before(self, event_type: str, handler: Handler) -> Handler:
        """The handler with the upcasters of its type before it: itself where there are none."""
        chain = self._chains.get(event_type)
        return partial(chain.apply, handler) if chain else handler

    def check(self, handled: frozenset[str]) -> None:
        """Raise DeclarationError for what can only be seen once all are registered."""
        if unhandled := sorted(self._chains.keys() - handled):
            raise DeclarationError(
                f"Projection {self._projection}: upcasters for {unhandled}, which have no handler; "
                "register one or take them away."
            )
        for event_type, chain in self._chains.items():
            if missing := sorted(set(range(1, max(chain.steps))) - chain.steps.keys()):
                raise DeclarationError(
                    f"Projection {self._projection}: no upcaster for {event_type!r} of version {missing[0]}, "
                    f"though there is one of version {max(chain.steps)}; add it."
                )


class _Chain:
    """The upcasters of one event type, one after the other."""

    def __init__(self, event_type: str, version_field: str) -> None:
        self.steps: dict[int, Upcaster] = {}
        self._type = event_type
        self._field = version_field

    def apply(self, handler: Handler, row: Any, event: Event) -> None:
        """Call the handler with an event whose data are of the newest version."""
        version = event.data.get(self._field, 1)
        if type(version) is not int or version < 1:
            raise RejectedEventError(f"the payload's {self._field} is no positive integer")
        if version in self.steps:
            event = event._replace(data=self._upcast(copy_of(event.data), version))
        handler(row, event)

    def _upcast(self, payload: dict[str, Any], version: int) -> dict[str, Any]:
        while upcaster := self.steps.get(version):
            made: Any = upcaster(payload)
            if not isinstance(made, dict):
                raise TypeError(
                    f"Upcaster {name_of(upcaster)} of {self._type!r}, version {version}, returned "
                    f"{type(made).__name__}; return the payload as a dict."
                )
            payload, version = made, version + 1
            payload[self._field] = version
        return payload
