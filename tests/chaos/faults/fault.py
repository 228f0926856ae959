"""What a fault is."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import TypeAlias

from tests.chaos.world import World


class Target(Enum):
    """What a fault breaks. No two faults break the same at the same time."""

    WORKERS = auto()
    POSTGRESQL = auto()
    REDIS = auto()
    POSTGRESQL_NETWORK = auto()
    REDIS_NETWORK = auto()
    OPERATORS = auto()


Action: TypeAlias = Callable[[World, random.Random], Awaitable[None]]
"""Breaks something and mends it again; the random number generator decides on the details."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A kind of fault."""

    name: str
    target: Target
    action: Action


def faults(target: Target, *actions: Action) -> tuple[Fault, ...]:
    """Faults named after the functions that cause them."""
    return tuple(Fault(action.__name__, target, action) for action in actions)
