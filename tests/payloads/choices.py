"""Who decides what generated data looks like: hypothesis, or a seeded random number generator.

Data is described once, by tables of options, and chosen by `Choices`. Hypothesis makes the choices for
property tests, and plainer ones where a test fails; a random number generator makes them for tests that run
for long.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeVar

from hypothesis import strategies as st

T = TypeVar("T")


class Choices(Protocol):
    """Whoever decides what a generated conversation looks like."""

    def pick(self, options: Sequence[T]) -> T:
        """One of the options. The plainest comes first, a likely one more than once."""

    def count(self, least: int, most: int) -> int:
        """A number, both ends included."""

    def text(self) -> str:
        """Some text, of any kind."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """Choices that hypothesis makes."""

    draw: st.DrawFn

    def pick(self, options: Sequence[T]) -> T:
        return options[self.draw(st.integers(0, len(options) - 1))]

    def count(self, least: int, most: int) -> int:
        return self.draw(st.integers(least, most))

    def text(self) -> str:
        return self.draw(st.sampled_from(TEXTS) | st.text(st.sampled_from(CHARACTERS), max_size=5))


@dataclass(frozen=True, slots=True)
class Rolled:
    """Choices that a seeded random number generator makes."""

    rng: random.Random

    def pick(self, options: Sequence[T]) -> T:
        return self.rng.choice(options)

    def count(self, least: int, most: int) -> int:
        return self.rng.randint(least, most)

    def text(self) -> str:
        return self.rng.choice((*TEXTS, "".join(self.rng.choices(CHARACTERS, k=5))))


class Absent:
    """Marks a field that an object does not have."""


ABSENT = Absent()

Table: TypeAlias = dict[str, Sequence[Any]]
"""Fields of an object, each with options: JSON values, ABSENT, or functions that make a value."""


def make_object(choices: Choices, table: Table) -> dict[str, Any]:
    """An object with one of its options for each field."""
    picked = {name: choices.pick(options) for name, options in table.items()}
    return {
        name: option(choices) if callable(option) else option
        for name, option in picked.items()
        if option is not ABSENT
    }


CHARACTERS = 'ab "\\/\n\x00\x1f\x7fÿ\u07ff\u2028\ufffd\U0010ffff'
TEXTS = (
    *("Kinases", "gene", "", " ", "Größe", "日本語", "\U0001f9ec", "\uff5e", "a\x00b", "\ud800 alone"),
    "\ud83e\uddec",  # two halves of one character: JSON's escapes make them one again
    "l" * 5_000,
)


def any_text(choices: Choices) -> str:
    return choices.text()


WRONG_TYPES: tuple[Any, ...] = (None, True, False, 0, 5, 1.5, [], ["x"], {}, {"x": 1})

TEXT_FIELD: tuple[Any, ...] = (ABSENT, *(any_text,) * 5, "", None, 5, *WRONG_TYPES)
"""Options for a field that should be text."""
