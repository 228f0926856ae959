"""Worker, producers, operators and readers with the rights that `deploy` gives them: enough, and no more."""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import asyncpg
import pytest
import redis as redis_py
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import create_async_engine

from projections import read_stream_messages, read_stream_thinking
from tests.acceptance.commands import call_here, running
from tests.acceptance.guarded import Guarded, guarded_servers
from tests.rights import (
    OPERATOR,
    OWNER,
    PLAIN,
    PRODUCER,
    REDIS_READER,
    ROLE_READER,
    ROLES,
    USERS_FILE,
    WORKER,
    execute,
    fetch,
    rights_of,
)
from tests.tallies import MAKE_TABLE
from tests.waiting import block_until
from worker import OutcomeUnknownError, emit, emit_again, wait_until_projected
from worker.attempt import Attempt, Since
from worker.embedded.redis_server import find_redis_server
from worker.keys import Keys

MODULES = "projections,projections.stored_transcripts,tests.acceptance.tallying"
STRATEGIES = ("--projection", "strategies")
TRANSCRIPTS = ("--projection", "transcripts")
READ_MODELS = ("stream_projections", "stream_transcripts", "stream_messages", "tallies")


@pytest.fixture(scope="module")
def guarded() -> Iterator[Guarded]:
    """Servers with all tables: ours, and one of a module that came after the roles were made."""
    with guarded_servers() as servers:
        migrated = call_here("migrate", env=servers.environment(OPERATOR, OWNER))
        assert migrated.returncode == 0, migrated.stderr
        execute(servers.as_role(OWNER), MAKE_TABLE)
        yield servers


@pytest.fixture(scope="module")
def settled(guarded: Guarded) -> Guarded:
    """The same, after the roles were given their rights to the tables that are there; and others' tables."""
    execute(guarded.database_url, "CREATE TABLE of_others (n integer)", ROLES, ROLES)
    return guarded


def operate(guarded: Guarded, *arguments: str, code: int = 0) -> CompletedProcess[str]:
    """A command as an operator runs it."""
    ended = call_here(*arguments, env=guarded.environment(OPERATOR, WORKER, WORKER_PROJECTIONS=MODULES))
    assert ended.returncode == code, (arguments, ended.stdout, ended.stderr)
    return ended


async def produce(guarded: Guarded, stream_id: str) -> str:
    """A conversation by one producer, whose last reply was lost; the id of its last event."""
    async with Redis.from_url(guarded.redis_as(PRODUCER)) as redis:
        await emit(redis, stream_id, "", "user_message", {"content": "Which kinases?"})
        await emit(redis, stream_id, "", "strategy_link", {"wdkStrategyId": 7})
        keys = Keys()
        attempt = Attempt(stream_id, "op", "user_message", "{}", hinted=True, keys=keys, since=Since())
        appended = await emit_again(redis, OutcomeUnknownError("The reply was lost.", attempt))
        assert await emit_again(redis, OutcomeUnknownError("Once more.", replace(attempt))) == appended
        return appended


async def read(guarded: Guarded, stream_id: str, event_id: str) -> list[dict[str, Any]]:
    """What a web backend reads once the row shows an event."""
    url = guarded.as_role(ROLE_READER).replace("postgresql://", "postgresql+asyncpg://")
    engine = create_async_engine(url)
    try:
        async with Redis.from_url(guarded.redis_as(REDIS_READER)) as redis:
            await wait_until_projected(engine, stream_id, event_id, timeout=10, redis=redis)
            assert await read_stream_thinking(redis, stream_id) is None
            return await read_stream_messages(redis, stream_id)
    finally:
        await engine.dispose()


def conversation(guarded: Guarded, stream_id: str) -> str:
    return asyncio.run(produce(guarded, stream_id))


def say(guarded: Guarded, stream_id: str, event_type: str, data: str) -> str:
    return operate(guarded, "emit", stream_id, event_type, data).stdout.strip()


def forget_everything(guarded: Guarded) -> None:
    """Empty all logs and tables."""
    with redis_py.Redis.from_url(guarded.redis_url) as redis:
        redis.flushdb()
    tables = ", ".join((*READ_MODELS, "strategy_claims", "dead_letters", "rebuilds"))
    execute(guarded.database_url, f"TRUNCATE {tables} CASCADE")


