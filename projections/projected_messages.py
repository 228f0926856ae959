"""Messages read from PostgreSQL: page by page from the newest, and searched by their words. Reads only.

Both functions take a session or a connection of SQLAlchemy's asyncio, and whatever transaction it is in.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, RowMapping, Subquery, Table, func, literal_column, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from projections.models import MESSAGE_COLUMNS, SEARCH_LANGUAGE, SEARCHED_CHARACTERS, StreamMessage

_MESSAGES = StreamMessage.__table__
assert isinstance(_MESSAGES, Table)

HIGHLIGHT = ("\u2039", "\u203a")
"""What stands before and after a word that was searched for, in a snippet."""

_SNIPPET = (
    f'StartSel="{HIGHLIGHT[0]}", StopSel="{HIGHLIGHT[1]}", '
    'MaxFragments=2, MinWords=8, MaxWords=20, FragmentDelimiter=" ... "'
)
_LONGER_CONTENTS_COUNT_LESS = 1
_MOST_PLACES = 2**31 - 1
"""More than a position, or LIMIT, ever is: what is asked beyond that is asked for all."""
_LANGUAGE: ColumnElement[Any] = literal_column(f"'{SEARCH_LANGUAGE}'::regconfig")


@dataclass(frozen=True, slots=True)
class MessagePage:
    """Consecutive messages of a conversation, in order, as `projections.read_stream_messages` gives them.

    ``before`` is what to ask for the page before this one with; None where this one begins the conversation.
    """

    messages: list[dict[str, Any]]
    before: int | None


@dataclass(frozen=True, slots=True)
class Found:
    """A message that was found: where it stands, and the places in it that were searched for.

    ``snippet`` is plain text out of the content, with the words between `HIGHLIGHT`.
    """

    stream_id: str
    position: int
    role: str
    timestamp: datetime | None
    snippet: str


async def read_projected_messages(
    session: AsyncSession | AsyncConnection, stream_id: str, limit: int = 50, before: int | None = None
) -> MessagePage:
    """The newest messages of a conversation, or the newest ``before`` a place; empty for one without any.

    However long the conversation is, as many rows are read as are shown. Raises ValueError for a limit below
    1.
    """
    if limit < 1:
        raise ValueError(f"limit must be 1 or more, not {limit}")
    query = select(*_MESSAGES.columns).where(_MESSAGES.c.stream_id == stream_id)
    if before is not None:
        query = query.where(_MESSAGES.c.position < max(0, min(before, _MOST_PLACES)))
    newest_first = await session.execute(
        query.order_by(_MESSAGES.c.position.desc()).limit(min(limit, _MOST_PLACES))
    )
    rows = newest_first.mappings().all()[::-1]
    first = rows[0]["position"] if rows else 0
    return MessagePage([_message(row) for row in rows], first or None)


def _message(row: RowMapping) -> dict[str, Any]:
    timestamp = row["timestamp"]
    message = {
        "role": row["role"],
        "messageId": None,
        "timestamp": None if timestamp is None else timestamp.isoformat(),
    }
    for field, (column, _) in MESSAGE_COLUMNS.items():
        if row[column] is not None:
            message[field] = row[column]
    return message | (row["unusual"] or {})


async def search_messages(
    session: AsyncSession | AsyncConnection, query: str, *, limit: int = 20, stream_id: str | None = None
) -> list[Found]:
    """Messages whose content has the words, best first, of several equally good ones the newest.

    ``query`` is what people type into a search box: words that must all occur, "words in a row", ``or``, and
    ``-`` before a word that must not. No such text is an error; one without any word finds nothing.
    """
    if limit < 1:
        raise ValueError(f"limit must be 1 or more, not {limit}")
    wanted = func.websearch_to_tsquery(_LANGUAGE, query.replace("\0", ""))
    rank = func.ts_rank(StreamMessage.content_words, wanted, _LONGER_CONTENTS_COUNT_LESS).label("rank")
    best = select(_MESSAGES.c.stream_id, _MESSAGES.c.position, rank)
    best = best.where(StreamMessage.content_words.op("@@")(wanted))
    if stream_id is not None:
        best = best.where(_MESSAGES.c.stream_id == stream_id)
    best = best.order_by(
        rank.desc(), _MESSAGES.c.timestamp.desc(), _MESSAGES.c.stream_id, _MESSAGES.c.position
    )
    # A snippet takes a while to make: only of those that are shown.
    chosen = best.limit(min(limit, _MOST_PLACES)).subquery()
    text = func.left(_MESSAGES.c.content, SEARCHED_CHARACTERS)
    snippet = func.ts_headline(_LANGUAGE, text, wanted, _SNIPPET).label("snippet")
    shown = (
        select(*(_MESSAGES.c[name] for name in ("stream_id", "position", "role", "timestamp")), snippet)
        .join(chosen, _is_message(chosen))
        .order_by(chosen.c.rank.desc(), _MESSAGES.c.timestamp.desc(), chosen.c.stream_id, chosen.c.position)
    )
    return [Found(**row) for row in (await session.execute(shown)).mappings()]


def _is_message(chosen: Subquery) -> ColumnElement[bool]:
    return (_MESSAGES.c.stream_id == chosen.c.stream_id) & (_MESSAGES.c.position == chosen.c.position)
