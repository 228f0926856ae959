"""What an error means: by SQLSTATE and by the code of a reply, however it is wrapped."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

import asyncpg
import pytest
from redis import exceptions as redis_errors
from redis._parsers.base import BaseParser
from redis.asyncio.sentinel import MasterNotFoundError
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from worker.cluster import SlotMovesError
from worker.errors import ClaimRaceError, FeedPartitionsError, RejectedEventError, SchemaError
from worker.sending import NotSentError
from worker.sentinel import SentinelRefusalError, UnknownServiceError
from worker.trouble import SERVER_ERRORS, Trouble, classify, describe, sentence, sqlstate

RETRY, RECONNECT, POISON, MISCONFIGURED, FATAL = Trouble

BY_SQLSTATE = {
    RETRY: ("40001", "40P01", "55P03", "57014"),
    RECONNECT: (
        "08000", "08003", "08006", "25006", "25P02", "25P03", "25P04", "53000", "53100", "53200", "53300",
        "57P01", "57P02", "57P03", "57P04", "57P05", "55000", "58030", "XX000", "XX001", "40003", "ZZZZZ",
    ),
    POISON: ("22001", "22003", "22021", "22P02", "22P05", "23502", "23503", "23505", "23514", "54000",
             "54001", "44000", "P0001"),
    MISCONFIGURED: ("28000", "28P01", "3D000", "3F000", "42501", "42P01", "42703", "42804", "0A000"),
}  # fmt: skip

REPLIES = {
    "LOADING Redis is loading the dataset in memory": RECONNECT,
    "READONLY You can't write against a read only replica.": RECONNECT,
    "MASTERDOWN Link with MASTER is down": RECONNECT,
    "CLUSTERDOWN The cluster is down": RECONNECT,
    "TRYAGAIN Multiple keys request during rehashing of slot": RECONNECT,
    "BUSY Redis is busy running a script.": RECONNECT,
    "OOM command not allowed when used memory > 'maxmemory'.": RECONNECT,
    "MISCONF Redis is configured to save RDB snapshots": RECONNECT,
    "NOGROUP No such key 'feed:0' or consumer group": RECONNECT,
    "UNBLOCKED the stream key no longer exists": RECONNECT,
    "EXECABORT Transaction discarded because of previous errors.": RECONNECT,
    "ERR max number of clients reached": RECONNECT,
    "ERR something that nobody has heard of": RECONNECT,
    "NOAUTH Authentication required.": MISCONFIGURED,
    "WRONGPASS invalid username-password pair or user is disabled.": MISCONFIGURED,
    "NOPERM this user has no permissions to run the 'xadd' command": MISCONFIGURED,
    "WRONGTYPE Operation against a key holding the wrong kind of value": MISCONFIGURED,
    "DENIED Redis is running in protected mode": MISCONFIGURED,
    "MOVED 3999 127.0.0.1:6381": MISCONFIGURED,
    "CROSSSLOT Keys in request don't hash to the same slot": MISCONFIGURED,
}

OTHERS: list[tuple[BaseException, Trouble]] = [
    (ClaimRaceError("claims changed"), RETRY),
    (redis_errors.ConnectionError("connection refused"), RECONNECT),
    (redis_errors.TimeoutError("timeout reading"), RECONNECT),
    (SlotMovesError("the slot is moving"), RECONNECT),
    (NotSentError("a node could not be reached"), RECONNECT),
    (redis_errors.ClusterDownError("CLUSTERDOWN"), RECONNECT),
    (redis_errors.TryAgainError("TRYAGAIN"), RECONNECT),
    (MasterNotFoundError("none of 3 sentinels answers"), RECONNECT),
    (UnknownServiceError("no sentinel knows a service"), MISCONFIGURED),
    (SentinelRefusalError("a sentinel refuses us"), MISCONFIGURED),
    (redis_errors.InvalidResponse("protocol error"), RECONNECT),
    (ConnectionRefusedError("connect call failed"), RECONNECT),
    (TimeoutError(), RECONNECT),
    (PoolTimeoutError("pool limit reached"), RECONNECT),
    (asyncpg.InterfaceError("connection is closed"), RECONNECT),
    (OperationalError("SELECT 1", {}, Exception("server closed the connection")), RECONNECT),
    (SchemaError("run migrate"), MISCONFIGURED),
    (ssl.SSLCertVerificationError("self-signed"), MISCONFIGURED),
    (FeedPartitionsError("another number"), FATAL),
    (RejectedEventError("not wanted"), FATAL),
    (ValueError("a bug"), FATAL),
    (asyncio.CancelledError(), FATAL),
]


def postgresql(state: str, text: str = "message", **fields: str) -> asyncpg.PostgresError:
    """An error as asyncpg makes it of a server's message."""
    letters = {"constraint_name": "n"}
    error: asyncpg.PostgresError = asyncpg.PostgresError.new(
        {"S": "ERROR", "V": "ERROR", "C": state, "M": text, **{letters[k]: v for k, v in fields.items()}}
    )
    return error