def healthy(guarded: Guarded) -> bool:
    env = guarded.environment(OPERATOR, WORKER, WORKER_PROJECTIONS=MODULES)
    return call_here("status", env=env).returncode == 0


def letters(guarded: Guarded, stream_id: str) -> bool:
    return stream_id in operate(guarded, "dead-letters", "list").stdout


USERS = (PRODUCER, WORKER, OPERATOR, REDIS_READER)
SELDOM = {
    "client": "REDIS_URL gives a client_name",
    "hincrby": "a replica has died with streams in hand",
    "sadd": "a replica's hints are given to another",
    "xclaim": "a replica's hints are given to another",
    "zrem": "a replica has died or left",
    "exists": "a log is gone",
    "select": "REDIS_URL names another database than 0",
    "unsubscribe": "a subscription ends before its connection",
    "unwatch": "an event is found after a lost reply",
    "xautoclaim": "hints are taken over",
}
"""Commands that the scenario below need not come to, and when they are sent."""


def test_these_rights_are_enough_and_no_command_is_allowed_that_nobody_sends(settled: Guarded) -> None:
    forget_everything(settled)
    with running("run", env=settled.environment(WORKER, WORKER, WORKER_PROJECTIONS=MODULES)) as worker:
        last = conversation(settled, "chat-1")
        assert len(asyncio.run(read(settled, "chat-1", last))) == 2
        bad = say(settled, "tally-1", "add", '{"no": 1}')
        block_until(lambda: letters(settled, "tally-1"), "an event to be a dead letter")
        operate(settled, "dead-letters", "show", "tally-1", bad)
        operate(settled, "dead-letters", "retry", "--stream", "tally-1")
        operate(settled, "dead-letters", "skip", "tally-1", bad, "--reason", "it has no number")
        operate(settled, "rebuild", *STRATEGIES, "--dry-run")
        operate(settled, "rebuild", *STRATEGIES)
        operate(settled, "rebuild", *TRANSCRIPTS, "--stream", "chat-1")
        operate(settled, "show", "chat-1", *STRATEGIES, "--history")
        operate(settled, "messages", "chat-1")
        operate(settled, "verify", "--fix")
        with redis_py.Redis.from_url(settled.redis_as(OPERATOR)) as redis:
            redis.xdel("stream:chat-1", last)
        operate(settled, "rebuild", *STRATEGIES, "--stream", "chat-1")
        operate(settled, "rebuild", *TRANSCRIPTS, "--stream", "chat-1")
        block_until(lambda: healthy(settled), "status to say that all is well")
        assert worker.stop() == 0
        assert "Error" not in worker.log.replace("KeyError", "")
    allowed = {right[1:].partition("|")[0] for user in USERS for right in rights_of(user) if right[0] == "+"}
    assert allowed <= settled.commands_used() | SELDOM.keys()


async def test_a_worker_goes_on_with_tables_that_were_made_after_its_role(guarded: Guarded) -> None:
    """The rights to these come with the tables; only readers have to be given theirs."""
    [row] = await asyncio.to_thread(fetch, guarded.as_role(WORKER), "SELECT count(*) AS rows FROM tallies")
    assert row["rows"] >= 0


REFUSED_BY_REDIS = [
    (PRODUCER, "XDEL stream:a 1-1"),
    (PRODUCER, "XTRIM stream:a MAXLEN 0"),
    (PRODUCER, "DEL stream:a"),
    (PRODUCER, "XRANGE stream:a - +"),
    (PRODUCER, "XREADGROUP GROUP strategies me STREAMS feed:0 >"),
    (PRODUCER, "SET feed:partitions 9"),
    (PRODUCER, "HGETALL worker:strategies:replicas"),
    (PRODUCER, "XADD other * a b"),
    (PRODUCER, "PUBLISH worker:strategies:moved []"),
    (WORKER, "XDEL stream:a 1-1"),
    (WORKER, "UNLINK stream:a"),
    (WORKER, "GET other"),
    (WORKER, "KEYS *"),
    (WORKER, "XGROUP DESTROY feed:0 strategies"),
    (WORKER, "PUBLISH other []"),
    (OPERATOR, "DEL stream:a"),
    (OPERATOR, "XGROUP DESTROY feed:0 strategies"),
    (REDIS_READER, "XADD stream:a * a b"),
    (REDIS_READER, "XRANGE feed:0 - +"),
    (REDIS_READER, "EVAL return(redis.call('XADD',KEYS[1],'*','a','b')) 1 stream:a"),
    (REDIS_READER, "SUBSCRIBE other"),
    *((user, command) for user in USERS for command in ("CONFIG GET *", "FLUSHALL", "ACL LIST", "MONITOR")),
]


