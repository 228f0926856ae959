"""The statements of the claims rule. Event ids are numeric(20), since their parts exceed bigint."""

from __future__ import annotations

from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from worker import EventId


async def fetch(connection: AsyncConnection, statement: str, *parameters: Any) -> list[Any]:
    """All rows of a statement with parameters $1, $2, ..."""
    return list(await connection.exec_driver_sql(statement, parameters))


async def execute(connection: AsyncConnection, statement: str, *parameters: Any) -> None:
    """Run a statement with parameters $1, $2, ..."""
    await connection.exec_driver_sql(statement, parameters)


def event_id(ms: Any, seq: Any) -> EventId:
    """An event id from its two columns."""
    return EventId(int(ms), int(seq))


LOCK_BUCKETS = """
    SELECT pg_advisory_xact_lock(1466913865, bucket)
    FROM (SELECT unnest($1::int[]) AS bucket ORDER BY 1) AS buckets"""
"""The first key stands for this rule, so that no other advisory lock of the database is met by chance."""

STANDING_CLAIMS = """
    SELECT stream_id, event_ms, event_seq, wdk_strategy_id, until_ms, until_seq
    FROM strategy_claims
    WHERE stream_id = ANY($1::text[]) AND (until_ms IS NULL OR stream_id = ANY($2::text[]))"""

HISTORY = """
    SELECT stream_id, wdk_strategy_id, concat(event_ms, '-', event_seq),
           CASE WHEN num_nonnulls(until_ms, until_seq) > 0 THEN concat(until_ms, '-', until_seq) END
    FROM strategy_claims WHERE stream_id = ANY($1::text[]) ORDER BY stream_id, event_ms, event_seq"""

OWN_SAVED = """
    SELECT stream_id, own_is_saved, own_is_saved_ms, own_is_saved_seq
    FROM stream_projections WHERE stream_id = ANY($1::text[])"""

AFFECTED = """
    SELECT stream_id FROM stream_projections WHERE wdk_strategy_id = ANY($5::bigint[])
    UNION ALL
    SELECT earlier.stream_id
    FROM unnest($1::text[], $2::bigint[], $3::numeric[], $4::numeric[])
        AS claim(stream_id, wdk_strategy_id, event_ms, event_seq)
    CROSS JOIN LATERAL (
        SELECT stream_id FROM strategy_claims AS other
        WHERE other.wdk_strategy_id = claim.wdk_strategy_id
          AND other.stream_id <> claim.stream_id COLLATE "C"
          AND (other.event_ms, other.event_seq, other.stream_id)
            < (claim.event_ms, claim.event_seq, claim.stream_id COLLATE "C")
        ORDER BY other.event_ms DESC, other.event_seq DESC, other.stream_id DESC
        LIMIT 1
    ) AS earlier"""

NEAREST_LATER = """
    SELECT DISTINCT later.stream_id, later.event_ms, later.event_seq, claim.wdk_strategy_id
    FROM unnest($2::bigint[], $3::numeric[], $4::numeric[]) AS claim(wdk_strategy_id, event_ms, event_seq)
    CROSS JOIN LATERAL (
        SELECT stream_id, event_ms, event_seq FROM strategy_claims AS other
        WHERE other.wdk_strategy_id = claim.wdk_strategy_id
          AND other.stream_id <> $1::text COLLATE "C"
          AND (other.event_ms, other.event_seq, other.stream_id)
            > (claim.event_ms, claim.event_seq, $1::text COLLATE "C")
        ORDER BY other.event_ms, other.event_seq, other.stream_id
        LIMIT 1
    ) AS later
    ORDER BY later.event_ms, later.event_seq"""

WITHDRAW = "DELETE FROM strategy_claims WHERE stream_id = ANY($1::text[])"

