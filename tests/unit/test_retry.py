"""Going on when a server is away: which errors are endured, for how long, and what is told."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError
from sqlalchemy.exc import DBAPIError, OperationalError
from structlog.testing import capture_logs

from worker import retry
from worker.errors import ClaimRaceError, FeedPartitionsError
from worker.retry import Perseverance

SERVER_TROUBLE: list[Exception] = [
    RedisConnectionError("connection refused"),
    RedisTimeoutError("timeout reading"),
    ResponseError("NOGROUP No such key"),
    OperationalError("SELECT 1", {}, Exception("server closed the connection")),
    DBAPIError("SELECT 1", {}, Exception("something else")),
    asyncpg.TooManyConnectionsError("too many clients"),
    asyncpg.InterfaceError("connection is closed"),
    ConnectionRefusedError("connect call failed"),
    TimeoutError(),
    ClaimRaceError("claims changed"),
]
OWN_FAULTS: list[BaseException] = [
    ValueError("a bug"),
    FeedPartitionsError("another number"),
    asyncio.CancelledError(),
]


class Flaky:
    """An action that fails with each of some errors, then works."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.calls = 0

    async def __call__(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"


@pytest.fixture
def stop() -> asyncio.Event:
    return asyncio.Event()


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that would have been made, in seconds; none is."""
    made: list[float] = []

    async def note(stop: asyncio.Event, seconds: float) -> bool:
        made.append(seconds)
        return stop.is_set()

    monkeypatch.setattr(retry, "wait_for", note)
    return made


@pytest.fixture
def told() -> Iterator[list[Any]]:
    with capture_logs() as lines:
        yield lines


def names(errors: list[Any]) -> list[str]:
    return [type(error).__name__ for error in errors]


async def test_what_works_is_done_once(stop: asyncio.Event, told: list[Any]) -> None:
    action = Flaky()
    assert await Perseverance(stop)("working", action) == "done"
    assert (action.calls, told) == (1, [])


@pytest.mark.usefixtures("pauses")
@pytest.mark.parametrize("error", SERVER_TROUBLE, ids=names(SERVER_TROUBLE))
async def test_trouble_of_a_server_is_endured(stop: asyncio.Event, error: Exception) -> None:
    action = Flaky(error, error)
    assert await Perseverance(stop)("working", action) == "done"
    assert action.calls == 3


@pytest.mark.parametrize("error", OWN_FAULTS, ids=names(OWN_FAULTS))
async def test_any_other_error_is_raised_at_once(stop: asyncio.Event, error: BaseException) -> None:
    action = Flaky(error)
    with pytest.raises(type(error)):
        await Perseverance(stop)("working", action)
    assert action.calls == 1


async def test_pauses_grow_up_to_a_few_seconds(stop: asyncio.Event, pauses: list[float]) -> None:
    await Perseverance(stop)("working", Flaky(*[OSError()] * 40))
    assert len(pauses) == 40
    assert pauses[0] <= 0.1
    assert pauses[1] <= 0.2
    assert max(pauses) <= 5
    assert max(pauses[10:]) > 1  # They differ by chance, but not 30 times like this.


async def test_every_action_starts_with_short_pauses(stop: asyncio.Event, pauses: list[float]) -> None:
    persevere = Perseverance(stop)
    await persevere("working", Flaky(*[OSError()] * 10))
    await persevere("working", Flaky(OSError()))
    assert pauses[-1] <= 0.1


@pytest.mark.usefixtures("pauses")
async def test_one_line_tells_that_trouble_starts_and_one_that_it_is_over(
    stop: asyncio.Event, told: list[Any]
) -> None:
    await Perseverance(stop)("reading hints", Flaky(OSError("no route"), OSError("no route"), OSError("x")))
    assert told == [
        {
            "event": "retrying",
            "log_level": "warning",
            "doing": "reading hints",
            "error": "OSError: no route",
        },
        {"event": "recovered", "log_level": "info", "doing": "reading hints", "attempts": 4},
    ]


@pytest.mark.usefixtures("pauses")
async def test_a_race_between_claims_is_no_trouble(stop: asyncio.Event, told: list[Any]) -> None:
    await Perseverance(stop)("projecting", Flaky(ClaimRaceError("race")))
    assert [line for line in told if line["log_level"] == "warning"] == []


async def test_at_a_stop_an_action_that_fails_is_given_up(stop: asyncio.Event, told: list[Any]) -> None:
    stop.set()
    action = Flaky(OSError("no route"))
    assert await Perseverance(stop)("working", action) is None
    assert action.calls == 1
    assert [line["event"] for line in told] == ["given_up_at_stop"]


async def test_at_a_stop_an_action_that_works_is_done(stop: asyncio.Event) -> None:
    stop.set()
    assert await Perseverance(stop)("working", Flaky()) == "done"


async def test_a_stop_ends_a_pause(stop: asyncio.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "_FIRST_PAUSE_SECONDS", 1_000.0)
    monkeypatch.setattr(retry, "_LONGEST_PAUSE_SECONDS", 1_000.0)
    action = Flaky(*[OSError()] * 5)
    asyncio.get_running_loop().call_later(0.01, stop.set)
    async with asyncio.timeout(5):
        assert await Perseverance(stop)("working", action) is None
    assert action.calls == 2