def wrapped(error: Exception) -> DBAPIError:
    """The same as SQLAlchemy raises it."""
    inner = Exception(str(error))
    inner.__cause__ = error
    return DBAPIError("INSERT", {"plan": "secret"}, inner)


@pytest.mark.parametrize(("trouble", "state"), [(t, s) for t, states in BY_SQLSTATE.items() for s in states])
def test_errors_of_postgresql_are_told_apart_by_sqlstate(trouble: Trouble, state: str) -> None:
    error = postgresql(state)
    assert classify(error) is trouble
    assert classify(wrapped(error)) is trouble
    assert sqlstate(wrapped(error)) == state


def test_a_violated_constraint_is_a_race_where_the_rule_says_so() -> None:
    error = postgresql("23505", constraint_name="ix_proj_wdk")
    for met in (error, wrapped(error)):
        assert classify(met, {"ix_proj_wdk"}) is RETRY
        assert classify(met, {"another"}) is POISON
        assert classify(met) is POISON


def test_a_statement_that_a_migration_has_outdated_is_sent_again() -> None:
    error = asyncpg.InvalidCachedStatementError("cached plan must not change result type")
    assert classify(error) is RETRY
    assert classify(wrapped(error)) is RETRY


@pytest.mark.parametrize(("reply", "trouble"), REPLIES.items(), ids=[r.split()[0] for r in REPLIES])
def test_replies_of_redis_are_told_apart_by_their_code(reply: str, trouble: Trouble) -> None:
    error = BaseParser.parse_error(reply)
    assert isinstance(error, redis_errors.RedisError)
    assert classify(error) is trouble


@pytest.mark.parametrize(
    ("reason", "trouble"),
    [("TLSV1_ALERT_UNKNOWN_CA", MISCONFIGURED), ("UNEXPECTED_EOF_WHILE_READING", RECONNECT)],
)
def test_a_refused_certificate_is_told_from_a_connection_that_broke(reason: str, trouble: Trouble) -> None:
    met = redis_errors.ConnectionError("Error while reading")
    met.__context__ = alert = ssl.SSLError(1, "[SSL] (_ssl.c:2580)")
    alert.reason = reason
    assert classify(met) is trouble
    assert ("ssl_certfile" in sentence(met)) is (trouble is MISCONFIGURED)
    assert "_ssl.c" not in sentence(met)


@pytest.mark.parametrize(("error", "trouble"), OTHERS, ids=[repr(error) for error, _ in OTHERS])
def test_errors_without_a_code_are_told_apart_by_type(error: BaseException, trouble: Trouble) -> None:
    assert classify(error) is trouble


@pytest.mark.parametrize("error", [error for error, trouble in OTHERS if trouble is not FATAL])
def test_whatever_may_be_over_at_another_attempt_can_be_caught_by_type(error: Any) -> None:
    assert isinstance(error, SERVER_ERRORS)


def test_an_error_is_described_without_the_statement_and_its_parameters() -> None:
    described = describe(wrapped(postgresql("40P01", "deadlock\ndetected")))
    assert described == "DeadlockDetectedError: deadlock (SQLSTATE 40P01)"


@pytest.mark.parametrize("state", ["22000", "22P02", "22003"])
def test_a_value_that_postgresql_does_not_take_is_not_quoted(state: str) -> None:
    described = describe(wrapped(postgresql(state, 'invalid input syntax for type integer: "secret"')))
    assert "secret" not in described
    assert state in described


def test_an_error_without_words_is_described_by_its_name() -> None:
    assert describe(TimeoutError()) == "TimeoutError"
    assert describe(OSError("no route")) == "OSError: no route"
    assert describe(OperationalError("SELECT 1", {}, Exception("no\nmore"))) == "Exception: no"
