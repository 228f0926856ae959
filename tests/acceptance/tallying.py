"""A projections module for commands: one of its handlers always fails."""

from __future__ import annotations

from tests import tallies as tallying

tallies = tallying.tallies()
