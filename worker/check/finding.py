"""What checks look at, and what they tell."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from worker.keys import Keys
from worker.projection import Projection
from worker.settings import Settings


class Severity(StrEnum):
    """How bad a finding is; the worst first."""

    ERROR = "error"
    """The worker cannot work, or events or rows get lost."""
    WARNING = "warning"
    """It works, until something happens that happens now and then."""
    INFO = "info"
    """Good to know."""


class Area(StrEnum):
    """What a check is about. A server that is away leaves the others to be checked."""

    SETTINGS = "settings"
    REDIS = "Redis"
    POSTGRESQL = "PostgreSQL"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of finding: its name, why it matters and what to do about it, in a sentence each."""

    name: str
    severity: Severity
    why: str
    remedy: str

    def found(self, what: str, remedy: str = "") -> Finding:
        """A finding of this kind; ``remedy`` where there is a better one than the usual."""
        return Finding(self, what, remedy or self.remedy)


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found, in a sentence; without credentials and payloads."""

    kind: Kind
    what: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Deployment:
    """What is checked. ``clock`` is this host's, in Unix seconds; ``long_transaction`` is too long."""

    settings: Settings
    projections: Sequence[Projection]
    redis: Redis
    engine: AsyncEngine
    clock: Callable[[], float] = time.time
    long_transaction: timedelta = timedelta(minutes=1)

    @property
    def keys(self) -> Keys:
        return self.settings.keys


@dataclass(frozen=True, slots=True)
class Check:
    """One thing to look at. ``look`` may raise what servers do to us; ``kinds`` is all that it may find.

    After an error that a ``gate`` finds the other checks of its area would only tell the same again.
    """

    name: str
    area: Area
    look: Callable[[Deployment], Awaitable[Sequence[Finding]]]
    kinds: tuple[Kind, ...]
    gate: bool = False


NOT_TOLD = Kind(
    "not-told",
    Severity.INFO,
    "What the server does not tell this user cannot be checked.",
    "Run the check as a user with more rights, or look yourself.",
)
"""Of every check, where it takes rights that the worker itself does without."""
