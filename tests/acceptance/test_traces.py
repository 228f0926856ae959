"""Traces of a real worker, as a collector receives them, and what becomes of projecting without one."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import asyncpg
import pytest
from opentelemetry.sdk.trace import TracerProvider
from redis.asyncio import Redis

from tests.acceptance.commands import RunningCommand, running, worker_environment
from tests.collector import Collector, attributes, collecting
from tests.servers import RunningServers
from tests.waiting import wait_until
from worker import Keys, emit

SECRET = "nobodys-business"
SECONDS = 20


@pytest.fixture
def env(servers: RunningServers, database_url: str, keys_prefix: str) -> dict[str, str]:
    return worker_environment(servers.redis_url, database_url, keys_prefix)


@pytest.fixture
def keys(keys_prefix: str) -> Keys:
    return Keys(keys_prefix)


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@pytest.fixture
def tracer() -> Iterator[Any]:
    """A producer's, which records spans and exports them to nobody."""
    provider = TracerProvider(shutdown_on_exit=False)
    yield provider.get_tracer("producer")
    provider.shutdown()


def exporting(collector: Collector | str, **more: str) -> dict[str, str]:
    """Variables that ask for traces, to be sent soon."""
    url = collector if isinstance(collector, str) else collector.url
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_BSP_SCHEDULE_DELAY": "100", **more}


def applied(collector: Collector) -> int:
    """How many events its spans tell of."""
    return sum(attributes(span)["projection_worker.events_applied"] for span in collector.spans)


async def reached(database_url: str, stream_id: str, event_id: str) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        sql = "SELECT last_event_id FROM stream_projections WHERE stream_id = $1"

        async def there() -> bool:
            return bool(await connection.fetchval(sql, stream_id) == event_id)

        await wait_until(there, f"{stream_id} to stand at {event_id}", SECONDS)
    finally:
        await connection.close()


async def starts(worker: RunningCommand) -> None:
    await wait_until(lambda: worker.says('"started"'), "the worker to start", SECONDS)


async def test_a_batch_is_a_span_that_is_linked_to_the_spans_of_its_producers(
    env: dict[str, str], redis: Redis, keys: Keys, collector: Collector, tracer: Any
) -> None:
    with running("run", env={**env, **exporting(collector, OTEL_SERVICE_NAME="shown")}) as worker:
        await starts(worker)
        with tracer.start_as_current_span("request") as span:
            await emit(redis, SECRET, "", "user_message", {"content": SECRET}, keys=keys)
        producer = span.get_span_context()
        link = (f"{producer.trace_id:032x}", f"{producer.span_id:016x}")
        await wait_until(lambda: link in collector.links, "a span that is linked to the producer's", SECONDS)
        assert worker.stop() == 0
    assert collector.links == {link}
    [batch] = [span for span in collector.spans if span.links]
    told = attributes(batch)
    template = f"{keys.prefix}stream:{{stream_id}}"
    assert batch.name == f"project {template}"
    assert batch.parent_span_id == b""
    assert batch.start_time_unix_nano < batch.end_time_unix_nano < time.time_ns()
    assert told == {
        "messaging.system": "redis",
        "messaging.operation.name": "project",
        "messaging.operation.type": "process",
        "messaging.destination.template": template,
        "messaging.consumer.group.name": "strategies",
        "messaging.batch.message_count": 1,
        "projection_worker.version": 1,
        "projection_worker.streams": 1,
        "projection_worker.events_applied": 1,
        "projection_worker.events_rejected": 0,
        "projection_worker.handler_failures": 0,
        "projection_worker.rows_written": 1,
        "projection_worker.comparisons_lost": 0,
    }
    assert collector.services == {"shown"}
    assert not any(SECRET.encode() in body for body in collector.received)


async def test_what_is_no_traceparent_is_ignored_and_its_event_is_projected(
    env: dict[str, str], redis: Redis, keys: Keys, database_url: str, collector: Collector
) -> None:
    with running("run", env={**env, **exporting(collector)}) as worker:
        await starts(worker)
        wrong = [b"", b"\xff\0", b"00-" + b"0" * 32 + b"-" + b"1" * 16 + b"-01", b"0" * 10_000]
        for number, raw in enumerate(wrong):
            fields: dict[Any, Any] = {"op": "", "type": "user_message", "data": "{}", "traceparent": raw}
            event_id: Any = await redis.xadd(keys.log(f"s{number}"), fields)
            await reached(database_url, f"s{number}", event_id.decode())
        await wait_until(lambda: applied(collector) == 4, "spans of all four", SECONDS)
        assert collector.links == set()
        assert worker.stop() == 0


async def test_what_waits_to_be_sent_is_sent_at_the_stop(
    env: dict[str, str], redis: Redis, keys: Keys, database_url: str, collector: Collector
) -> None:
    later = exporting(collector, OTEL_BSP_SCHEDULE_DELAY="3600000")
    with running("run", env={**env, **later}) as worker:
        await starts(worker)
        await reached(database_url, "x", await emit(redis, "x", "", "user_message", {}, keys=keys))
        assert collector.spans == []
        assert worker.stop() == 0
    assert applied(collector) == 1


async def test_a_collector_that_is_away_or_silent_stops_neither_projecting_nor_the_stop(
    env: dict[str, str], redis: Redis, keys: Keys, database_url: str
) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:  # takes connections, and never answers
        for url in ("http://127.0.0.1:1", f"http://127.0.0.1:{silent.getsockname()[1]}"):
            traced = exporting(url, OTEL_BSP_MAX_QUEUE_SIZE="4", OTEL_BSP_MAX_EXPORT_BATCH_SIZE="2")
            with running("run", env={**env, **traced}) as worker:
                await starts(worker)
                for _ in range(20):
                    event_id = await emit(redis, "x", "", "user_message", {}, keys=keys)
                    await reached(database_url, "x", event_id)
                await wait_until(lambda: worker.says("traces_not_exported"), "the worker to say so", SECONDS)
                began = time.monotonic()
                assert worker.stop() == 0
                assert time.monotonic() - began < 12  # of the 30 s that a stop may take
                assert worker.says('"stopped"')
                assert "Traceback" not in worker.log
