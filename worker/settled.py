"""What the sweep remembers of each log, so that idle ones cost next to nothing."""

from __future__ import annotations

from collections.abc import Mapping

_MAX_REMEMBERED = 500_000


class Settled:
    """For each stream the last entry up to which nothing is left to do; None if its log was empty or gone.

    Kept as the bytes that Redis sends, so that a hundred thousand logs are compared without decoding one.
    """

    def __init__(self) -> None:
        self._ends: dict[bytes, bytes] = {}

    def __contains__(self, stream_id: str) -> bool:
        return stream_id.encode() in self._ends

    def get(self, stream_id: str) -> str | None:
        """Where a stream is settled; None also where that is not known."""
        end = self._ends.get(stream_id.encode())
        return end.decode() if end else None

    def put(self, stream_id: str, last_id: str | None) -> None:
        """Remember that nothing is left to do while the log ends here."""
        if len(self._ends) >= _MAX_REMEMBERED:
            self._ends.clear()
        self._ends[stream_id.encode()] = last_id.encode() if last_id else b""

    def clear(self) -> None:
        """Forget everything."""
        self._ends.clear()

    def others(self, found: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
        """Those of these ends, by stream, that are not known to be settled."""
        known = self._ends.get
        return {stream: end for stream, end in found.items() if known(stream) != end}
