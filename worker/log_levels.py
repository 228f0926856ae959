"""Which log lines are shown: one level for all, and others for some parts of the worker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from worker.errors import SettingsError

LEVELS: Final[Mapping[str, int]] = {"debug": 10, "info": 20, "warning": 30, "error": 40}
PARTS: Final = ("worker", "servers", "http", "feed", "leases", "batches", "sweep", "verify")
"""What lines say in `part`, and README explains: each module that logs gives `get_logger` one of these."""


@dataclass(frozen=True, slots=True)
class LogLevels:
    """The least important lines that are shown: in general, and of parts."""

    general: int = LEVELS["info"]
    of_parts: Mapping[str, int] = field(default_factory=dict)

    @property
    def lowest(self) -> int:
        """Lines below are shown by no part."""
        return min(self.general, *self.of_parts.values()) if self.of_parts else self.general

    def shows(self, level: str, part: str) -> bool:
        """Whether a line is shown; ``part`` may be anybody's."""
        return LEVELS.get(level, LEVELS["error"]) >= self.of_parts.get(part, self.general)


def parse_log_levels(text: str) -> LogLevels:
    """Read ``info,feed=debug,sweep=warning``: a level, and parts with levels of their own, in any order.

    Raises SettingsError, whose message does not name the variable, and says what there is.
    """
    general: int | None = None
    of_parts: dict[str, int] = {}
    for item in map(str.strip, text.split(",")):
        part, equals, level = item.rpartition("=")
        if level not in LEVELS:
            raise SettingsError(f"{level!r} is no level: write {_either(LEVELS)}, such as info,feed=debug")
        if not equals and general is None:
            general = LEVELS[level]
        elif not equals:
            raise SettingsError("it has two levels without a part: write one, such as info,feed=debug")
        elif part not in PARTS:
            raise SettingsError(f"{part!r} is no part of the worker: there are {', '.join(PARTS)}")
        elif part in of_parts:
            raise SettingsError(f"it has two levels for {part}: write one")
        else:
            of_parts[part] = LEVELS[level]
    return LogLevels(LEVELS["info"] if general is None else general, of_parts)


def _either(names: Mapping[str, int]) -> str:
    *most, last = names
    return f"{', '.join(most)} or {last}"
