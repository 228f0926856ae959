"""Spans of batches: what they are linked to, and what they say where something goes wrong."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from redis.asyncio import Redis
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.projecting import Replica, run
from worker import Keys, emit
from worker.attempt import Attempt, Since
from worker.batch_spans import BatchSpans, SpanSource
from worker.outcome import Outcome
from worker.settle import settle
from worker.traceparent import Traceparents

SECRET = "nobodys-business"


class Traced:
    """A replica whose batches have spans, with up to three links, that stay in memory."""

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self.failures: list[Exception] = []
        self._kept = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self._kept))
        traceparents = replica.logs._traceparents = Traceparents(most=3)
        tracer = self.provider.get_tracer("worker")
        source = SpanSource(tracer, "stream:{stream_id}", traceparents, self.failures.append)
        batches = BatchSpans(source, replica.projection, replica.projector, replica.isolation.project_batch)
        self.project_batch = batches.project_batch

    @property
    def spans(self) -> list[Any]:
        return list(self._kept.get_finished_spans())

    async def append(self, stream_id: str, event_type: str, span: int) -> None:
        """An entry of a producer whose span has this number."""
        traceparent = f"00-{1:032x}-{span:016x}-01"
        fields: Any = {"op": "", "type": event_type, "data": "{}", "traceparent": traceparent}
        await self.replica.redis.xadd(self.replica.keys.log(stream_id), fields)


@pytest.fixture
def traced(client: Redis, keys: Keys, engine: AsyncEngine) -> Traced:
    return Traced(Replica(client, keys, engine))


async def test_projected_events_are_linked_each_span_once_and_only_so_many(traced: Traced) -> None:
    await traced.append("a", "assistant_delta", 9)  # which nobody projects
    for number in (1, 1, 2):
        await traced.append("a", "user_message", number)
    await traced.project_batch(["a"])
    await traced.append("a", "user_message", 3)
    for number in range(4, 9):
        await traced.append("b", "user_message", number)
    await traced.project_batch(["a", "b"])
    await traced.project_batch(["a", "b"])
    linked = [[link.context.span_id for link in span.links] for span in traced.spans]
    assert linked == [[1, 2], [3, 4, 5], []]
    counted = [span.attributes["messaging.batch.message_count"] for span in traced.spans]
    assert counted == [3, 6, 0]


async def test_a_batch_that_fails_says_what_and_quotes_nothing(traced: Traced, engine: AsyncEngine) -> None:
    await traced.append(SECRET, "user_message", 1)
    await run(engine, "ALTER TABLE stream_projections RENAME TO elsewhere")
    with pytest.raises(DBAPIError):
        await traced.project_batch([SECRET])
    [span] = traced.spans
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, None)
    assert span.attributes["error.type"] == "ProgrammingError"
    assert span.attributes["projection_worker.rows_written"] == 0
    assert SECRET not in span.to_json()


async def test_a_span_that_cannot_be_made_costs_no_batch(
    traced: Traced, monkeypatch: pytest.MonkeyPatch
) -> None:
    await traced.append("a", "user_message", 1)
    monkeypatch.setattr("opentelemetry.trace.Link", None)
    results = await traced.project_batch(["a"])
    assert results["a"].outcome is Outcome.CAUGHT_UP
    assert traced.spans == []
    assert [type(failure) for failure in traced.failures] == [TypeError]


async def test_emit_says_in_which_span_it_was_called_of_events_that_workers_look_at(
    traced: Traced, client: Redis, keys: Keys
) -> None:
    tracer = traced.provider.get_tracer("producer")

    async def say(event_type: str) -> None:
        await emit(client, "a", "", event_type, {}, projected_types=["user_message"], keys=keys)

    await say("user_message")
    with tracer.start_as_current_span("request") as span:
        await say("user_message")
        await say("assistant_delta")
    context = span.get_span_context()
    ids = f"{context.trace_id:032x}-{context.span_id:016x}"
    traceparent = f"00-{ids}-{context.trace_flags:02x}".encode()
    read: Any = await client.xrange(keys.log("a"))
    entries = [fields for _, fields in read]
    usual = [b"op", b"", b"type", b"user_message", b"data", b"{}"]
    assert entries[0] == usual
    assert entries[1] == [*usual, b"traceparent", traceparent]
    assert len(entries[2]) == 6


async def test_an_event_emitted_in_one_span_is_found_when_it_is_settled_in_another(
    producer: Redis, redis: Redis, keys: Keys, traced: Traced
) -> None:
    since = Since()
    with traced.provider.get_tracer("producer").start_as_current_span("request"):
        event_id = await emit(producer, "a", "op-1", "user_message", {}, keys=keys)
    other = f"00-{1:032x}-{1:016x}-01"
    again = Attempt("a", "op-1", "user_message", "{}", hinted=True, keys=keys, since=since, traceparent=other)
    assert await settle(producer, again) == event_id
    assert await redis.xlen(keys.log("a")) == 1
