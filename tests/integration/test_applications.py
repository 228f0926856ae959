"""The functions that applications call, with an engine and arguments as an application may have them."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from projections import strategies
from tests.projecting import run
from tests.rebuilding import RebuildingReplica
from worker import Keys, rebuild_streams, row_at, show_stream, verify_streams

NOTE_TRANSACTIONS = (
    "CREATE TABLE noted (isolation text, lock_timeout text)",
    """CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
           INSERT INTO noted
           VALUES (current_setting('transaction_isolation'), current_setting('lock_timeout'));
           RETURN NEW;
       END $$""",
    """CREATE TRIGGER note BEFORE INSERT OR UPDATE ON stream_projections
       FOR EACH ROW EXECUTE FUNCTION note()""",
)


@pytest.mark.parametrize("isolation", ["AUTOCOMMIT", "REPEATABLE READ", "READ COMMITTED"])
async def test_rows_are_replaced_in_one_step_whatever_the_isolation_of_the_engine(
    client: Redis, keys: Keys, engine: AsyncEngine, isolation: str
) -> None:
    replica = RebuildingReplica(client, keys, engine)
    await replica.append_many("a", "user_message", "user_message")
    await run(engine, *NOTE_TRANSACTIONS)
    theirs = create_async_engine(engine.url, isolation_level=isolation)
    try:
        [rebuilt] = await rebuild_streams(client, theirs, strategies, ["a"], keys=keys)
        [found] = await verify_streams(client, theirs, strategies, ["a"], keys=keys)
        view = await show_stream(client, theirs, strategies, "a", keys=keys)
        then = await row_at(client, theirs, strategies, "a", keys=keys)
        async with theirs.connect() as connection:
            noted = (await connection.execute(text("SELECT DISTINCT * FROM noted"))).all()
    finally:
        await theirs.dispose()
    assert [tuple(row) for row in noted] == [("read committed", "5s")]
    assert (rebuilt.refusal, rebuilt.events, found.wrong) == (None, 2, False)
    assert view.row is not None
    assert view.row["message_count"] == then.columns["message_count"] == 2


@pytest.mark.parametrize("function", [rebuild_streams, verify_streams])
async def test_one_stream_id_is_not_taken_for_many_of_one_letter(
    client: Redis, engine: AsyncEngine, function: object
) -> None:
    assert callable(function)
    with pytest.raises(TypeError, match=r"\['chat-17'\]"):
        await function(client, engine, strategies, "chat-17")


async def test_what_can_be_no_stream_id_is_told_before_any_server_is_asked(
    client: Redis, engine: AsyncEngine
) -> None:
    for stream_id in ("nul\0", "\udcff", "x" * 513):
        for function in (rebuild_streams, verify_streams):
            with pytest.raises(ValueError, match="is no stream id"):
                await function(client, engine, strategies, [stream_id])
        for look in (show_stream, row_at):
            with pytest.raises(ValueError, match="is no stream id"):
                await look(client, engine, strategies, stream_id)
