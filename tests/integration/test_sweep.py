"""The sweep: every event is found without its hint, and an idle universe costs next to nothing."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from datetime import timedelta

import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine
from structlog.testing import capture_logs

from tests.projecting import run, statements
from tests.proxy import redis_proxy
from tests.servers import RunningServers
from tests.sweeping import SweepingReplica
from tests.tallies import tallies
from tests.waiting import wait_until
from tests.writes import create_tallies
from worker import EventId, Keys, sweep
from worker.redis_client import make_client
from worker.sweep import SweepReport


@pytest.fixture
def replica(client: Redis, keys: Keys, engine: AsyncEngine) -> SweepingReplica:
    return SweepingReplica(client, keys, engine)


def sent_commands(sent: list[bytes]) -> Counter[str]:
    """The commands in what a client sent."""
    names = re.findall(rb"\*\d+\r\n\$\d+\r\n([A-Za-z]+)\r\n", b"".join(sent))
    return Counter(name.decode().upper() for name in names)


# What is found.


async def test_events_without_hints_are_projected_by_one_sweep(replica: SweepingReplica) -> None:
    streams = {"a", "é:1", "*", "", *(f"s{number}" for number in range(30))}
    for stream_id in streams:
        await replica.append_many(stream_id, "delta", "user_message", "delta")
    report, queued = await replica.sweep()
    assert queued == streams
    assert await replica.positions(*streams) == ["2-0"] * len(streams)
    assert (report.streams, report.behind, report.vanished, report.unusable_keys) == (34, 34, 0, 0)


async def test_what_is_appended_later_is_found_by_a_later_sweep(replica: SweepingReplica) -> None:
    await replica.append_many("a", "user_message", "delta")
    await replica.sweep()
    await replica.append_many("a", "user_message", first=3)
    await replica.append_many("new", "user_message")
    _, queued = await replica.sweep()
    assert queued == {"a", "new"}
    assert await replica.positions("a", "new") == ["3-0", "1-0"]


async def test_logs_that_hold_nothing_to_project_are_not_queued(replica: SweepingReplica) -> None:
    await replica.append_many("a", *["delta"] * 5)
    report, queued = await replica.sweep()
    assert (report.streams, report.behind, queued) == (1, 0, set())
    await replica.append_many("b", "delta")
    await replica.append_many("a", "delta", first=6)
    assert (await replica.sweep())[1] == set()


async def test_what_was_projected_before_is_not_queued_by_the_first_sweep(
    client: Redis, keys: Keys, engine: AsyncEngine
) -> None:
    first = SweepingReplica(client, keys, engine)
    await first.append_many("a", "user_message", "delta", "user_message", "delta")
    await first.sweep()
    await first.sweeper.release_lease()
    assert (await SweepingReplica(client, keys, engine, consumer="second").sweep())[1] == set()


async def test_what_was_projected_on_a_hint_is_not_queued_again(replica: SweepingReplica) -> None:
    await replica.sweep()
    await replica.append_many("a", "user_message", "delta")
    results = await replica.projector.project_batch(["a"])
    replica.sweeper.note("a", results["a"])
    assert (await replica.sweep())[1] == set()


async def test_a_log_is_noticed_that_has_lost_what_another_replica_projected(
    client: Redis, keys: Keys, engine: AsyncEngine
) -> None:
    """As a failover does it: the log ends where this sweep has seen it end before, but its row is further."""
    replica, other = (SweepingReplica(client, keys, engine, consumer=name) for name in ("one", "two"))
    await replica.append_many("a", "user_message")
    await replica.sweep()
    await replica.append_many("a", "user_message", first=2)
    await other.projector.project_batch(["a"])
    await replica.admin.xdel(keys.log("a"), "2-0")
    assert (await replica.sweep())[1] == {"a"}
    assert [stream_id async for stream_id in other.diverged.all()] == ["a"]
    assert (await replica.sweep())[1] == set(), "it is looked at once"


async def test_more_streams_than_may_be_queued_are_found_as_room_is_made(
    client: Redis, keys: Keys, engine: AsyncEngine
) -> None:
    replica = SweepingReplica(client, keys, engine, batch_streams=2)
    for number in range(40):
        await replica.append_many(f"s{number}", "user_message")
    sweeping = asyncio.create_task(replica.sweeper.run_once())
    queued: set[str] = set()

    async def all_found() -> bool:
        queued.update(await replica.project_queued())
        return sweeping.done()

    await wait_until(all_found, "the sweep to end")
    assert len(queued | await replica.project_queued()) == 40


# What it costs.


async def test_an_idle_universe_is_neither_read_nor_loaded(
    servers: RunningServers, keys: Keys, engine: AsyncEngine
) -> None:
    with redis_proxy(servers.redis_url) as proxy:
        client = make_client(proxy.url)
        replica = SweepingReplica(client, keys, engine)
        for number in range(100):
            await replica.append_many(f"s{number}", "user_message", "delta")
        await replica.sweep()
        proxy.sent.clear()
        with statements(engine) as sent:
            report, queued = await replica.sweep()
        await client.aclose()
    commands = sent_commands(proxy.sent)
    assert commands.keys() <= {"SCAN", "EVALSHA", "SET", "GET", "PEXPIRE"}
    assert commands["EVALSHA"] == 2  # One for the logs, one for the rows.
    assert sent == ["SELECT", "SELECT"]  # Rows whose log may have vanished; facts without a row.
    assert (report.streams, queued) == (100, set())


async def test_other_events_cost_neither_statement_nor_decoding(
    replica: SweepingReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    await replica.append_many("a", "user_message")
    await replica.sweep()
    await replica.append_many("a", *["delta"] * 50, first=2)
    await replica.append_many("new", *["delta"] * 50)
    monkeypatch.setattr("worker.log.parse_entry", pytest.fail)
    monkeypatch.setattr("worker.events.decode_object", pytest.fail)
    with statements(replica.engine) as sent:
        await replica.sweep()
        await replica.sweep()
    assert sent == ["SELECT", "SELECT"] * 2


# What is told.


async def test_a_sweep_tells_what_it_has_found(replica: SweepingReplica) -> None:
    await replica.append("a", "delta", at="1000-0")
    for number in (3000, 2000):
        await replica.append(f"s{number}", "user_message", at=f"{number}-0")
    await replica.admin.xadd(replica.keys.log_prefix.encode() + b"\xff", {"a": "b"})
    report, _ = await replica.sweep()
    assert (report.streams, report.behind, report.unusable_keys) == (3, 2, 1)
    assert report.oldest_behind_ms == 2000
    stored = await replica.admin.get(replica.keys.sweep_report("strategies"))
    assert isinstance(stored, bytes)
    assert SweepReport.parse(stored) == report
    assert (await replica.sweep())[0].oldest_behind_ms is None


async def test_an_event_whose_stream_waits_is_told_of_until_it_is_projected(replica: SweepingReplica) -> None:
    await replica.append("a", "user_message", at="2000-0")
    for _ in range(2):
        report = await replica.sweeper.run_once()
        assert report is not None
        assert (report.behind, report.oldest_behind_ms) == (1, 2000)
    await replica.project_queued()
    assert (await replica.sweep())[0].oldest_behind_ms is None


async def test_keys_that_cannot_be_projected_are_told_when_their_number_changes(
    replica: SweepingReplica,
) -> None:
    prefix = replica.keys.log_prefix.encode()
    await replica.append_many("a", "user_message")
    await replica.admin.set(prefix + b"text", "x")
    with capture_logs() as lines:
        for name in (b"\xff\nline", b"a\0b", b"x" * 10_000):
            await replica.admin.xadd(prefix + name, {"type": "user_message", "data": "{}"})
            for _ in range(2):
                report, queued = await replica.sweep()
                assert queued <= {"a"}
        assert (report.streams, report.unusable_keys) == (1, 4)
        for name in (b"text", b"\xff\nline", b"a\0b", b"x" * 10_000):
            await replica.admin.delete(prefix + name)
        await replica.sweep()
    told = [line for line in lines if line["event"] == "keys_unusable"]
    assert [line["keys"] for line in told] == [2, 3, 4, 0]
    assert all(line["example"].isprintable() and len(line["example"]) < 300 for line in told[:3])
    assert "example" not in told[3]


async def test_entries_without_a_type_are_counted_where_nothing_else_is(replica: SweepingReplica) -> None:
    log = replica.keys.log("a")
    for field in (("data", "{}"), ("type", b"\xff"), ("type", "delta"), ("type", "")):
        await replica.admin.xadd(log, dict([field]))
    for _ in range(2):
        _, queued = await replica.sweep()
        assert queued == set()
    assert replica.sweeper.untyped_entries == 2


async def test_the_oldest_event_may_be_as_old_as_time(replica: SweepingReplica) -> None:
    await replica.append("old", "user_message", at=str(EventId(0, 1)))
    await replica.append("young", "user_message", at="5000-0")
    assert (await replica.sweep())[0].oldest_behind_ms == 0


# Who sweeps.


async def test_only_one_replica_sweeps(client: Redis, keys: Keys, engine: AsyncEngine) -> None:
    first = SweepingReplica(client, keys, engine, consumer="first")
    second = SweepingReplica(client, keys, engine, consumer="second")
    assert await first.sweeper.run_once() is not None
    assert await second.sweeper.run_once() is None
    assert await first.sweeper.run_once() is not None
    await second.sweeper.release_lease()
    assert await second.sweeper.run_once() is None
    await first.sweeper.release_lease()
    assert await second.sweeper.run_once() is not None
    assert await first.sweeper.run_once() is None


async def test_a_lease_ends_by_itself(client: Redis, redis: Redis, keys: Keys, engine: AsyncEngine) -> None:
    dead = SweepingReplica(client, keys, engine, consumer="dead", period=timedelta(seconds=5))
    assert await dead.sweeper.run_once() is not None
    remaining = await redis.pttl(keys.sweep_lease("strategies"))
    assert 0 < remaining <= 10_000


async def test_at_a_stop_a_sweep_ends_between_two_steps(
    replica: SweepingReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "_STEP_KEYS", 10)
    for number in range(300):
        await replica.append_many(f"s{number}", "delta")
    replica.stop.set()
    assert await replica.sweeper.run_once() is None


# Streams that do not get on.


async def test_a_blocked_stream_is_passed_over_until_its_log_grows(
    client: Redis, keys: Keys, engine: AsyncEngine
) -> None:
    await create_tallies(engine)
    replica = SweepingReplica(client, keys, engine, tallies())
    await replica.append_many("a", "fail")
    await replica.append_many("b", "tell")
    assert [(await replica.sweep())[1] for _ in range(3)] == [{"a", "b"}, set(), set()]
    await replica.append_many("b", "tell", first=2)
    assert [(await replica.sweep())[1] for _ in range(2)] == [{"b"}, set()]


async def test_a_stream_whose_log_is_gone_is_queued_once(replica: SweepingReplica) -> None:
    await replica.append_many("a", "user_message")
    await replica.sweep()
    await replica.admin.delete(replica.keys.log("a"))
    sweeps = [await replica.sweep() for _ in range(3)]
    assert [queued for _, queued in sweeps] == [{"a"}, set(), set()]
    assert [report.vanished for report, _ in sweeps] == [1, 1, 1]


async def test_a_diverged_stream_is_queued_once_until_its_log_ends_elsewhere(
    replica: SweepingReplica,
) -> None:
    await replica.append_many("a", "user_message", "user_message")
    await replica.sweep()
    await replica.admin.xdel(replica.keys.log("a"), "2-0")
    assert [(await replica.sweep())[1] for _ in range(3)] == [{"a"}, set(), set()]
    await replica.append_many("a", "user_message", first=5)
    assert [(await replica.sweep())[1] for _ in range(3)] == [{"a"}, set(), set()]
    assert await replica.positions("a") == ["2-0"]


async def test_diverged_streams_are_told_until_they_get_on(replica: SweepingReplica) -> None:
    for stream_id in "abc":
        await replica.append_many(stream_id, "user_message", "user_message")
    await replica.sweep()
    for stream_id in "abc":
        await replica.admin.xdel(replica.keys.log(stream_id), "2-0")
    await replica.sweep()
    assert await replica.diverged.count() == 3
    await run(replica.engine, "UPDATE stream_projections SET last_event_id = '1-0' WHERE stream_id = 'a'")
    await run(replica.engine, "DELETE FROM stream_projections WHERE stream_id = 'b'")
    await replica.admin.delete(replica.keys.log("b"))
    heir = SweepingReplica(replica.redis, replica.keys, replica.engine)
    await heir.sweep()
    assert [stream_id async for stream_id in heir.diverged.all()] == ["c"]


async def test_rows_of_another_version_are_queued_once(replica: SweepingReplica) -> None:
    await replica.append_many("a", "user_message")
    await replica.sweep()
    await run(replica.engine, "UPDATE stream_projections SET version = 7")
    await replica.append_many("a", "user_message", first=2)
    assert [(await replica.sweep())[1] for _ in range(3)] == [{"a"}, set(), set()]
