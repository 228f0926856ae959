"""Going on when a server is away: which errors are endured, for how long, and what is told."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from sqlalchemy.exc import OperationalError
from structlog.testing import capture_logs

from worker import retry
from worker.errors import ClaimRaceError, FeedPartitionsError
from worker.health import Health
from worker.retry import Perseverance

SERVER_TROUBLE: list[Exception] = [
    RedisConnectionError("connection refused"),
    OperationalError("SELECT 1", {}, Exception("server closed the connection")),
    asyncpg.InsufficientPrivilegeError("permission denied"),
    asyncpg.CheckViolationError("no such row"),
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


class Time:
    """A clock that only pauses move on, and those that were made, in seconds."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.pauses: list[float] = []

    async def wait_for(self, stop: asyncio.Event, seconds: float) -> bool:
        self.pauses.append(seconds)
        self.now += seconds
        return stop.is_set()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Time:
    clock = Time()
    monkeypatch.setattr(retry, "wait_for", clock.wait_for)
    monkeypatch.setattr(retry, "monotonic", lambda: clock.now)
    return clock


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


@pytest.mark.usefixtures("clock")
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


async def test_who_has_an_operator_does_not_wait_for_one(stop: asyncio.Event, clock: Time) -> None:
    persevere = Perseverance(stop, await_operators=False)
    assert await persevere("working", Flaky(OSError(), ClaimRaceError("race"))) == "done"
    action = Flaky(asyncpg.InsufficientPrivilegeError("permission denied"))
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await persevere("working", action)
    assert action.calls == 1


async def test_pauses_grow_up_to_a_few_seconds(stop: asyncio.Event, clock: Time) -> None:
    await Perseverance(stop)("working", Flaky(*[OSError()] * 40))
    assert len(clock.pauses) == 40
    assert 0.05 <= clock.pauses[0] <= 0.1
    assert 0.1 <= clock.pauses[1] <= 0.2
    assert all(2.5 <= pause <= 5 for pause in clock.pauses[10:])
    assert len(set(clock.pauses)) > 30  # so that replicas do not come back all at once


async def test_a_transaction_that_was_in_the_way_is_waited_for_briefly(
    stop: asyncio.Event, clock: Time, told: list[Any]
) -> None:
    await Perseverance(stop)("projecting", Flaky(*[ClaimRaceError("race")] * 3))
    assert max(clock.pauses) < 0.1
    assert told == []


async def test_transactions_in_each_others_way_for_long_are_trouble(
    stop: asyncio.Event, clock: Time, told: list[Any]
) -> None:
    health = Health()
    await Perseverance(stop, health)("projecting", Flaky(*[asyncpg.LockNotAvailableError("locked")] * 20))
    assert max(clock.pauses) > 1
    assert [line["event"] for line in told] == ["retrying", "recovered"]
    assert told[0]["trouble"] == "retry"


async def test_after_it_worked_for_a_while_pauses_are_short_again(stop: asyncio.Event, clock: Time) -> None:
    persevere = Perseverance(stop)
    await persevere("working", Flaky(*[OSError()] * 10))
    clock.now += 10
    await persevere("working", Flaky(OSError()))
    assert clock.pauses[-1] <= 0.1


async def test_what_fails_again_right_after_it_worked_pauses_longer_and_longer(
    stop: asyncio.Event, clock: Time
) -> None:
    persevere = Perseverance(stop)
    for _ in range(20):
        await persevere("working", Flaky(OSError()))
        clock.now += 0.01
    assert clock.pauses[-1] >= 2.5


async def test_one_line_tells_that_trouble_starts_and_one_that_it_is_over(
    stop: asyncio.Event, clock: Time, told: list[Any]
) -> None:
    action = Flaky(OSError("no route"), OSError("no route"), OSError("x"))
    await Perseverance(stop, projection="tallies")("reading hints", action)
    assert told == [
        {
            "event": "retrying",
            "log_level": "warning",
            "doing": "reading hints",
            "projection": "tallies",
            "trouble": "reconnect",
            "error": "OSError: no route",
            "failures": 1,
            "seconds": 0.0,
        },
        {
            "event": "recovered",
            "log_level": "info",
            "doing": "reading hints",
            "projection": "tallies",
            "attempts": 4,
            "seconds": round(sum(clock.pauses), 1),
        },
    ]


async def test_lasting_trouble_is_told_once_a_minute(
    stop: asyncio.Event, clock: Time, told: list[Any]
) -> None:
    await Perseverance(stop)("working", Flaky(*[OSError()] * 200))
    minutes = sum(clock.pauses) / 60
    assert minutes > 8
    assert minutes - 2 < len(told) < minutes + 3
    assert told[5]["failures"] > told[4]["failures"] > 50
    assert told[-1]["event"] == "recovered"


async def test_trouble_that_comes_and_goes_is_told_twice_a_minute(
    stop: asyncio.Event, clock: Time, told: list[Any]
) -> None:
    persevere, began = Perseverance(stop), clock.now
    for _ in range(300):
        await persevere("working", Flaky(OSError()))
        clock.now += 0.01
    assert len(told) <= 2 * (2 * (clock.now - began) / 60 + 1)
    assert [line["event"] for line in told] == ["retrying", "recovered"] * (len(told) // 2)


async def test_different_actions_are_told_apart(stop: asyncio.Event, clock: Time, told: list[Any]) -> None:
    persevere = Perseverance(stop)
    await persevere("reading", Flaky(*[OSError()] * 10))
    await persevere("writing", Flaky(OSError()))
    assert clock.pauses[-1] <= 0.1
    assert [line["doing"] for line in told] == ["reading", "reading", "writing", "writing"]


@pytest.mark.usefixtures("clock")
async def test_what_an_operator_must_do_is_told(stop: asyncio.Event, told: list[Any]) -> None:
    await Perseverance(stop)("projecting", Flaky(asyncpg.InvalidPasswordError("wrong password")))
    assert "Mend user and password in DATABASE_URL" in told[0]["error"]


@pytest.mark.usefixtures("clock")
async def test_what_fails_is_a_problem_until_it_works(stop: asyncio.Event) -> None:
    health, seen = Health(), list[str]()
    persevere = Perseverance(stop, health, projection="tallies")
    action = Flaky(OSError("no route"), OSError("no way"))

    async def look() -> str:
        seen.extend(problem.what for problem in health.problems())
        return await action()

    await persevere("working", look)
    assert seen == ["OSError: no route", "OSError: no way"]
    assert health.ready


@pytest.mark.usefixtures("clock")
async def test_only_an_error_of_the_connection_asks_for_a_new_one(stop: asyncio.Event) -> None:
    renewed: list[BaseException] = []

    async def renew(error: BaseException) -> None:
        renewed.append(error)

    lost = OSError("connection lost")
    action = Flaky(lost, asyncpg.DeadlockDetectedError("deadlock"), asyncpg.UndefinedTableError("no table"))
    await Perseverance(stop, renew=renew)("working", action)
    assert renewed == [lost]


@pytest.mark.usefixtures("clock")
async def test_a_constraint_that_is_a_race_is_retried_at_once(stop: asyncio.Event, told: list[Any]) -> None:
    error = asyncpg.UniqueViolationError("taken")
    error.constraint_name = "ix"
    await Perseverance(stop, races={"ix"})("projecting", Flaky(error))
    assert told == []


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
