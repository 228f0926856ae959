"""The transcripts read model: the messages of every conversation in PostgreSQL, to be paged and searched.

``transcripts`` keeps one row a message in ``stream_messages``. What a page shows is what
`projections.read_stream_messages` reads from the log, without reading the log. Not among the projections
that run by default: name this module, too, in WORKER_PROJECTIONS.
"""

from __future__ import annotations

from projections import stored_turn
from projections.messages import TRANSCRIPT_TYPES
from projections.models import StreamMessage, StreamTranscript
from projections.projected_messages import (
    Found,
    MessagePage,
    read_projected_messages,
    search_messages,
)
from worker import Event, Projection

__all__ = ["Found", "MessagePage", "read_projected_messages", "search_messages", "transcripts"]

transcripts = Projection(
    "transcripts",
    table=StreamTranscript,
    children={"messages": StreamMessage},
    version=1,
    checkpoints={"user_message", "assistant_message"},
)


@transcripts.on(*sorted(TRANSCRIPT_TYPES))
def apply(row: StreamTranscript, event: Event) -> None:
    """Whatever a transcript shows."""
    stored_turn.apply(row, event)
