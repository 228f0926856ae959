-- Three roles: projection_worker_owner migrates, projection_worker runs the worker and its commands, and
-- projection_worker_reader reads read models. None of them has a password, so nobody can log in with one
-- until it has: ALTER ROLE projection_worker PASSWORD '...'.
--
-- Run this as a superuser in the worker's database, before the first `projection-worker migrate` and again
-- after each that made tables: readers see no table before. It may be run at any time and any number of
-- times, and leaves the worker's and the reader's rights as they are here. Tables of other applications are
-- not touched, those of your projections modules are taken for read models.

BEGIN;

DO $$
DECLARE
    role text;
BEGIN
    FOREACH role IN ARRAY ARRAY['projection_worker_owner', 'projection_worker', 'projection_worker_reader'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
            EXECUTE format('CREATE ROLE %I LOGIN', role);
        END IF;
        EXECUTE format('ALTER ROLE %I NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS', role);
        EXECUTE format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), role);
    END LOOP;
END
$$;

-- Before PostgreSQL 15 everybody may make tables there.
REVOKE CREATE ON SCHEMA public FROM PUBLIC, projection_worker, projection_worker_reader;
GRANT USAGE ON SCHEMA public TO projection_worker, projection_worker_reader;
GRANT USAGE, CREATE ON SCHEMA public TO projection_worker_owner;

-- What was migrated by somebody else, before there were these roles.
DO $$
DECLARE
    found record;
BEGIN
    FOR found IN
        SELECT c.relname, CASE c.relkind WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END AS kind
        FROM pg_class AS c
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v')
            AND c.relowner <> 'projection_worker_owner'::regrole
            AND c.relname IN (
                'stream_projections', 'strategy_claims', 'stream_transcripts', 'stream_messages',
                'dead_letters', 'blocked_streams', 'rebuilds', 'rebuild_chunks', 'projection_worker_schema')
    LOOP
        EXECUTE format('ALTER %s public.%I OWNER TO projection_worker_owner', found.kind, found.relname);
    END LOOP;
END
$$;

-- Tables that are migrated later: the worker goes on at once.
ALTER DEFAULT PRIVILEGES FOR ROLE projection_worker_owner IN SCHEMA public
    GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO projection_worker;
-- Numbers that columns of your own tables take (serial).
ALTER DEFAULT PRIVILEGES FOR ROLE projection_worker_owner IN SCHEMA public
    GRANT USAGE ON SEQUENCES TO projection_worker;

-- Tables and views that are there.
DO $$
DECLARE
    found record;
    worker text;
    reader text;
BEGIN
    FOR found IN
        SELECT relname AS name, relkind IN ('v', 'm') AS is_view
        FROM pg_class
        WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'm')
            AND relowner = 'projection_worker_owner'::regrole
    LOOP
        worker := CASE
            WHEN found.is_view THEN NULL
            WHEN found.name = 'projection_worker_schema' THEN 'SELECT'
            WHEN found.name IN ('dead_letters', 'rebuild_chunks') THEN 'SELECT, INSERT, UPDATE'
            ELSE 'SELECT, INSERT, UPDATE, DELETE'
        END;
        reader := CASE
            -- As much as `wait_until_projected` looks at. The errors may quote payloads.
            WHEN found.name = 'dead_letters'
                THEN 'SELECT (projection, stream_id, event_id, event_type, version, state, reason)'
            WHEN found.name = 'blocked_streams'
                THEN 'SELECT (projection, stream_id, stopped_before, stopped_since, event_type, reason, '
                    'attempts, last_tried_at, retry_at)'
            WHEN found.name IN ('projection_worker_schema', 'rebuilds', 'rebuild_chunks', 'strategy_claims')
                THEN NULL
            ELSE 'SELECT'
        END;
        EXECUTE format('REVOKE ALL ON public.%I FROM PUBLIC, projection_worker, projection_worker_reader', found.name);
        IF worker IS NOT NULL THEN
            EXECUTE format('GRANT %s ON public.%I TO projection_worker', worker, found.name);
        END IF;
        IF reader IS NOT NULL THEN
            EXECUTE format('GRANT %s ON public.%I TO projection_worker_reader', reader, found.name);
        END IF;
    END LOOP;
    FOR found IN
        SELECT relname AS name
        FROM pg_class
        WHERE relnamespace = 'public'::regnamespace AND relkind = 'S'
            AND relowner = 'projection_worker_owner'::regrole
    LOOP
        EXECUTE format('REVOKE ALL ON SEQUENCE public.%I FROM PUBLIC, projection_worker, projection_worker_reader', found.name);
        EXECUTE format('GRANT USAGE ON SEQUENCE public.%I TO projection_worker', found.name);
    END LOOP;
END
$$;

COMMIT;
