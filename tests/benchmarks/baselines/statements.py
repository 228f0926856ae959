"""SQLAlchemy's statement for one event, for the baselines that update per event.

Sessions and updates are as SQLAlchemy's documentation writes them. A connection without a session, or
`synchronize_session=False`, made no difference that could be measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson
from sqlalchemy import Update, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from projections.models import StreamProjection
from tests.benchmarks.baselines.changes import MESSAGES, event_time, new_values
from worker.database import parse_database_url

_NEW_ROW = insert(StreamProjection).on_conflict_do_nothing()


def session_maker(database_url: str) -> async_sessionmaker[AsyncSession]:
    """Makes sessions, which encode JSON with orjson."""
    engine = create_async_engine(
        parse_database_url(database_url), json_serializer=lambda value: orjson.dumps(value).decode()
    )
    return async_sessionmaker(engine, expire_on_commit=False)


async def create_rows(session: AsyncSession, stream_ids: Iterable[str]) -> None:
    """Make the rows of streams that have none; at least one."""
    await session.execute(_NEW_ROW, [{"stream_id": stream_id} for stream_id in stream_ids])


def update_for(stream_id: str, event_id: str, event_type: str, data: Mapping[str, Any]) -> Update:
    """The statement that applies a projected event to its row, and writes no other column."""
    values = new_values(event_type, data)
    if event_type in MESSAGES:
        values["message_count"] = StreamProjection.message_count + 1
    return (
        update(StreamProjection)
        .where(StreamProjection.stream_id == stream_id)
        .values(last_event_id=event_id, updated_at=event_time(event_id), **values)
    )
