"""Keys that stand where logs do and can never be projected."""

from __future__ import annotations

from collections.abc import Iterable

import structlog

log = structlog.get_logger("sweep")

_EXAMPLE_BYTES = 60


class UnusableKeys:
    """Counts them in each sweep, and logs their number when it changes: nobody else would notice them."""

    def __init__(self) -> None:
        self._found = 0
        self._example = ""
        self._told = 0

    def add(self, names: Iterable[bytes]) -> None:
        """Note keys that this sweep came upon."""
        for name in names:
            self._example = self._example or _shown(name)
            self._found += 1

    def end_of_sweep(self) -> int:
        """How many there were, from the last end of a sweep on."""
        found, example = self._found, self._example
        if found != self._told:
            log.warning("keys_unusable", keys=found, **({"example": example} if example else {}))
            self._told = found
        self.start_of_sweep()
        return found

    def start_of_sweep(self) -> None:
        """Forget what a sweep found that was broken off."""
        self._found, self._example = 0, ""


def _shown(name: bytes) -> str:
    """A key in plain ASCII, and not too long."""
    return repr(name[:_EXAMPLE_BYTES])[2:-1] + ("..." if len(name) > _EXAMPLE_BYTES else "")