WRITE_FACTS = """
    WITH claimed AS (
        SELECT * FROM unnest(
            $1::text[], $2::numeric[], $3::numeric[], $4::bigint[], $5::numeric[], $6::numeric[])
            AS claimed(stream_id, event_ms, event_seq, wdk_strategy_id, until_ms, until_seq)
    ), ended AS (
        UPDATE strategy_claims AS claim SET until_ms = ends.ms, until_seq = ends.seq
        FROM unnest($7::text[], $8::numeric[], $9::numeric[]) AS ends(stream_id, ms, seq)
        WHERE claim.stream_id = ends.stream_id COLLATE "C" AND claim.until_ms IS NULL
          AND (claim.stream_id, claim.event_ms, claim.event_seq)
              NOT IN (SELECT stream_id COLLATE "C", event_ms, event_seq FROM claimed)
    ), saved AS (
        UPDATE stream_projections AS t
        SET own_is_saved = own.is_saved, own_is_saved_ms = own.ms, own_is_saved_seq = own.seq
        FROM unnest($10::text[], $11::boolean[], $12::numeric[], $13::numeric[])
            AS own(stream_id, is_saved, ms, seq)
        WHERE t.stream_id = own.stream_id
          AND (t.own_is_saved, t.own_is_saved_ms, t.own_is_saved_seq)
              IS DISTINCT FROM (own.is_saved, own.ms, own.seq)
    )
    INSERT INTO strategy_claims (stream_id, event_ms, event_seq, wdk_strategy_id, until_ms, until_seq)
    SELECT * FROM claimed
    ON CONFLICT (stream_id, event_ms, event_seq) DO UPDATE
    SET wdk_strategy_id = excluded.wdk_strategy_id,
        until_ms = excluded.until_ms, until_seq = excluded.until_seq"""
"""Adds claims ($1 to $6), ends those that stood open ($7 to $9), and sets what streams say of is_saved.

A claim is there already where somebody has set its row back, such as by restoring that table alone.
"""

# Of each stream, the claims that can still matter: the open one, and those that reach beyond the event that
# saved it. Each is lost at the first claim of another stream that follows it, if that comes before its end.
VISIBLE_AND_WANTED = """
    WITH losses AS (
        SELECT claim.stream_id, claim.wdk_strategy_id, claim.until_ms, claim.until_seq,
               later.event_ms, later.event_seq, later.stream_id AS taker
        FROM stream_projections AS t
        JOIN strategy_claims AS claim ON claim.stream_id = t.stream_id COLLATE "C"
        LEFT JOIN LATERAL (
            SELECT event_ms, event_seq, stream_id FROM strategy_claims AS other
            WHERE other.wdk_strategy_id = claim.wdk_strategy_id
              AND other.stream_id <> claim.stream_id
              AND (other.event_ms, other.event_seq, other.stream_id)
                > (claim.event_ms, claim.event_seq, claim.stream_id)
            ORDER BY other.event_ms, other.event_seq, other.stream_id
            LIMIT 1
        ) AS later ON true
        WHERE t.stream_id = ANY($1::text[])
          AND (claim.until_ms IS NULL
               OR t.own_is_saved
                  AND (claim.until_ms, claim.until_seq) > (t.own_is_saved_ms, t.own_is_saved_seq))
    )
    SELECT t.stream_id, t.wdk_strategy_id, t.is_saved,
           (SELECT wdk_strategy_id FROM losses
            WHERE losses.stream_id = t.stream_id COLLATE "C" AND until_ms IS NULL AND taker IS NULL),
           coalesce(t.own_is_saved, false) AND NOT EXISTS (
               SELECT FROM losses
               WHERE losses.stream_id = t.stream_id COLLATE "C" AND taker IS NOT NULL
                 AND (event_ms, event_seq, taker)
                   > (t.own_is_saved_ms, t.own_is_saved_seq, t.stream_id COLLATE "C")
                 AND (until_ms IS NULL
                      OR (event_ms, event_seq, taker) < (until_ms, until_seq, t.stream_id COLLATE "C")))
    FROM stream_projections AS t
    WHERE t.stream_id = ANY($1::text[])"""

CLEAR_VISIBLE = """
    UPDATE stream_projections SET wdk_strategy_id = NULL WHERE stream_id = ANY($1::text[])"""

SET_VISIBLE = """
    UPDATE stream_projections AS t
    SET wdk_strategy_id = wanted.wdk_strategy_id, is_saved = wanted.is_saved
    FROM unnest($1::text[], $2::bigint[], $3::boolean[]) AS wanted(stream_id, wdk_strategy_id, is_saved)
    WHERE t.stream_id = wanted.stream_id"""

ABANDONED = """
    SELECT DISTINCT claim.stream_id FROM strategy_claims AS claim
    WHERE NOT EXISTS (
        SELECT FROM stream_projections AS t WHERE t.stream_id = claim.stream_id COLLATE "default")
    LIMIT $1"""