@pytest.mark.parametrize(("user", "command"), REFUSED_BY_REDIS)
def test_redis_refuses_everything_else(guarded: Guarded, user: str, command: str) -> None:
    with (
        redis_py.Redis.from_url(guarded.redis_as(user)) as redis,
        pytest.raises(redis_py.ResponseError, match=r"(?i)no permission|NOPERM|can't run this command"),
    ):
        redis.execute_command(*command.split())


def test_a_server_starts_with_the_file_of_users(tmp_path: Path) -> None:
    """As README says: with a password behind each `on`, and a key prefix before each pattern."""
    users = tmp_path / "users.acl"
    prefixed = re.sub(r"(?<= )[~&]", r"\g<0>app:", USERS_FILE.replace(" on ", f" on >{PLAIN.password} "))
    users.write_text(prefixed)
    socket = tmp_path / "socket"
    settings = {"port": "0", "unixsocket": str(socket), "aclfile": str(users), "save": ""}
    options = [word for name, value in settings.items() for word in (f"--{name}", value)]
    server = subprocess.Popen([find_redis_server(), *options], cwd=tmp_path, stdout=subprocess.DEVNULL)
    try:
        block_until(socket.exists, "Redis to start")
        with redis_py.Redis.from_url(f"unix://{PRODUCER}:{PLAIN.password}@{socket}") as redis:
            assert redis.xadd("app:stream:a", {"a": "b"})
            with pytest.raises(redis_py.ResponseError):
                redis.xadd("stream:a", {"a": "b"})
        with (
            redis_py.Redis.from_url(f"unix://{socket}") as redis,
            pytest.raises(redis_py.AuthenticationError),
        ):
            redis.ping()
    finally:
        server.terminate()
        server.wait(10)


def test_nobody_comes_without_a_password(guarded: Guarded) -> None:
    assert rights_of("default") == ["off"]
    for right in (right for user in USERS for right in rights_of(user)):
        assert right != "nopass"
        assert right[0] not in "<>#"


REFUSED_BY_POSTGRESQL = [
    (WORKER, "TRUNCATE stream_projections"),
    (WORKER, "CREATE TABLE mine (n integer)"),
    (WORKER, "ALTER TABLE stream_projections ADD mine integer"),
    (WORKER, "DROP TABLE dead_letters"),
    (WORKER, "DELETE FROM dead_letters"),
    (WORKER, "DELETE FROM rebuild_chunks"),
    (WORKER, "UPDATE projection_worker_schema SET version_num = '1'"),
    (WORKER, "SELECT * FROM of_others"),
    (WORKER, "CREATE SCHEMA mine"),
    (WORKER, "SET ROLE projection_worker_owner"),
    (ROLE_READER, "INSERT INTO stream_projections (stream_id) VALUES ('a')"),
    (ROLE_READER, "UPDATE tallies SET total = 0"),
    (ROLE_READER, "SELECT * FROM stream_projections FOR UPDATE"),
    (ROLE_READER, "SELECT error FROM dead_letters"),
    (ROLE_READER, "SELECT skipped_because FROM dead_letters"),
    (ROLE_READER, "SELECT error FROM blocked_streams"),
    (ROLE_READER, "SELECT * FROM rebuilds"),
    (ROLE_READER, "SELECT * FROM of_others"),
    (ROLE_READER, "CREATE TABLE mine (n integer)"),
    (OWNER, "SELECT * FROM of_others"),
    (OWNER, "CREATE ROLE mine"),
]


