"""What events say of claims, and the single reader that applies it: who holds which WDK strategy. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from worker import EventId


@dataclass(frozen=True, slots=True)
class Claimed:
    """The stream claims a WDK strategy."""

    event_id: EventId
    wdk_strategy_id: int


@dataclass(frozen=True, slots=True)
class Saved:
    """The stream says whether its strategy is saved in WDK."""

    event_id: EventId
    is_saved: bool


@dataclass(frozen=True, slots=True)
class Cleared:
    """The stream gives up what it holds."""

    event_id: EventId


Fact = Claimed | Saved | Cleared


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim as the history has it. ``until`` is None while it is open."""

    stream_id: str
    since: EventId
    wdk_strategy_id: int
    until: EventId | None


def history(stream_id: str, facts: Sequence[Fact]) -> list[Claim]:
    """The claims among a stream's facts, in order. Each ends at the stream's next claim or clear."""
    claims: list[Claim] = []
    until: EventId | None = None
    for fact in reversed(facts):
        if isinstance(fact, Claimed):
            claims.append(Claim(stream_id, fact.event_id, fact.wdk_strategy_id, until))
        if isinstance(fact, Claimed | Cleared):
            until = fact.event_id
    return claims[::-1]


def first_end(facts: Sequence[Fact]) -> EventId | None:
    """The event that ends the claim which was open before these facts."""
    return next((fact.event_id for fact in facts if isinstance(fact, Claimed | Cleared)), None)


def last_saved(facts: Sequence[Fact]) -> Saved | None:
    """What the facts say of is_saved last."""
    for fact in reversed(facts):
        if isinstance(fact, Saved):
            return fact
        if isinstance(fact, Cleared):
            return Saved(fact.event_id, False)
    return None


class ClaimsReader:
    """Who holds which strategy, and who is saved, after facts that were applied in order."""

    def __init__(self) -> None:
        self._holder: dict[int, str] = {}
        self._held: dict[str, int] = {}
        self._saved: set[str] = set()

    def apply(self, stream_id: str, fact: Fact) -> None:
        """Apply the next fact."""
        match fact:
            case Claimed():
                loser = self._holder.get(fact.wdk_strategy_id)
                if loser is not None and loser != stream_id:
                    self._clear(loser)
                self._give_up(stream_id)
                self._holder[fact.wdk_strategy_id] = stream_id
                self._held[stream_id] = fact.wdk_strategy_id
            case Saved(is_saved=True):
                self._saved.add(stream_id)
            case Saved():
                self._saved.discard(stream_id)
            case Cleared():
                self._clear(stream_id)

    def _clear(self, stream_id: str) -> None:
        self._give_up(stream_id)
        self._saved.discard(stream_id)

    def _give_up(self, stream_id: str) -> None:
        if (previous := self._held.pop(stream_id, None)) is not None:
            del self._holder[previous]

    def columns(self, stream_id: str) -> Mapping[str, Any]:
        """What readers see of a stream."""
        return {"wdk_strategy_id": self._held.get(stream_id), "is_saved": stream_id in self._saved}
