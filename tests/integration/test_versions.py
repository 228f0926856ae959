"""Rows of other versions of a projection, as live projection meets them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.projecting import Replica, run
from tests.versions import WEIGHT, failing, of_version
from worker import Keys
from worker.dead_letters import find_letters, skip_letter
from worker.events import EventId
from worker.extent import Extent
from worker.letters import Reason, State
from worker.log import Log, Page, PageRequest, ReadTerms
from worker.outcome import Outcome

ROW_TYPES = ("user_message", "assistant_message", "user_message")


class Deployment:
    """Replicas of several versions on the same servers."""

    def __init__(self, redis: Redis, keys: Keys, engine: AsyncEngine) -> None:
        self.redis, self.keys, self.engine = redis, keys, engine

    def replica(self, version: int, page_bytes: int = 1_000_000, **handlers: Any) -> Replica:
        return Replica(
            self.redis, self.keys, self.engine, of_version(version, **handlers), page_bytes=page_bytes
        )


@pytest.fixture
def deployment(client: Redis, keys: Keys, engine: AsyncEngine) -> Deployment:
    return Deployment(client, keys, engine)


async def settle(replica: Replica, stream_id: str = "a") -> Outcome:
    """Project until the stream need not be taken again."""
    for _ in range(500):
        [outcome] = await replica.project(stream_id)
        if outcome not in (Outcome.LOST, Outcome.MORE):
            return outcome
    raise AssertionError(f"{stream_id} does not settle")


async def values(replica: Replica, stream_id: str = "a") -> tuple[Any, ...]:
    row = await replica.row(stream_id)
    assert row is not None
    return row["version"], row["last_event_id"], row["message_count"]


async def projected_by_the_first(deployment: Deployment, *types: str) -> None:
    first = deployment.replica(1)
    await first.append_many("a", *(types or ROW_TYPES))
    assert await settle(first) is Outcome.CAUGHT_UP


async def test_news_of_a_stale_row_have_it_folded_anew(deployment: Deployment) -> None:
    await projected_by_the_first(deployment)
    second = deployment.replica(2)
    await second.append("a", "user_message", at="4-0")
    assert await settle(second) is Outcome.CAUGHT_UP
    assert await values(second) == (2, "4-0", 3 * WEIGHT + 1)
    await second.append("a", "user_message", at="5-0")
    assert await settle(second) is Outcome.CAUGHT_UP
    assert await values(second) == (2, "5-0", 4 * WEIGHT + 1)


async def test_a_stale_row_is_replaced_in_one_step_however_long_its_log_is(deployment: Deployment) -> None:
    await projected_by_the_first(deployment, *("user_message",) * 200)
    second = deployment.replica(2, page_bytes=2_000)
    await second.append("b", "user_message", at="1-0")
    before = await values(second)
    passes = 0
    while (await second.project("a", "b"))[0] is Outcome.MORE:
        passes += 1
        assert await values(second) == before
        assert await values(second, "b") == (2, "1-0", WEIGHT)
    assert passes > 5
    assert await values(second) == (2, "200-0", 200 * WEIGHT)


async def test_a_stale_row_that_the_old_version_still_moves_is_caught_up_with(deployment: Deployment) -> None:
    await projected_by_the_first(deployment, *("user_message",) * 100)
    first, second = deployment.replica(1), deployment.replica(2, page_bytes=2_000)
    at = 100
    while (await second.project("a")) != [Outcome.CAUGHT_UP]:
        at += 1
        await first.append("a", "user_message", at=f"{at}-0")
        await settle(first)
        assert at < 400
    await settle(second)
    assert await values(second) == (2, f"{at}-0", at * WEIGHT)


async def test_the_old_version_never_writes_what_the_new_one_has_written(deployment: Deployment) -> None:
    first, second = deployment.replica(1), deployment.replica(2)
    await first.append_many("a", *ROW_TYPES)
    await settle(first)
    await settle(second)
    row = await second.row("a")
    await first.append("a", "user_message", at="4-0")
    assert await first.project("a") == [Outcome.LOST]
    assert await first.project("a") == [Outcome.NEWER_VERSION]
    assert await second.row("a") == row


async def test_a_claim_of_the_old_version_that_would_change_a_row_of_the_new_one_waits(
    deployment: Deployment,
) -> None:
    first, second = deployment.replica(1), deployment.replica(2)
    await second.append("a", "strategy_link", {"wdkStrategyId": 7}, at="1-0")
    await settle(second)
    row = await second.row("a")
    await first.append("b", "strategy_link", {"wdkStrategyId": 7}, at="2-0")
    await first.append("c", "user_message", at="2-0")
    assert await first.project("b", "c") == [Outcome.NEWER_VERSION, Outcome.CAUGHT_UP]
    assert await second.row("a") == row
    assert await settle(second, "b") is Outcome.CAUGHT_UP
    holders = [(await second.row(s) or {})["wdk_strategy_id"] for s in "ab"]
    assert holders == [None, 7]


async def test_facts_of_deleted_streams_are_left_to_the_new_version_where_its_rows_would_change(
    deployment: Deployment,
) -> None:
    first, second = deployment.replica(1), deployment.replica(2)
    await second.append("a", "strategy_link", {"wdkStrategyId": 7}, at="1-0")
    await second.append("b", "strategy_link", {"wdkStrategyId": 7}, at="2-0")
    await settle(second)
    await settle(second, "b")
    await run(first.engine, "DELETE FROM stream_projections WHERE stream_id = 'b'")
    row = await second.row("a")
    await first.store.withdraw(["b"])
    assert await second.row("a") == row
    await second.store.withdraw(["b"])
    assert (await second.row("a") or {})["wdk_strategy_id"] == 7


async def test_a_stale_row_whose_log_was_trimmed_is_folded_on_and_stays_stale(deployment: Deployment) -> None:
    await projected_by_the_first(deployment)
    second = deployment.replica(2)
    await second.admin.xtrim(second.keys.log("a"), maxlen=1, approximate=False)
    for at in (4, 5):
        await second.append("a", "user_message", at=f"{at}-0")
        assert await settle(second) is Outcome.CAUGHT_UP
        assert await values(second) == (1, f"{at}-0", 3 + (at - 3) * WEIGHT)


async def test_a_stale_row_whose_log_lost_its_tail_is_left_alone(deployment: Deployment) -> None:
    await projected_by_the_first(deployment)
    second = deployment.replica(2)
    await second.admin.xdel(second.keys.log("a"), "3-0")
    await second.append("a", "user_message", at="4-0")
    assert await settle(second) is Outcome.DIVERGED
    assert await values(second) == (1, "3-0", 3)


async def test_a_key_that_is_no_stream_leaves_a_stale_row_alone(deployment: Deployment) -> None:
    await projected_by_the_first(deployment)
    second = deployment.replica(2)
    await second.admin.set(second.keys.log("a"), "text")
    assert await settle(second) is Outcome.UNREADABLE
    assert await values(second) == (1, "3-0", 3)


async def test_a_log_that_loses_its_tail_while_a_stale_row_is_folded_anew_leaves_the_row_alone(
    deployment: Deployment,
) -> None:
    await projected_by_the_first(deployment)
    second = deployment.replica(2)
    await second.append("a", "user_message", at="4-0")
    read = second.logs.read

    async def after_the_loss(*arguments: Any, **options: Any) -> Any:
        await second.admin.xdel(second.keys.log("a"), "3-0", "4-0")
        return await read(*arguments, **options)

    second.logs.read = after_the_loss  # type: ignore[method-assign]
    assert await settle(second) is Outcome.DIVERGED
    assert await values(second) == (1, "3-0", 3)


async def test_a_log_that_is_cut_while_a_stale_row_is_folded_anew_is_read_again(
    deployment: Deployment,
) -> None:
    await projected_by_the_first(deployment, *("user_message",) * 100)
    second = deployment.replica(2, page_bytes=2_000)
    for _ in range(3):
        assert await second.project("a") == [Outcome.MORE]
    read_to = second.projector._upgrades._begun["a"].folded.read_to
    await second.admin.xdel(second.keys.log("a"), read_to or "")
    assert await settle(second) is Outcome.CAUGHT_UP
    assert await values(second) == (2, "100-0", 99 * WEIGHT)


async def test_only_so_much_is_folded_at_once(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.upgrade._MOST_BYTES", 1)
    await projected_by_the_first(deployment, *("user_message",) * 100)
    first = deployment.replica(1)
    await first.append_many("b", "user_message")
    await settle(first, "b")
    second = deployment.replica(2, page_bytes=2_000)
    assert await second.project("a", "b") == [Outcome.MORE, Outcome.LOST]
    assert await settle(second) is Outcome.CAUGHT_UP
    assert await settle(second, "b") is Outcome.CAUGHT_UP


async def test_a_fold_that_goes_on_is_not_dropped_by_another_part_of_the_batch(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, look, read, together = [0.0], Log.extents, Log.read, asyncio.Barrier(2)

    async def read_together(logs: Log, requests: Sequence[PageRequest], terms: ReadTerms) -> list[Page]:
        async with together:
            return await read(logs, requests, terms)

    async def look_slowly(logs: Log, stream_ids: Mapping[str, str | None]) -> dict[str, Extent]:
        found = await look(logs, stream_ids)
        clock[0] += 40
        return found

    monkeypatch.setattr("worker.projector._PART_STREAMS", 1)
    monkeypatch.setattr("worker.upgrade.monotonic", lambda: clock[0])
    first, second = deployment.replica(1), deployment.replica(2, page_bytes=2_000)
    for stream_id in ("a", "b"):
        await first.append_many(stream_id, *["user_message"] * 100)
        await settle(first, stream_id)
    assert await second.project("a", "b") == [Outcome.MORE, Outcome.MORE]
    monkeypatch.setattr(Log, "extents", look_slowly)
    monkeypatch.setattr(Log, "read", read_together)
    assert await second.project("a", "b") == [Outcome.MORE, Outcome.MORE]


async def test_parts_of_a_batch_share_what_may_be_read_of_stale_streams_at_a_time(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares, read = list[float](), Log.read

    async def note(logs: Log, requests: Sequence[PageRequest], terms: ReadTerms) -> list[Page]:
        shares.append(terms.share)
        return await read(logs, requests, terms)

    await projected_by_the_first(deployment)
    monkeypatch.setattr("worker.projector._PART_STREAMS", 1)
    monkeypatch.setattr(Log, "read", note)
    assert await deployment.replica(2).project("a", "new") == [Outcome.CAUGHT_UP] * 2
    assert set(shares) == {0.5}


# Handlers of the new version that fail.


async def test_a_handler_that_fails_in_the_past_stops_the_stream_and_keeps_the_old_row(
    deployment: Deployment,
) -> None:
    await projected_by_the_first(deployment)
    broken = deployment.replica(2, assistant_message=failing)
    for _ in range(2):
        assert await broken.project("a") == [Outcome.BLOCKED]
    await broken.blocked.settle_stale()
    [letter] = await find_letters(broken.engine)
    assert (letter.event_id, letter.version, letter.state) == (EventId(2, 0), 2, State.OPEN)
    assert letter.attempts == 1
    assert await values(broken) == (1, "3-0", 3)


@pytest.mark.parametrize("news", [(), ("user_message",)], ids=["nothing new", "with news"])
async def test_the_old_version_settles_no_letter_of_the_new_one(
    deployment: Deployment, news: tuple[str, ...]
) -> None:
    """What the old one passes without harm still stops the new one."""
    await projected_by_the_first(deployment)
    broken, first = deployment.replica(2, assistant_message=failing), deployment.replica(1)
    assert await broken.project("a") == [Outcome.BLOCKED]
    await first.append_many("a", *news, first=4)
    assert await settle(first) is Outcome.CAUGHT_UP
    [letter] = await find_letters(broken.engine)
    assert (letter.version, letter.state) == (2, State.OPEN)
    assert await broken.project("a") == [Outcome.BLOCKED]
    [letter] = await find_letters(broken.engine)
    assert letter.attempts == 1


async def test_such_an_event_may_be_skipped(deployment: Deployment) -> None:
    await projected_by_the_first(deployment)
    broken = deployment.replica(2, assistant_message=failing)
    await broken.project("a")
    await skip_letter(broken.engine, broken.projection, "a", EventId(2, 0), by="me", because="wrong")
    assert await broken.blocked.due(10) == ["a"]
    assert await settle(broken) is Outcome.CAUGHT_UP
    assert await values(broken) == (2, "3-0", 2 * WEIGHT)
    assert await broken.blocked.due(10) == []


async def test_such_a_stream_is_tried_again_when_its_time_has_come(deployment: Deployment) -> None:
    await projected_by_the_first(deployment)
    await deployment.replica(2, assistant_message=failing).project("a")
    mended = deployment.replica(2)
    assert await mended.project("a") == [Outcome.BLOCKED]
    await run(mended.engine, "UPDATE dead_letters SET retry_at = now()")
    assert await mended.blocked.due(10) == ["a"]
    assert await settle(mended) is Outcome.CAUGHT_UP
    assert await values(mended) == (2, "3-0", 2 * WEIGHT + 1)
    [letter] = await find_letters(mended.engine)
    assert letter.state is State.RESOLVED


async def test_a_handler_that_fails_after_the_position_stops_the_stream_there(deployment: Deployment) -> None:
    await projected_by_the_first(deployment)
    broken = deployment.replica(2, strategy_meta=failing)
    await broken.append_many("a", "strategy_meta", "user_message", first=4)
    assert await broken.project("a") == [Outcome.BLOCKED]
    assert await values(broken) == (2, "3-0", 2 * WEIGHT + 1)
    assert await broken.project("a") == [Outcome.BLOCKED]
    [letter] = await find_letters(broken.engine)
    assert letter.event_id == EventId(4, 0)


async def test_a_stale_row_that_postgresql_refuses_stops_its_stream_alone(deployment: Deployment) -> None:
    await projected_by_the_first(deployment)
    second = deployment.replica(2)
    await second.append("b", "assistant_message", at="1-0")
    await run(
        second.engine, "ALTER TABLE stream_projections ADD CHECK (message_count < 10 OR stream_id <> 'a')"
    )
    assert await second.project("a", "b") == [Outcome.BLOCKED, Outcome.CAUGHT_UP]
    assert await second.project("a") == [Outcome.BLOCKED]
    [letter] = await find_letters(second.engine)
    assert (letter.event_id, letter.reason, letter.state) == (EventId(3, 0), Reason.ROW_REFUSED, State.OPEN)
    assert await values(second) == (1, "3-0", 3)


async def test_an_event_that_kills_workers_while_a_stale_row_is_folded_stops_its_stream(
    deployment: Deployment,
) -> None:
    await projected_by_the_first(deployment)
    second = deployment.replica(2)
    await second.admin.hset(second.keys.suspects(second.projection.name), "a", "6")
    await second.suspects.refresh()
    assert await second.project("a") == [Outcome.BLOCKED]
    [letter] = await find_letters(second.engine)
    assert (letter.event_id, letter.reason) == (EventId(3, 0), Reason.KILLS_THE_WORKER)
    assert await second.project("a") == [Outcome.BLOCKED]


@pytest.mark.parametrize("kept", [0, 1], ids=["position gone", "position there"])
async def test_what_postgresql_refuses_on_a_stale_row_of_a_trimmed_log_stops_the_stream_there(
    deployment: Deployment, kept: int
) -> None:
    """Such a row is folded on, so that the event at fault is the next one."""
    await projected_by_the_first(deployment)
    second = deployment.replica(2)
    await second.append("a", "user_message", at="4-0")
    await second.admin.xtrim(second.keys.log("a"), maxlen=1 + kept, approximate=False)
    await second.append("b", "assistant_message", at="1-0")
    await run(
        second.engine, "ALTER TABLE stream_projections ADD CHECK (message_count < 10 OR stream_id <> 'a')"
    )
    assert await second.project("a", "b") == [Outcome.BLOCKED, Outcome.CAUGHT_UP]
    [letter] = await find_letters(second.engine)
    assert (letter.event_id, letter.reason, letter.state) == (EventId(4, 0), Reason.ROW_REFUSED, State.OPEN)
    assert await second.project("a") == [Outcome.BLOCKED]
    await skip_letter(second.engine, second.projection, "a", EventId(4, 0), by="me", because="too much")
    assert await settle(second) is Outcome.CAUGHT_UP
    assert await values(second) == (1, "4-0", 3)
