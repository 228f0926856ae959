"""Writing a batch of rows although some of them cannot be written."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from sqlalchemy.exc import DBAPIError

from worker.cache import state_bytes
from worker.errors import NewerVersionError
from worker.store import Store
from worker.table import RowWrite
from worker.trouble import Trouble, classify, describe

_WRITE_BYTES = 16 * 1024 * 1024
_PARTS = 16
"""Into how many parts a refused batch is split: most of them are written, and only one is split again."""


@dataclass(slots=True)
class Written:
    """What became of a batch. Streams that are named nowhere have lost their comparison.

    ``refused`` are rows that PostgreSQL will not have, ``newer`` those that cannot be written without
    changing rows of a newer version of the projection; each with a sentence that says why.
    """

    won: set[str] = field(default_factory=set)
    refused: dict[str, str] = field(default_factory=dict)
    newer: dict[str, str] = field(default_factory=dict)

    def add(self, other: Written) -> None:
        """Include what became of other writes."""
        self.won |= other.won
        self.refused |= other.refused
        self.newer |= other.newer


class BatchWriter:
    """Writes in transactions that are not too large, and in smaller parts until what is refused is alone.

    Dying in between leaves parts written and others not, which is well: every row has its own comparison.
    """

    def __init__(self, store: Store, races: Collection[str]) -> None:
        self._store = store
        self._races = races

    async def write(self, writes: Sequence[RowWrite]) -> Written:
        """Write, and say what became of each stream. Raises all errors that are no row's fault."""
        written = Written()
        for chunk in _chunks(writes):
            written.add(await self._write(chunk))
        return written

    async def _write(self, writes: Sequence[RowWrite]) -> Written:
        written = Written()
        try:
            written.won = await self._store.write(writes)
            return written
        except NewerVersionError as error:
            alone = written.newer
            why = str(error)
        except DBAPIError as error:
            if classify(error, self._races) is not Trouble.POISON:
                raise
            alone = written.refused
            why = describe(error)
        if len(writes) == 1:
            alone[writes[0].stream_id] = why
            return written
        part = -(-len(writes) // _PARTS)
        for at in range(0, len(writes), part):
            written.add(await self._write(writes[at : at + part]))
        return written


def _chunks(writes: Sequence[RowWrite]) -> Iterator[list[RowWrite]]:
    """Cut a batch so that no transaction carries much more than _WRITE_BYTES."""
    chunk: list[RowWrite] = []
    size = 0
    for write in writes:
        write_bytes = state_bytes(write.row) + sum(rows.bytes for rows in write.children.values())
        size += write_bytes
        if chunk and size > _WRITE_BYTES:
            yield chunk
            chunk, size = [], write_bytes
        chunk.append(write)
    if chunk:
        yield chunk
