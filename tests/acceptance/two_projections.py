"""A projections module for commands that declares two projections."""

from __future__ import annotations

from projections import strategies
from tests.acceptance.tallying import tallies

__all__ = ["strategies", "tallies"]
