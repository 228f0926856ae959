"""What an error means for whoever meets it: the one place where errors of servers are told apart.

PostgreSQL's are told apart by SQLSTATE, Redis's by the code that its reply begins with, never by their text.
"""

from __future__ import annotations

import ssl
from collections.abc import Collection
from enum import Enum

import asyncpg
from redis.exceptions import (
    AuthenticationError,
    AuthenticationWrongNumberOfArgsError,
    AuthorizationError,
    ClusterCrossSlotError,
    MovedError,
    NoPermissionError,
    RedisError,
)
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from worker.errors import ClaimRaceError, SchemaError
from worker.sentinel import SentinelRefusalError, UnknownServiceError
from worker.tls import tls_error, tls_remedy, tls_words

SERVER_ERRORS = (
    RedisError,
    SQLAlchemyError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    ClaimRaceError,
    SchemaError,
    OSError,
    TimeoutError,
)
"""What a server, the network, another transaction or an operator may do to us, and undo again.

A refused connection to PostgreSQL comes as a bare OSError, many server errors as a plain DBAPIError.
"""


class Trouble(Enum):
    """What to do about an error. Each but FATAL may be over when the same is tried again."""

    RETRY = "retry"
    """Another transaction was in the way: run this one again, after a short pause."""
    RECONNECT = "reconnect"
    """The server is away or not itself: try again after growing pauses, over a new connection."""
    POISON = "poison"
    """PostgreSQL will not have a row as it is: find the row, and write the others without it."""
    MISCONFIGURED = "misconfigured"
    """An operator must act: say what is missing and try again now and then. Nothing is wrong with any row."""
    FATAL = "fatal"
    """No server's doing: a bug, or a setting that only another start can change. The worker ends with it."""


_RETRY_STATES = {
    "40001",  # serialization failure
    "40P01",  # deadlock
    "55P03",  # lock timeout
    "57014",  # statement timeout, or cancelled by an operator
}
_POISON_CLASSES = {"22", "23", "54"}  # bad data, a violated constraint, a limit exceeded
_POISON_STATES = {
    "44000",  # the row does not fit the view that it is written through
    "P0001",  # a trigger raised an exception
}
_MISCONFIGURED_CLASSES = {
    "0A",  # the server cannot do that, being too old or of another kind
    "28",  # wrong user or password
    "3D",  # no such database
    "3F",  # no such schema
    "42",  # no such table or column, or no right to it
}
_MISCONFIGURED_REPLIES = {
    "DENIED",  # protected mode
    "WRONGTYPE",  # another application uses a name of ours
}
_MISCONFIGURED_ERRORS = (  # redis-py takes the code off the replies that it has a class for
    AuthenticationError,
    AuthenticationWrongNumberOfArgsError,
    AuthorizationError,
    ClusterCrossSlotError,
    MovedError,
    NoPermissionError,
    UnknownServiceError,
)


def classify(error: BaseException, races: Collection[str] = ()) -> Trouble:
    """What to do about an error.

    ``races`` are the names of unique constraints whose violation is a race between transactions. Any error of
    a server that is not known to be otherwise is RECONNECT: it never costs a row.
    """
    database_error = _database_error(error)
    if isinstance(database_error, asyncpg.InvalidCachedStatementError):
        return Trouble.RETRY  # A migration changed the table under a prepared statement, which is gone now.
    if (state := sqlstate(error)) is not None:
        return _by_sqlstate(state, getattr(database_error, "constraint_name", None), races)
    if tls_remedy(error):
        return Trouble.MISCONFIGURED
    if isinstance(error, RedisError):
        return _by_reply(error)
    if isinstance(error, ClaimRaceError):
        return Trouble.RETRY
    if isinstance(error, SchemaError | asyncpg.exceptions.ClientConfigurationError):
        return Trouble.MISCONFIGURED
    return Trouble.RECONNECT if isinstance(error, SERVER_ERRORS) else Trouble.FATAL


def _by_sqlstate(state: str, constraint: str | None, races: Collection[str]) -> Trouble:
    if state in _RETRY_STATES or (state == "23505" and constraint in races):
        return Trouble.RETRY
    if state in _POISON_STATES or state[:2] in _POISON_CLASSES:
        return Trouble.POISON
    return Trouble.MISCONFIGURED if state[:2] in _MISCONFIGURED_CLASSES else Trouble.RECONNECT


def _by_reply(error: RedisError) -> Trouble:
    code = str(error).partition(" ")[0]
    if isinstance(error, _MISCONFIGURED_ERRORS) or code in _MISCONFIGURED_REPLIES:
        return Trouble.MISCONFIGURED
    return Trouble.RECONNECT


def sqlstate(error: BaseException) -> str | None:
    """The SQLSTATE of an error of PostgreSQL, however it is wrapped; None for any other error."""
    return getattr(_database_error(error), "sqlstate", None)


def _database_error(error: BaseException) -> BaseException:
    """The driver's error inside SQLAlchemy's: that alone has the name of the constraint."""
    if isinstance(error, DBAPIError) and error.orig is not None:
        return error.orig.__cause__ or error.orig
    return error


_REMEDIES = {
    "28": "Mend user and password in DATABASE_URL, or the server's access rules.",
    "3D": "Create the database, or mend the name in DATABASE_URL.",
    "3F": "Create the schema, or mend the search path.",
    "42501": "Grant the worker's user SELECT, INSERT, UPDATE and DELETE on the tables.",
    "42": "Run `projection-worker migrate`; if your models have changed, `projection-worker revision` first, "
    "or your own migrations.",
}


def remedy(error: BaseException) -> str:
    """What an operator should do; empty where that is nothing, or told by the error itself."""
    state = sqlstate(error) or ""
    if help_ := tls_remedy(error):
        return help_
    if isinstance(error, MovedError):
        return "Redis is a cluster: write redis+cluster://... in REDIS_URL."
    if isinstance(error, UnknownServiceError):
        return "Mend the service's name in REDIS_URL, or have the sentinels monitor it."
    if isinstance(error, SentinelRefusalError):
        return "Mend sentinel_username and sentinel_password in REDIS_URL, or the sentinels' own users."
    if isinstance(error, AuthenticationError | AuthorizationError | NoPermissionError):
        return "Mend user and password in REDIS_URL, or the user's rights in Redis."
    return _REMEDIES.get(state) or _REMEDIES.get(state[:2], "")


def words(error: BaseException) -> str:
    """What an error says, or, where that is nothing to anybody, what it means."""
    return remedy(error).rstrip(".") if isinstance(error, MovedError) else str(error)


def describe(error: BaseException) -> str:
    """One line on an error, without statements, parameters and values: those would be payloads."""
    inner = tls_error(error) or _database_error(error)
    state = sqlstate(error)
    text = tls_words(inner) if isinstance(inner, ssl.SSLError) else str(inner).partition("\n")[0]
    if state is not None and state[:2] == "22":
        text = "PostgreSQL does not take a value"  # Its own words quote the value.
    code = f" (SQLSTATE {state})" if state else ""
    return f"{type(inner).__name__}: {text}{code}" if text else f"{type(inner).__name__}{code}"


def sentence(error: BaseException) -> str:
    """What is wrong, as `describe` has it, and what to do about it if that is an operator's to do."""
    help_ = remedy(error)
    return f"{describe(error).rstrip('.')}. {help_}" if help_ else describe(error)
