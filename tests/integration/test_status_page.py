"""The status page and its data: what a look shows, and what nobody sees."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.asking import Reply, ask
from tests.projecting import run
from tests.servers import RunningServers
from tests.tallies import tallies
from tests.waiting import wait_until
from tests.writes import create_tallies
from worker import Keys, emit
from worker import insight as insight_of
from worker.address import Address
from worker.campaign import Campaigns
from worker.database import make_engine, parse_database_url
from worker.health import Health
from worker.http import serve_http
from worker.insight import Insight
from worker.overview import overview
from worker.running import work
from worker.scope import Scope
from worker.settings import Settings
from worker.site import make_routes

SECRET = "nobodys-business"
PAGE = ["/", "/page.css", "/page.js"]


class Site:
    """A worker under way, and its page."""

    def __init__(self, address: Address, settings: Settings, redis: Redis) -> None:
        self.address, self.settings, self.redis = address, settings, redis

    async def get(self, path: str) -> Reply:
        return await ask(self.address, path)

    async def status(self) -> dict[str, Any]:
        told: dict[str, Any] = orjson.loads((await self.get("/status.json")).body)
        return told

    async def shows(self, what: str, *path: str | int) -> None:
        """Wait until this text stands at this place of the data."""

        async def there() -> bool:
            value: Any = await self.status()
            for step in path:
                value = value[step] if value is not None else None
            return what in orjson.dumps(value).decode()

        await wait_until(there, f"{what} at {path}")

    async def emit(self, stream_id: str, event_type: str, data: dict[str, Any]) -> None:
        await emit(self.redis, stream_id, "", event_type, data, keys=self.settings.keys)


@pytest.fixture
async def site(
    servers: RunningServers, database_url: str, keys: Keys, engine: AsyncEngine, redis: Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Site]:  # fmt: skip
    monkeypatch.setattr(insight_of, "LOOK_EVERY_SECONDS", 0.1)
    monkeypatch.setattr(insight_of, "_COUNT_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(insight_of, "_SLOWEST_EVERY_SECONDS", 0.0)
    monkeypatch.setattr("worker.site._KEPT_SECONDS", 0.0)
    await create_tallies(engine)
    settings = Settings(
        redis_url=servers.redis_url, database_url=database_url, key_prefix=keys.prefix, linger_ms=0
    )
    stop, insight = asyncio.Event(), Insight(Health(), [tallies()])
    running = asyncio.create_task(work(settings, [tallies()], insight.health, stop, insight))
    try:
        async with serve_http(Address("127.0.0.1", 0), make_routes(insight, settings.stuck)) as address:
            site = Site(address, settings, redis)
            await site.shows("true", "fine")
            yield site
    finally:
        stop.set()
        await running


async def test_the_data_tell_how_all_stands_and_stood(site: Site) -> None:
    await site.emit("a", "add", {"n": 1})
    await site.shows('"events_applied":1,', "projections", 0, "status", "replicas", 0)
    await site.shows('{"1":1}', "projections", 0, "status", "rows_by_version")
    told = await site.status()
    assert (told["ready"], told["problems"]) == (True, [])
    [projection] = told["projections"]
    assert (projection["name"], projection["version"], projection["concerns"]) == ("tallies", 1, [])
    assert projection["status"]["replicas"][0]["partitions"] == list(range(8))
    moments = projection["history"]
    assert len(moments) > 1
    assert moments == sorted(moments)
    assert all(moment[1] is not None and moment[2] is not None for moment in moments)


async def test_a_blocked_stream_is_a_concern_and_is_not_named(site: Site) -> None:
    await site.emit(SECRET, "fail", {SECRET: SECRET})
    await site.shows("Blocked streams: 1. See `projection-worker dead-letters list`.", "projections")
    told = await site.status()
    assert not told["fine"]
    assert told["ready"]
    assert told["projections"][0]["status"]["letters"]["by_reason"] == {"handler_failed": 1}


async def test_a_table_that_is_gone_is_told_once_for_all_replicas(site: Site, engine: AsyncEngine) -> None:
    await run(engine, "ALTER TABLE tallies RENAME TO elsewhere")
    await site.shows("Not ready: ", "projections", 0, "concerns")
    told = await site.status()
    assert not told["ready"]
    [concern] = told["projections"][0]["concerns"]
    assert 'relation "tallies" does not exist' in concern


async def test_what_only_an_absent_postgresql_knows_is_not_told_as_nothing(client: Redis, keys: Keys) -> None:
    nowhere = make_engine(
        parse_database_url("postgresql://u:p@127.0.0.1:1/x"), pool_size=1, application_name="test"
    )
    insight, stop = Insight(Health(), [tallies()]), asyncio.Event()
    observing = asyncio.create_task(insight.observe(client, nowhere, keys, stop))
    history = insight.observed["tallies"].history
    await wait_until(lambda: len(history) == 1, "a look")
    [projection] = overview(insight)["projections"]
    assert projection["status"]["letters"] is None
    assert projection["concerns"][0].startswith("PostgreSQL tells nothing: ConnectionRefusedError")
    assert history[0].hints == 0
    stop.set()
    await observing
    await nowhere.dispose()


async def test_outsiders_see_no_stream_ids_payloads_values_or_passwords(
    site: Site, engine: AsyncEngine, database_url: str
) -> None:
    await site.emit(SECRET, "add", {"n": 1, "also": SECRET})
    await site.emit(SECRET, "fail", {"also": SECRET})
    scope = Scope(where=f"note = '{SECRET}'")
    await Campaigns(engine, "tallies").begin(1, scope, [SECRET])
    await site.shows('"streams":1', "projections", 0, "status", "rebuild")
    await site.shows("Blocked streams", "projections")
    redis_url = site.settings.redis_url.get_secret_value()
    passwords = [re.search(r":([^:@/]+)@", url) for url in (database_url, redis_url)]
    for path in (*PAGE, "/status.json", "/metrics", "/readyz", "/livez"):
        body = (await site.get(path)).body.decode()
        assert SECRET not in body, path
        assert not any(found and found[1] in body for found in passwords), path


async def test_the_slowest_streams_are_told_without_their_names(site: Site) -> None:
    assert (await site.status())["projections"][0]["slowest"] in (None, [])
    await site.shows("[]", "projections", 0, "slowest")
    await site.emit(SECRET, "fail", {})
    await site.emit(SECRET, "add", {"n": 1})
    await site.shows('"blocked"', "projections", 0, "slowest")
    [slow] = (await site.status())["projections"][0]["slowest"]
    assert 0 <= slow.pop("lag_seconds") < 60
    assert slow == {"standing": "blocked", "events": 2, "counted": True}


async def test_the_page_asks_nobody_else_for_anything_and_works_behind_any_path(site: Site) -> None:
    for path in PAGE:
        reply = await site.get(path)
        assert reply.status == 200
        assert reply.headers["content-type"].startswith("text/")
        text = reply.body.decode()
        assert "://" not in text, path
        assert not re.search(r"""(href|src|fetch\()\s*=?\s*["']/""", text), path
        assert not re.search(r"innerHTML|eval\(|document\.write| style=| on\w+=", text), path


async def test_all_that_the_page_refers_to_is_there(site: Site) -> None:
    html, script = [(await site.get(path)).body.decode() for path in ("/", "/page.js")]
    named = [*re.findall(r'(?:href|src)="([^"]+)"', html), *re.findall(r'fetch\("([^"]+)"', script)]
    assert len(named) >= 6
    for name in named:
        assert (await site.get(f"/{name}")).status == 200, name


async def test_rows_are_counted_now_and_then_and_only_while_somebody_looks(
    client: Redis, engine: AsyncEngine, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    await create_tallies(engine)
    insight, stop = Insight(Health(), [tallies()]), asyncio.Event()
    counted: list[str] = []

    async def count(*_: object) -> tuple[dict[int, int], str]:
        counted.append("once")
        return {}, ""

    monkeypatch.setattr(insight_of, "LOOK_EVERY_SECONDS", 0.05)
    monkeypatch.setattr(insight_of, "count_rows", count)
    observing = asyncio.create_task(insight.observe(client, engine, keys, stop))
    history = insight.observed["tallies"].history
    await wait_until(lambda: len(history) == 3, "three looks")
    assert counted == []
    insight.look()
    await wait_until(lambda: len(history) == 6, "more looks")
    assert counted == ["once"]
    stop.set()
    await observing