@pytest.mark.parametrize(("role", "statement"), REFUSED_BY_POSTGRESQL)
def test_postgresql_refuses_everything_else(settled: Guarded, role: str, statement: str) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        execute(settled.as_role(role), statement)


@pytest.mark.parametrize("table", READ_MODELS)
def test_readers_see_every_read_model(settled: Guarded, table: str) -> None:
    fetch(settled.as_role(ROLE_READER), f"SELECT * FROM {table}")


def test_readers_see_where_streams_are_stopped(settled: Guarded) -> None:
    query = """
        SELECT p.*, b.stopped_before, b.stopped_since FROM stream_projections AS p
        LEFT JOIN blocked_streams AS b ON b.projection = 'strategies' AND b.stream_id = p.stream_id"""
    fetch(settled.as_role(ROLE_READER), query)


REBUILD = ("rebuild", *STRATEGIES, "--where", "stream_id = 'old'")
REBUILD_NEW = ("rebuild", *STRATEGIES, "--stream", "new")
TRANSCRIBE = ("rebuild", *TRANSCRIPTS, "--stream", "old")
TRANSCRIBE_NEW = ("rebuild", *TRANSCRIPTS, "--stream", "new")
NEEDED = {
    ("stream_projections", "SELECT"): ("verify", *STRATEGIES),
    ("stream_projections", "INSERT"): REBUILD_NEW,
    ("stream_projections", "UPDATE"): REBUILD,
    ("stream_projections", "DELETE"): ("rebuild", *STRATEGIES, "--prune", "--yes"),
    ("strategy_claims", "SELECT"): REBUILD,
    ("strategy_claims", "INSERT"): REBUILD,
    ("strategy_claims", "UPDATE"): REBUILD,
    ("strategy_claims", "DELETE"): REBUILD,
    ("stream_transcripts", "SELECT"): TRANSCRIBE,
    ("stream_transcripts", "INSERT"): TRANSCRIBE_NEW,
    ("stream_transcripts", "UPDATE"): TRANSCRIBE,
    ("stream_transcripts", "DELETE"): ("rebuild", *TRANSCRIPTS, "--prune", "--yes"),
    ("stream_messages", "SELECT"): ("verify", *TRANSCRIPTS),
    ("stream_messages", "INSERT"): TRANSCRIBE_NEW,
    ("stream_messages", "DELETE"): TRANSCRIBE,
    ("dead_letters", "SELECT"): ("dead-letters", "list"),
    ("dead_letters", "INSERT"): REBUILD_NEW,
    ("dead_letters", "UPDATE"): REBUILD,
    ("rebuilds", "SELECT"): REBUILD,
    ("rebuilds", "INSERT"): REBUILD,
    ("rebuilds", "UPDATE"): REBUILD,
    ("rebuilds", "DELETE"): REBUILD,
    ("rebuild_chunks", "SELECT"): REBUILD,
    ("rebuild_chunks", "INSERT"): REBUILD,
    ("rebuild_chunks", "UPDATE"): REBUILD,
    ("projection_worker_schema", "SELECT"): REBUILD,
}


def test_a_command_that_lacks_a_right_says_so(settled: Guarded) -> None:
    forget_everything(settled)
    conversation(settled, "old")
    conversation(settled, "gone")
    for projection in (STRATEGIES, TRANSCRIPTS):
        operate(settled, "rebuild", *projection, "--stream", "old", "--stream", "gone")
    with redis_py.Redis.from_url(settled.redis_url) as redis:
        redis.delete("stream:gone")
    conversation(settled, "new")
    say(settled, "new", "strategy_link", '{"wdkStrategyId": 99999999999999999999}')
    for (table, privilege), command in NEEDED.items():
        execute(settled.database_url, "TRUNCATE rebuilds CASCADE")
        execute(settled.database_url, f"REVOKE {privilege} ON {table} FROM {WORKER}")
        try:
            told = operate(settled, *command, code=1)
        finally:
            execute(settled.database_url, ROLES)
        assert f"permission denied for table {table}" in told.stderr, (table, privilege)
        assert "Grant the worker's user" in told.stderr
        assert "Traceback" not in told.stderr
