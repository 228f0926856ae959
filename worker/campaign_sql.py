"""The statements of `worker.campaign`. Times are the database's."""

from __future__ import annotations

UNFINISHED = """
    SELECT id, version, scope::text, streams FROM rebuilds
    WHERE projection = $1 AND finished_at IS NULL"""

FORGET_OLD = """
    DELETE FROM rebuilds
    WHERE projection = $1 AND finished_at < now() - interval '1 day' RETURNING id"""

BEGIN = """
    INSERT INTO rebuilds (projection, version, scope, streams) VALUES ($1, $2, $3::text::jsonb, $4)
    ON CONFLICT (projection) WHERE finished_at IS NULL DO NOTHING RETURNING id"""

ADD_CHUNKS = """
    INSERT INTO rebuild_chunks (rebuild_id, number, stream_ids, streams)
    SELECT $1::bigint, $2::int + (place - 1) / $3::int, array_agg(stream_id ORDER BY place), count(*)
    FROM unnest($4::text[]) WITH ORDINALITY AS i(stream_id, place)
    GROUP BY 2 RETURNING number"""

GIVE_UP = """
    UPDATE rebuilds SET finished_at = now(), given_up = true
    WHERE id = $1 AND finished_at IS NULL RETURNING id"""

TAKE = """
    UPDATE rebuild_chunks
    SET taken_by = $2, taken_until = now() + make_interval(secs => $3), times_taken = times_taken + 1
    WHERE rebuild_id = $1 AND number = (
        SELECT number FROM rebuild_chunks AS c JOIN rebuilds AS r ON r.id = c.rebuild_id
        WHERE c.rebuild_id = $1 AND c.done_at IS NULL AND coalesce(c.taken_until < now(), true)
          AND r.finished_at IS NULL
        ORDER BY number LIMIT 1 FOR NO KEY UPDATE OF c SKIP LOCKED)
    RETURNING number, stream_ids"""

KEEP = """
    UPDATE rebuild_chunks SET taken_until = now() + make_interval(secs => $4)
    WHERE rebuild_id = $1 AND taken_by = $2 AND number = ANY($3::int[]) AND done_at IS NULL
    RETURNING number"""

NOTE_DONE = """
    UPDATE rebuild_chunks SET done_at = now(), events = $3, refusals = $4::text::jsonb
    WHERE rebuild_id = $1 AND number = $2 AND done_at IS NULL RETURNING number"""

IS_LEFT = "SELECT count(*) FROM rebuilds WHERE id = $1 AND finished_at IS NULL"
CONCLUDE = """
    UPDATE rebuilds AS r SET finished_at = now()
    WHERE r.id = $1 AND r.finished_at IS NULL
      AND NOT EXISTS (SELECT FROM rebuild_chunks AS c WHERE c.rebuild_id = r.id AND c.done_at IS NULL)
    RETURNING r.id"""

PROGRESS = """
    SELECT r.id, r.version, r.scope::text, r.streams,
           coalesce(sum(c.streams) FILTER (WHERE c.done_at IS NOT NULL), 0),
           coalesce(sum(jsonb_array_length(c.refusals)), 0),
           coalesce(sum(c.events), 0)::bigint,
           extract(epoch FROM coalesce(r.finished_at, now()) - r.started_at)::float8,
           coalesce(sum(c.streams) FILTER (WHERE c.done_at > now() - interval '1 minute'), 0)
             / greatest(extract(epoch FROM least(interval '1 minute', now() - r.started_at)), 0.001)::float8,
           array_agg(DISTINCT c.taken_by) FILTER (WHERE c.done_at IS NULL AND c.taken_until >= now()),
           r.finished_at IS NOT NULL, r.given_up
    FROM rebuilds AS r LEFT JOIN rebuild_chunks AS c ON c.rebuild_id = r.id
    WHERE r.id = $1 GROUP BY r.id"""

COUNT_REFUSALS = """
    SELECT told->>'refusal', count(*)
    FROM rebuild_chunks, jsonb_array_elements(refusals) AS told
    WHERE rebuild_id = $1 GROUP BY 1 ORDER BY 1"""

REFUSALS = """
    SELECT told->>'stream_id', told->>'refusal', told->>'detail'
    FROM rebuild_chunks, jsonb_array_elements(refusals) AS told
    WHERE rebuild_id = $1 ORDER BY 2, number, 1 LIMIT $2"""
