"""Dashboard and alerts upon two real workers under load, as a real Prometheus sees them."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from urllib.request import urlopen

import pytest
from redis import Redis

from tests.acceptance.commands import RunningCommand, running, worker_environment
from tests.deploy.expressions import of_dashboard
from tests.deploy.prometheus import Prometheus, filled_in, prometheus
from tests.deploy.test_prometheus import NAMES, promtool
from tests.own_servers import OwnServer, own_postgresql, own_redis
from tests.waiting import block_until
from worker import Keys
from worker.migrate import migrate

KEYS = Keys("watched:")
PATIENCE_SECONDS = 60
EMPTY_WHILE_ALL_IS_WELL = {"Alerts that are pending or firing: A "}


@dataclass(frozen=True, slots=True)
class Watched:
    """Two workers, who watches them, and the PostgreSQL that both need."""

    prometheus: Prometheus
    postgresql: OwnServer
    metrics: str

    def reach(self, expression: str, value: float) -> None:
        """Wait until an expression has this value."""
        block_until(
            lambda: self.prometheus.values(expression) == [value],
            f"{expression} to be {value}",
            PATIENCE_SECONDS,
        )


def address_of(worker: RunningCommand) -> str:
    """Where it says that it answers."""
    said = block_until(
        lambda: re.search(r'"address": "([^"]+)", "event": "http_on"', worker.log),
        "a worker to say where it answers",
        PATIENCE_SECONDS,
    )
    return said[1]


@contextmanager
def producing(redis_url: str) -> Iterator[None]:
    """Append events all the time, a hundredth of them undecodable, and a tenth without a hint."""
    over = threading.Event()

    def produce() -> None:
        with Redis.from_url(redis_url) as redis:
            number = 0
            while not over.wait(0.005):
                number += 1
                stream = f"s{number % 50}"
                data = "no JSON" if number % 100 == 0 else '{"content": "Hello"}'
                redis.xadd(KEYS.log(stream), {"op": "", "type": "user_message", "data": data})
                if number % 10:
                    hint = {"stream": stream, "type": "user_message"}
                    redis.xadd(KEYS.feed(KEYS.partition(stream)), hint)

    producer = threading.Thread(target=produce)
    producer.start()
    try:
        yield
    finally:
        over.set()
        producer.join()


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with ExitStack() as stack:
        redis = stack.enter_context(own_redis())
        postgresql = stack.enter_context(own_postgresql())
        migrate(postgresql.url)
        env = worker_environment(redis.url, postgresql.url, KEYS.prefix)
        env |= {"WORKER_HTTP_ADDRESS": "127.0.0.1:0", "WORKER_VERIFY_PER_MINUTE": "600"}
        stack.enter_context(producing(redis.url))
        addresses = [address_of(stack.enter_context(running("run", env=env))) for _ in range(2)]
        folder = tmp_path_factory.mktemp("prometheus")
        server = stack.enter_context(prometheus(folder, addresses))
        yield Watched(server, postgresql, f"http://{addresses[0]}/metrics")


def without_postgresql(watched: Watched) -> None:
    """Have both workers miss PostgreSQL for a while."""
    watched.postgresql.stop()
    try:
        watched.reach("max(projection_worker_ready)", 0)
        block_until(
            lambda: "ProjectionWorkerNoneReady" in watched.prometheus.alerts(), "an alert", PATIENCE_SECONDS
        )
    finally:
        watched.postgresql.start()
    watched.reach("min(projection_worker_ready)", 1)


def test_every_panel_shows_something_of_workers_under_load(watched: Watched) -> None:
    watched.reach("count(projection_worker_ready == 1)", 2)
    without_postgresql(watched)  # else there is nothing to retry
    for where, expression in of_dashboard():
        if where in EMPTY_WHILE_ALL_IS_WELL:
            watched.prometheus.values(filled_in(expression))
        else:
            asked = partial(watched.prometheus.values, filled_in(expression))
            block_until(asked, f"{where} to show something", PATIENCE_SECONDS)


def test_no_alert_is_about_workers_that_are_well(watched: Watched) -> None:
    watched.reach("count(projection_worker_ready == 1)", 2)
    block_until(lambda: not watched.prometheus.alerts(), "no alert", PATIENCE_SECONDS)
    assert watched.prometheus.values("min(projection_worker_events_projected_total) > 0")


def test_an_outage_of_postgresql_is_an_alert_until_it_is_back(watched: Watched) -> None:
    without_postgresql(watched)
    block_until(lambda: not watched.prometheus.alerts(), "the alert to go", PATIENCE_SECONDS)


def test_prometheus_computes_every_alert(watched: Watched) -> None:
    def computed() -> bool:
        (group,) = watched.prometheus.ask("rules")["groups"]
        return {rule["name"]: rule["health"] for rule in group["rules"]} == dict.fromkeys(NAMES, "ok")

    block_until(computed, "all alerts to be computed", PATIENCE_SECONDS)


def test_promtool_has_nothing_against_the_metrics(watched: Watched) -> None:
    with urlopen(watched.metrics, timeout=10) as answer:
        checked = promtool("check", "metrics", stdin=answer.read().decode())
    assert (checked.returncode, checked.stderr) == (0, "")
