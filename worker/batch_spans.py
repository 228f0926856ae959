"""A span for each batch, linked to the spans of the producers whose events it read."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from worker.isolation import ProjectBatch
from worker.outcome import StreamResult
from worker.projection import Projection
from worker.projector import Projector
from worker.traceparent import Traceparents

if TYPE_CHECKING:
    from opentelemetry.trace import Link, Tracer

MOST_LINKS: Final = 32


@dataclass(frozen=True, slots=True)
class SpanSource:
    """Where spans come from.

    ``template`` says where logs are, ``traceparents`` which producers' spans the entries just read name.
    ``failed`` is told what went wrong with a span; projecting goes on.
    """

    tracer: Tracer
    template: str
    traceparents: Traceparents
    failed: Callable[[Exception], None]


class BatchSpans:
    """Projects batches as ``project_batch`` does, and records a span of each.

    A span has counts and durations, and neither payloads nor stream ids: traces go to who may read neither.
    It is made in memory, once the batch is over, and a thread of the exporter's sends it; nothing waits.
    """

    def __init__(
        self, source: SpanSource, projection: Projection, projector: Projector, project_batch: ProjectBatch
    ) -> None:
        self._source = source
        self._projection = projection
        self._projector = projector
        self._project_batch = project_batch

    async def project_batch(self, stream_ids: Sequence[str]) -> dict[str, StreamResult]:
        """As `worker.isolation.Isolation.project_batch`. A batch that is tried again has a span each time."""
        began = time.time_ns()
        before, read = replace(self._projector.tally), self._projector.measures.events_read
        self._source.traceparents.take()
        error: BaseException | None = None
        try:
            return await self._project_batch(stream_ids)
        except BaseException as raised:
            error = raised
            raise
        finally:
            after = self._projector.tally
            counts = {
                "messaging.batch.message_count": self._projector.measures.events_read - read,
                "projection_worker.streams": len(stream_ids),
                "projection_worker.events_applied": after.events_applied - before.events_applied,
                "projection_worker.events_rejected": after.events_rejected - before.events_rejected,
                "projection_worker.handler_failures": after.handler_failures - before.handler_failures,
                "projection_worker.rows_written": after.rows_written - before.rows_written,
                "projection_worker.comparisons_lost": after.comparisons_lost - before.comparisons_lost,
            }
            try:
                self._record(began, counts, error)
            except Exception as failure:  # tracing is no reason to stop projecting
                self._source.failed(failure)

    def _record(self, began: int, counts: dict[str, int], error: BaseException | None) -> None:
        from opentelemetry.context import Context
        from opentelemetry.trace import SpanKind, StatusCode

        span = self._source.tracer.start_span(
            f"project {self._source.template}",
            context=Context(),
            kind=SpanKind.CONSUMER,
            links=list(_links(self._source.traceparents.take())),
            start_time=began,
            attributes={
                "messaging.system": "redis",
                "messaging.operation.name": "project",
                "messaging.operation.type": "process",
                "messaging.destination.template": self._source.template,
                "messaging.consumer.group.name": self._projection.name,
                "projection_worker.version": self._projection.version,
                **counts,
            },
        )
        if error is not None:  # Its message may quote values.
            span.set_attribute("error.type", type(error).__qualname__)
            span.set_status(StatusCode.ERROR)
        span.end()


def _links(traceparents: Iterable[bytes]) -> Iterator[Link]:
    """To the span that each of them names; one that is none is left out."""
    from opentelemetry.context import Context
    from opentelemetry.trace import Link, get_current_span
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    read = TraceContextTextMapPropagator().extract
    for raw in traceparents:
        context = read({"traceparent": raw.decode("ascii", "replace")}, Context())
        producer = get_current_span(context).get_span_context()
        if producer.is_valid:
            yield Link(producer)
