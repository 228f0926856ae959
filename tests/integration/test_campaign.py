"""Rebuilds of many streams: shared by processes, gone on with after a death, given up."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
from redis.asyncio import Redis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.projecting import run
from tests.rebuilding import RebuildingReplica
from tests.versions import of_version
from tests.waiting import wait_until
from worker import Keys
from worker.campaign import Campaign, Campaigns, RefusedStream, chunk_size
from worker.campaign_work import CampaignWorker, enter
from worker.courtesy import Courtesy
from worker.errors import RebuildUnderWayError, ScopeError
from worker.judgement import Refusal
from worker.rebuild import Rebuilder, Rebuilt
from worker.retry import Perseverance
from worker.scope import Scope, find_streams

ALL = Scope()
STREAMS = [f"s{number}" for number in range(30)]
LAPSE = "UPDATE rebuild_chunks SET taken_until = now() - interval '1 second' WHERE done_at IS NULL"


class CountingRebuilder(Rebuilder):
    """Counts how often each stream is rebuilt; may be told to wait before it begins."""

    def __init__(self, replica: RebuildingReplica) -> None:
        super().__init__(replica.projection, replica.logs, replica.store, replica.blocked, replica.diverged)
        self.times = Counter[str]()
        self.may_begin = asyncio.Event()
        self.may_begin.set()

    async def rebuild(self, stream_ids: Sequence[str], **how: Any) -> list[Rebuilt]:
        self.times.update(stream_ids)
        await self.may_begin.wait()
        return await super().rebuild(stream_ids, **how)


class Process:
    """What a process that takes part in a campaign consists of, in this one."""

    def __init__(self, replica: RebuildingReplica, name: str) -> None:
        self.replica = replica
        self.stop = asyncio.Event()
        self.rebuilder = CountingRebuilder(replica)
        self.campaigns = Campaigns(replica.engine, replica.projection.name, name)
        self._persevere = Perseverance(self.stop)

    async def enter(self, scope: Scope = ALL, *, restart: bool = False) -> Campaign:
        replica = self.replica
        streams = partial(find_streams, scope, replica.logs, replica.store, replica.projection)
        return await enter(self.campaigns, replica.projection.version, scope, streams, restart=restart)

    async def work(self, campaign: Campaign) -> None:
        replica = self.replica
        courtesy = Courtesy(replica.redis, replica.keys, replica.projection.name, self._persevere, self.stop)
        worker = CampaignWorker(
            self.campaigns, campaign, self.rebuilder, replica.store, courtesy, self._persevere, self.stop
        )
        await worker.run()

    async def is_finished(self, campaign: Campaign) -> bool:
        progress = await self.campaigns.progress(campaign.id)
        return progress is not None and progress.finished and not progress.given_up


@pytest.fixture
async def replica(client: Redis, keys: Keys, engine: AsyncEngine) -> RebuildingReplica:
    """Thirty streams with rows that were damaged."""
    replica = RebuildingReplica(client, keys, engine)
    for stream_id in STREAMS:
        await replica.append_many(stream_id, "user_message", "assistant_message")
    await replica.project(*STREAMS)
    await run(engine, "UPDATE stream_projections SET message_count = 0")
    return replica


async def generations(replica: RebuildingReplica) -> Counter[int]:
    """How many rows were rebuilt how often."""
    async with replica.engine.connect() as connection:
        rows = await connection.execute(text("SELECT generation FROM stream_projections"))
        return Counter(rows.scalars())


async def all_are_right(replica: RebuildingReplica) -> bool:
    async with replica.engine.connect() as connection:
        counts = await connection.execute(text("SELECT DISTINCT message_count FROM stream_projections"))
        return counts.scalars().all() == [2]


async def test_one_process_rebuilds_every_stream_once(replica: RebuildingReplica) -> None:
    process = Process(replica, "one")
    campaign = await process.enter()
    await process.work(campaign)
    assert await process.is_finished(campaign)
    assert await all_are_right(replica)
    assert await generations(replica) == {1: len(STREAMS)}
    progress = await process.campaigns.progress(campaign.id)
    assert progress is not None
    assert (progress.streams, progress.done, progress.refused, progress.events) == (30, 30, 0, 60)
    assert (progress.workers, progress.seconds_left) == ([], 0.0)
    assert await process.campaigns.unfinished() is None


async def test_without_streams_a_campaign_is_over_at_once(
    client: Redis, keys: Keys, engine: AsyncEngine
) -> None:
    process = Process(RebuildingReplica(client, keys, engine), "one")
    campaign = await process.enter()
    await process.work(campaign)
    assert campaign.streams == 0
    assert await process.is_finished(campaign)


async def test_a_process_ends_with_its_last_chunk_and_not_at_the_next_look_for_others(
    replica: RebuildingReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.campaign_work._LOOK_AGAIN_SECONDS", 600.0)
    process = Process(replica, "one")
    campaign = await process.campaigns.begin(replica.projection.version, ALL, STREAMS[:1])
    process.rebuilder.may_begin.clear()
    conclude, has_looked = process.campaigns.conclude, asyncio.Event()

    async def look(campaign_id: int) -> bool:
        over = await conclude(campaign_id)
        has_looked.set()
        return over

    monkeypatch.setattr(process.campaigns, "conclude", look)
    async with asyncio.timeout(20):
        working = asyncio.create_task(process.work(campaign))
        await has_looked.wait()  # One half of the process has the only chunk, and the other has found none.
        process.rebuilder.may_begin.set()
        await working
    assert await process.is_finished(campaign)


async def test_processes_share_a_campaign_and_do_no_stream_twice(replica: RebuildingReplica) -> None:
    processes = [Process(replica, name) for name in ("one", "two", "three")]
    # All at once: one of them begins the campaign, whoever it is, and the others join it.
    campaigns = await asyncio.gather(*(process.enter() for process in processes))
    assert len({campaign.id for campaign in campaigns}) == 1
    await asyncio.gather(*(process.work(campaigns[0]) for process in processes))
    assert await processes[0].is_finished(campaigns[0])
    assert sum((process.rebuilder.times for process in processes), Counter()) == Counter(STREAMS)
    assert all(process.rebuilder.times for process in processes)


async def test_what_a_dead_process_had_in_hand_is_done_by_others(replica: RebuildingReplica) -> None:
    dead, alive = Process(replica, "dead"), Process(replica, "alive")
    campaign = await dead.enter()
    taken = [chunk for _ in range(3) if (chunk := await dead.campaigns.take(campaign.id))]
    assert len(taken) == 3
    working = asyncio.create_task(alive.work(await alive.enter()))
    done = len(STREAMS) - 3
    await wait_until(lambda: alive.rebuilder.times.total() == done, "all chunks that are free")
    assert not await alive.is_finished(campaign)
    await run(replica.engine, LAPSE)
    await working
    assert await alive.is_finished(campaign)
    assert alive.rebuilder.times == Counter(STREAMS)


async def test_a_lease_that_was_lost_while_working_costs_one_more_time_and_nothing_else(
    replica: RebuildingReplica,
) -> None:
    slow, other = Process(replica, "slow"), Process(replica, "other")
    campaign = await slow.enter()
    slow.rebuilder.may_begin.clear()
    slowly = asyncio.create_task(slow.work(campaign))
    await wait_until(lambda: slow.rebuilder.times.total() == 2, "two chunks to be taken")
    await run(replica.engine, LAPSE)
    await other.work(await other.enter())
    assert other.rebuilder.times == Counter(STREAMS)
    slow.rebuilder.may_begin.set()
    await slowly
    assert await slow.is_finished(campaign)
    assert await generations(replica) == {1: len(STREAMS) - 2, 2: 2}
    progress = await slow.campaigns.progress(campaign.id)
    assert progress is not None
    assert (progress.done, progress.events) == (30, 60)  # each counted once
    assert await all_are_right(replica)


async def test_who_works_keeps_its_chunks(
    replica: RebuildingReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.campaign.LEASE_SECONDS", 0.8)
    monkeypatch.setattr("worker.campaign_work.LEASE_SECONDS", 0.8)
    slow, other = Process(replica, "slow"), Process(replica, "other")
    campaign = await slow.enter()
    slow.rebuilder.may_begin.clear()
    slowly = asyncio.create_task(slow.work(campaign))
    await wait_until(lambda: slow.rebuilder.times.total() == 2, "two chunks to be taken")
    held = set(slow.rebuilder.times)
    elsewhere = asyncio.create_task(other.work(campaign))
    began = asyncio.get_running_loop().time()
    await wait_until(lambda: asyncio.get_running_loop().time() > began + 2, "leases to be over twice")
    assert held.isdisjoint(other.rebuilder.times)
    slow.rebuilder.may_begin.set()
    await asyncio.gather(slowly, elsewhere)
    assert slow.rebuilder.times + other.rebuilder.times == Counter(STREAMS)


async def test_a_chunk_that_was_taken_unheard_is_not_kept(replica: RebuildingReplica) -> None:
    process = Process(replica, "one")
    campaign = await process.enter()
    unheard = await process.campaigns.take(campaign.id)
    heard = await process.campaigns.take(campaign.id)
    assert unheard is not None
    assert heard is not None
    await run(replica.engine, LAPSE)
    await process.campaigns.renew(campaign.id, [heard.number])
    again = await process.campaigns.take(campaign.id)
    assert again == unheard


async def test_a_stop_frees_what_is_in_hand_and_another_process_goes_on(replica: RebuildingReplica) -> None:
    first, second = Process(replica, "first"), Process(replica, "second")
    campaign = await first.enter()
    first.rebuilder.may_begin.clear()
    working = asyncio.create_task(first.work(campaign))
    await wait_until(lambda: first.rebuilder.times.total() == 2, "two chunks to be taken")
    first.stop.set()
    first.rebuilder.may_begin.set()
    await working
    progress = await first.campaigns.progress(campaign.id)
    assert progress is not None
    assert (progress.finished, progress.done, progress.workers) == (False, 2, [])
    await second.work(await second.enter())
    assert second.rebuilder.times + first.rebuilder.times == Counter(STREAMS)


async def test_a_campaign_is_begun_as_a_whole_or_not_at_all(replica: RebuildingReplica) -> None:
    await run(
        replica.engine,
        "ALTER TABLE rebuild_chunks ADD CONSTRAINT broken CHECK (number < 20)",  # it dies on its way
    )
    process = Process(replica, "one")
    with pytest.raises(Exception, match="broken"):
        await process.enter()
    assert await process.campaigns.unfinished() is None
    await run(replica.engine, "ALTER TABLE rebuild_chunks DROP CONSTRAINT broken")
    assert (await process.enter()).streams == len(STREAMS)


async def test_another_scope_is_refused_until_the_one_under_way_is_given_up(
    replica: RebuildingReplica,
) -> None:
    first, second = Process(replica, "first"), Process(replica, "second")
    campaign = await first.enter(Scope(where="message_count = 0", accept_loss=True))
    with pytest.raises(RebuildUnderWayError, match="rows where message_count = 0, with --accept-loss"):
        await second.enter()
    other = await second.enter(restart=True)
    assert other.id != campaign.id
    assert await first.campaigns.take(campaign.id) is None
    await first.work(campaign)  # notices, and ends
    assert not first.rebuilder.times
    await second.work(other)
    assert await all_are_right(replica)


async def test_a_campaign_of_an_older_version_is_given_up_by_itself(replica: RebuildingReplica) -> None:
    old = Process(replica, "old")
    campaign = await old.enter()
    later = RebuildingReplica(replica.redis, replica.keys, replica.engine, of_version(2))
    new = Process(later, "new")
    newer = await new.enter()
    assert newer.version == 2
    progress = await new.campaigns.progress(campaign.id)
    assert progress is not None
    assert progress.given_up
    with pytest.raises(RebuildUnderWayError, match="to version 2, of all streams"):
        await old.enter()


async def test_of_stale_rows_those_that_live_projection_has_brought_up_are_left_alone(
    replica: RebuildingReplica,
) -> None:
    later = RebuildingReplica(replica.redis, replica.keys, replica.engine, of_version(2))
    process = Process(later, "one")
    campaign = await process.enter(Scope(stale=True))
    assert campaign.streams == len(STREAMS)
    await later.rebuild("s7")
    await process.work(campaign)
    assert process.rebuilder.times == Counter(stream_id for stream_id in STREAMS if stream_id != "s7")
    assert (await process.enter(Scope(stale=True))).streams == 0


async def test_refusals_are_told_by_reason_with_their_streams(replica: RebuildingReplica) -> None:
    await replica.admin.delete(replica.keys.log("s3"))
    await replica.admin.xtrim(replica.keys.log("s4"), maxlen=1, approximate=False)
    process = Process(replica, "one")
    campaign = await process.enter()
    await process.work(campaign)
    counts, told = await process.campaigns.refusals(campaign.id, 1)
    assert counts == {Refusal.GONE: 1, Refusal.TRIMMED: 1}
    assert [(of.stream_id, of.refusal) for of in told] == [("s3", Refusal.GONE)]
    assert "--accept-loss" in told[0].detail


async def test_what_is_said_first_of_a_chunk_stands(replica: RebuildingReplica) -> None:
    process = Process(replica, "one")
    campaign = await process.enter()
    refused = RefusedStream("s0", Refusal.BUSY, "wait")
    await process.campaigns.note_done(campaign.id, 0, 7, [refused])
    await process.campaigns.note_done(campaign.id, 0, 8, [])
    progress = await process.campaigns.progress(campaign.id)
    assert progress is not None
    assert (progress.done, progress.events, progress.refused) == (1, 7, 1)


async def test_who_is_done_with_a_chunk_has_the_next_until_there_is_none(replica: RebuildingReplica) -> None:
    process = Process(replica, "one")
    campaign = await process.enter()
    chunk = await process.campaigns.take(campaign.id)
    passed: list[str] = []
    while chunk is not None:
        passed += chunk.stream_ids
        progress = await process.campaigns.progress(campaign.id)
        assert progress is not None
        assert (progress.done, progress.workers) == (len(passed) - len(chunk.stream_ids), ["one"])
        chunk = await process.campaigns.note_done(campaign.id, chunk.number, 0, [])
    assert passed == sorted(STREAMS)
    assert await process.campaigns.conclude(campaign.id)


@pytest.mark.parametrize(("streams", "size"), [(0, 1), (49, 1), (1_000, 40), (4_999, 50), (1_000_000, 50)])
def test_chunks_are_so_small_that_a_death_costs_little(streams: int, size: int) -> None:
    assert chunk_size(streams) == size


# Which streams.


async def found(replica: RebuildingReplica, scope: Scope) -> list[str]:
    return await find_streams(scope, replica.logs, replica.store, replica.projection)


async def test_all_streams_are_those_with_a_log_or_a_projected_row(replica: RebuildingReplica) -> None:
    await replica.admin.delete(replica.keys.log("s3"))
    await replica.append_many("news", "user_message")
    await replica.admin.set(replica.keys.log("no stream"), "x")
    await replica.admin.set(replica.keys.log(""), "x")
    await run(replica.engine, "INSERT INTO stream_projections (stream_id) VALUES ('made by somebody')")
    assert await found(replica, ALL) == sorted([*STREAMS, "news"])


async def test_a_condition_chooses_among_rows(replica: RebuildingReplica) -> None:
    chosen = "stream_id LIKE 's1%' -- and so on"
    assert await found(replica, Scope(where=chosen)) == sorted(s for s in STREAMS if s.startswith("s1"))
    assert await found(replica, Scope(where=chosen, stale=True)) == []


@pytest.mark.parametrize(
    "condition",
    ["nonsense", "name = 1", "stream_id = (", "true); DELETE FROM stream_projections; --", "1/0 = 1"],
)
async def test_a_condition_that_is_none_is_told_in_a_sentence(
    replica: RebuildingReplica, condition: str
) -> None:
    with pytest.raises(ScopeError, match="PostgreSQL does not take the condition"):
        await found(replica, Scope(where=condition))
    assert len(await found(replica, ALL)) == len(STREAMS)


async def test_a_condition_that_closes_its_parenthesis_ends_all_the_same(
    replica: RebuildingReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.scope._ROWS_A_STEP", 7)
    async with asyncio.timeout(10):
        assert await found(replica, Scope(where="true) OR (true")) == sorted(STREAMS)


async def test_a_condition_that_takes_too_long_is_to_blame_and_not_the_server(
    replica: RebuildingReplica,
) -> None:
    looking = asyncio.create_task(found(replica, Scope(where="pg_sleep(60) IS NULL")))
    cancel = """
        SELECT pg_cancel_backend(pid) FROM pg_stat_activity
        WHERE wait_event = 'PgSleep' AND datname = current_database()"""

    async def cancelled() -> bool:
        async with replica.engine.connect() as connection:
            return bool((await connection.execute(text(cancel))).all())

    await wait_until(cancelled, "the condition to be under way, and cancelled")
    with pytest.raises(ScopeError, match="too long over the condition"):
        await looking


async def test_a_condition_changes_nothing(replica: RebuildingReplica) -> None:
    await run(
        replica.engine,
        """CREATE FUNCTION wipe() RETURNS boolean LANGUAGE sql AS
           'DELETE FROM stream_projections; SELECT true'""",
    )
    with pytest.raises(ScopeError, match="read-only transaction"):
        await found(replica, Scope(where="wipe()"))
    assert len(await found(replica, ALL)) == len(STREAMS)
