"""Hot rows, so that a stream that gets news often is not loaded each time."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from worker.letters import NOTHING_TO_HEED, Heeded
from worker.row import RawJson
from worker.table import StoredRow

_ENTRY_BYTES = 600  # A row without its text: objects, tuple slots and dictionary entries, measured roughly.


@dataclass(frozen=True, slots=True)
class KnownStream:
    """What is known of a stream: its committed row, and how far its log was read.

    ``row`` is None where there was none. ``read_to`` is the last entry read, of whatever type, at or after
    the row's position; None when the row was just loaded, and never in the cache. ``log_starts_at`` is the
    log's first entry, known where the log was read from its start. ``heeded`` are the dead letters that a
    fold of the stream must heed.
    """

    row: StoredRow | None
    read_to: str | None = None
    log_starts_at: str | None = None
    heeded: Heeded = NOTHING_TO_HEED


class RowCache:
    """Least recently used streams are dropped once the cache exceeds ``max_bytes``.

    It holds committed state only. That another replica has moved a row meanwhile shows when the next write
    loses its comparison; the stream is then forgotten and loaded again.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._streams: OrderedDict[str, tuple[KnownStream, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._streams)

    def pop(self, stream_id: str) -> KnownStream | None:
        """Take a stream out. Whoever takes it puts it back once its state is known to be committed."""
        entry = self._streams.pop(stream_id, None)
        if entry is None:
            return None
        self._bytes -= entry[1]
        return entry[0]

    def put(self, stream_id: str, known: KnownStream) -> None:
        """Keep what is known of a stream, in place of what was known before."""
        self.pop(stream_id)
        size = _ENTRY_BYTES + len(stream_id) + (state_bytes(known.row) if known.row else 0)
        self._streams[stream_id] = (known, size)
        self._bytes += size
        while self._bytes > self._max_bytes:
            _, (_, dropped) = self._streams.popitem(last=False)
            self._bytes -= dropped


def state_bytes(row: StoredRow) -> int:
    """About how many bytes of text a row holds."""
    return sum(
        len(value.text) if isinstance(value, RawJson) else len(value)
        for value in row.state
        if isinstance(value, RawJson | str)
    )
