"""In which trace an event was emitted: the field ``traceparent`` of its entry, as in W3C Trace Context."""

from __future__ import annotations

import sys
from collections.abc import Sequence

_FIELD = b"traceparent"
_MAX_BYTES = 128
"""Longer than any version of the format that there is."""


def current_traceparent() -> str | None:
    """Of the span that is recorded here at the moment; None where there is none.

    Who records spans has imported OpenTelemetry. Nobody else is made to.
    """
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None or not trace.get_current_span().is_recording():
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get("traceparent")


def without_traceparent(fields: Sequence[bytes]) -> Sequence[bytes]:
    """The fields of an entry, ``[name, value, ...]``, but for that which `emit` may have written last."""
    return fields[:-2] if len(fields) > 6 and fields[-2] == _FIELD else fields


class Traceparents:
    """Those of the entries that are read: each once, and only so many."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._found: dict[bytes, None] = {}

    def note(self, fields: Sequence[bytes]) -> None:
        """Look at an entry's fields, ``[name, value, ...]``."""
        for at in range(len(fields) - 2, -1, -2):
            if fields[at] == _FIELD:
                if len(self._found) < self._most and len(fields[at + 1]) <= _MAX_BYTES:
                    self._found[fields[at + 1]] = None
                return

    def take(self) -> list[bytes]:
        """What was found since this was last called."""
        found, self._found = self._found, {}
        return list(found)
