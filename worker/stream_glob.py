"""Which stream ids a projection takes: one pattern, decided in one place for hints, sweeps and commands."""

from __future__ import annotations

import re
from fnmatch import translate
from typing import Final


class StreamGlob:
    """A pattern that a whole stream id matches or not: ``*`` any text, ``?`` one character, ``[abc]``,
    ``[a-z]`` and ``[!abc]`` one of these, or none of them; case counts. Two with one pattern are equal.

    Raises ValueError, with a sentence, for what Redis and Python read differently, and for what no stream id
    can match.
    """

    __slots__ = ("_matches", "pattern")

    def __init__(self, pattern: str) -> None:
        if not isinstance(pattern, str):
            raise ValueError(f"streams must be a pattern such as 'eu-*', not {pattern!r}.")
        if not pattern:
            raise ValueError("streams is empty, which no stream matches; give '*' for all streams.")
        if not pattern.isprintable():
            raise ValueError(f"streams {pattern!r} holds what no pattern should; give one like 'eu-*'.")
        if "\\" in pattern or "[^" in pattern:
            raise ValueError(
                f"streams {pattern!r} holds '\\' or '[^': write [*] for a '*' itself, and [!a] for all but a."
            )
        self.pattern = pattern
        self._matches = None if pattern == "*" else re.compile(translate(pattern)).match

    def covers(self, stream_id: str) -> bool:
        """Whether the stream is one of these."""
        return self._matches is None or self._matches(stream_id) is not None

    def covers_raw(self, raw: bytes) -> bool:
        """The same for an id as Redis has it. One that is not UTF-8 is covered: somebody must tell of it."""
        try:
            return self._matches is None or self.covers(raw.decode())
        except UnicodeDecodeError:
            return True

    def redis_pattern(self, prefix: str) -> str:
        """For SCAN: a pattern that all keys of these streams match, and some others may.

        Redis counts bytes where we count characters, and writes classes otherwise; so only ``*`` is left.
        """
        literals = (re.sub(r"([*?\[\]\\])", r"\\\1", part) for part in self._literals())
        return re.sub(r"([*?\[\]\\])", r"\\\1", prefix) + "*".join(literals)

    def _literals(self) -> list[str]:
        """What stands between wildcards; the rest behind a bracket may be anything."""
        return re.split(r"(?s:\*|\?|\[.*)+", self.pattern)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StreamGlob) and other.pattern == self.pattern

    def __hash__(self) -> int:
        return hash(self.pattern)

    def __repr__(self) -> str:
        return f"StreamGlob({self.pattern!r})"


ALL_STREAMS: Final = StreamGlob("*")
