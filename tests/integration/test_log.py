"""Reading logs: in pages, as events of the projected types, each log's trouble its own."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from tests.logs import append, logs_of
from worker import Event, EventId, Keys
from worker import log as log_module
from worker.events import UndecodableEvent
from worker.log import Finding, Log, Page, PageRequest

NONE = Page(None, None, (), ended=True)


@pytest.fixture
def client(either_client: Redis) -> Redis:
    return either_client


async def read(logs: Log, stream_id: str, start: str | None = None) -> Page:
    [page] = await logs.read([PageRequest(stream_id, start)])
    return page


async def find(logs: Log, stream_id: str, start: str | None = None) -> Finding:
    [finding] = await logs.find_projected([PageRequest(stream_id, start)])
    return finding


def message(ms: int) -> Event:
    return Event(EventId(ms, 0), "user_message", {})


# Pages.


async def test_a_page_holds_the_events_of_projected_types(client: Redis, keys: Keys) -> None:
    await append(client, keys, "a", "delta", "user_message", "delta", "user_message", "delta")
    page = await read(logs_of(client, keys), "a")
    assert page == Page("1-0", "5-0", [message(2), message(4)], ended=True)


async def test_a_page_without_what_follows_its_first_event_counts_what_was_mended_in_that(
    client: Redis, keys: Keys
) -> None:
    await append(client, keys, "a", "user_message", data='{"a": NaN}')
    await append(client, keys, "a", "user_message", first=2, data='{"a": [NaN, NaN]}')
    page = await read(logs_of(client, keys), "a")
    assert (page.mended, page.up_to_first_event().mended) == (3, 1)


async def test_a_page_begins_with_the_entry_to_start_from_which_is_not_decoded_again(
    client: Redis, keys: Keys
) -> None:
    await append(client, keys, "a", *["user_message"] * 4)
    logs = logs_of(client, keys)
    assert await read(logs, "a", "3-0") == Page("3-0", "4-0", [message(4)], ended=True)
    assert await read(logs, "a", "4-0") == Page("4-0", "4-0", [], ended=True)


async def test_where_the_entry_to_start_from_is_gone_the_page_begins_after_it(
    client: Redis, redis: Redis, keys: Keys
) -> None:
    await append(client, keys, "a", *["user_message"] * 4)
    await redis.xdel(keys.log("a"), "2-0")
    page = await read(logs_of(client, keys), "a", "2-0")
    assert page == Page("3-0", "4-0", [message(3), message(4)], ended=True)
    assert await read(logs_of(client, keys), "a", "9-0") == NONE


async def test_a_log_that_is_missing_or_empty_gives_an_empty_page(
    client: Redis, redis: Redis, keys: Keys
) -> None:
    await append(client, keys, "empty", "user_message")
    await redis.xdel(keys.log("empty"), "1-0")
    pages = await logs_of(client, keys).read([PageRequest("missing", None), PageRequest("empty", None)])
    assert pages == [NONE, NONE]
    assert await logs_of(client, keys).read([]) == []


@pytest.mark.parametrize("page_bytes", [1, 3_000, 50_000])
async def test_the_pages_of_a_log_are_the_whole_log(client: Redis, keys: Keys, page_bytes: int) -> None:
    await append(client, keys, "a", *["user_message", "delta"] * 40)
    logs = logs_of(client, keys, page_bytes=page_bytes)
    page = await read(logs, "a")
    events = list(page.events)
    while not page.ended:
        start = page.last_id
        page = await read(logs, "a", start)
        assert page.first_id == start
        events += page.events
    assert events == [message(ms) for ms in range(1, 81, 2)]


async def test_an_event_that_cannot_be_decoded_is_in_its_place(client: Redis, keys: Keys) -> None:
    await append(client, keys, "a", "user_message")
    await append(client, keys, "a", "user_message", first=2, data=b"\xff")
    await append(client, keys, "a", "user_message", first=3)
    events = (await read(logs_of(client, keys), "a")).events
    assert [type(event) for event in events] == [Event, UndecodableEvent, Event]


async def test_a_key_of_another_type_is_refused_and_all_other_logs_are_read(
    client: Redis, redis: Redis, keys: Keys
) -> None:
    await redis.set(keys.log("text"), "x")
    await append(client, keys, "a", "user_message")
    requests = [PageRequest(stream_id, None) for stream_id in ("a", "text", "missing")]
    page, refused, missing = await logs_of(client, keys).read(requests)
    assert page.events == [message(1)]
    assert missing == NONE
    assert refused.refusal is not None
    assert "WRONGTYPE" in refused.refusal


async def test_a_page_has_fewer_entries_where_they_are_larger(client: Redis, keys: Keys) -> None:
    await append(client, keys, "large", *["user_message"] * 40, data='{"a": "%s"}' % ("x" * 50_000))
    await append(client, keys, "small", *["user_message"] * 400)
    logs = logs_of(client, keys, page_bytes=500_000)
    for _ in range(2):
        assert 8 <= len((await read(logs, "large")).events) <= 10
        assert len((await read(logs, "small")).events) == 400


async def test_pages_that_are_read_at_once_share_the_room(client: Redis, keys: Keys) -> None:
    for number in range(10):
        await append(client, keys, str(number), *["user_message"] * 100)
    requests = [PageRequest(str(number), None) for number in range(10)]
    pages = await logs_of(client, keys, page_bytes=10_000).read(requests)
    counts = {len(page.events) for page in pages}
    assert len(counts) == 1
    assert 8 <= counts.pop() <= 20


async def test_large_entries_are_read_from_few_logs_at_once(client: Redis, keys: Keys) -> None:
    for number in range(20):
        await append(client, keys, str(number), *["user_message"] * 8, data='{"a": "%s"}' % ("x" * 100_000))
    logs = logs_of(client, keys, page_bytes=1_000_000)
    requests = [PageRequest(str(number), None) for number in range(20)]
    await logs.read(requests)
    pages = await logs.read(requests)
    assert {len(page.events) for page in pages} == {2}
    assert not any(page.ended for page in pages)


# Looking for news without decoding anything.


@pytest.fixture
def _no_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "parse_entry", pytest.fail)


@pytest.mark.usefixtures("_no_decoding")
@pytest.mark.parametrize("page_bytes", [1, 1_000_000])
async def test_a_log_has_news_where_an_event_of_a_projected_type_follows(
    client: Redis, keys: Keys, page_bytes: int
) -> None:
    await append(client, keys, "a", "user_message", *["delta"] * 7, "user_message", "user_message", "delta")
    logs = logs_of(client, keys, page_bytes=page_bytes)
    assert await find(logs, "a") == Finding("a", news=True, oldest="1-0")
    assert await find(logs, "a", "1-0") == Finding("a", news=True, oldest="9-0")
    assert await find(logs, "a", "9-0") == Finding("a", news=True, oldest="10-0")
    assert await find(logs, "a", "10-0") == Finding("a", news=False, read_to="11-0")


@pytest.mark.usefixtures("_no_decoding")
@pytest.mark.parametrize("page_bytes", [1, 1_000_000])
async def test_a_log_without_such_an_event_was_read_to_its_end(
    client: Redis, keys: Keys, page_bytes: int
) -> None:
    await append(client, keys, "a", *["delta"] * 9)
    logs = logs_of(client, keys, page_bytes=page_bytes)
    assert await find(logs, "a") == Finding("a", news=False, read_to="9-0")
    assert await find(logs, "a", "9-0") == Finding("a", news=False, read_to="9-0")


async def test_where_the_entry_to_start_from_is_gone_somebody_must_look(
    client: Redis, redis: Redis, keys: Keys
) -> None:
    await append(client, keys, "a", *["delta"] * 3)
    await redis.xdel(keys.log("a"), "2-0")
    logs = logs_of(client, keys)
    assert await find(logs, "a", "2-0") == Finding("a", news=True)
    assert await find(logs, "a", "9-0") == Finding("a", news=True)
    assert await find(logs, "missing", "1-0") == Finding("missing", news=True)


async def test_a_log_that_is_missing_or_unreadable_has_no_news(
    client: Redis, redis: Redis, keys: Keys
) -> None:
    await redis.set(keys.log("text"), "x")
    logs = logs_of(client, keys)
    assert await find(logs, "missing") == Finding("missing", news=False)
    assert await find(logs, "text") == Finding("text", news=False)


async def test_many_logs_are_looked_through_together(client: Redis, keys: Keys) -> None:
    for number in range(20):
        await append(
            client, keys, str(number), *["delta"] * number, "user_message" if number % 2 else "delta"
        )
    logs = logs_of(client, keys, page_bytes=1)
    findings = await logs.find_projected([PageRequest(str(number), None) for number in range(20)])
    assert {finding.stream_id for finding in findings if finding.news} == set(map(str, range(1, 20, 2)))
    assert len(findings) == 20


async def test_an_event_whose_type_stands_twice_is_judged_like_everywhere(
    client: Redis, redis: Redis, keys: Keys
) -> None:
    command = ["XADD", keys.log("a"), "1-0", "op", "", "type", "user_message", "type", "delta"]
    await redis.execute_command(*command)
    assert (await read(logs_of(client, keys), "a")).events == []
    assert (await find(logs_of(client, keys), "a")).news is False


async def test_a_log_that_ends_with_the_greatest_id_of_all_is_read_to_its_end(
    client: Redis, redis: Redis, keys: Keys
) -> None:
    await append(client, keys, "a", *["user_message"] * 7)
    greatest = f"{2**64 - 1}-{2**64 - 1}"
    await redis.execute_command("XADD", keys.log("a"), greatest, "type", "user_message", "data", "{}")
    page = await read(logs_of(client, keys), "a")
    assert (len(page.events), page.last_id, page.ended) == (8, greatest, True)
    assert (await logs_of(client, keys).find_projected([PageRequest("a", greatest)]))[0].news is False
