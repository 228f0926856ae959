"""What an operator may do for a stream, by how it stands."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from worker.standing import Standing, StreamView


def advice(view: StreamView) -> Iterator[str]:
    """Sentences and commands, the most urgent first; none where all is well."""
    stream = shlex.quote(view.stream_id)
    rebuild = f"projection-worker rebuild --stream {stream}"
    if view.letter:
        yield f"projection-worker dead-letters show {stream} {view.letter.event_id}; then retry or skip it"
    if view.standing is Standing.DIVERGED:
        yield f"if events were taken back on purpose, {rebuild}; else find out what Redis has lost"
    if view.standing is Standing.LOG_GONE:
        prune = f"projection-worker rebuild --prune --stream {stream}"
        yield f"if the conversation was deleted, {prune}; else find out what Redis has lost"
    if view.standing is Standing.UNREADABLE:
        yield "find out who wrote that key, and delete it"
    if view.row_version is not None and view.row_version < view.version:
        yield f"wait for the next event, or {rebuild}"
    if view.row_version is not None and view.row_version > view.version:
        yield "use the newer version of the projection, which wrote this row"
