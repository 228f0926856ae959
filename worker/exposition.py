"""Metrics in the text format of Prometheus, in a registry of this worker's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import accumulate

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from worker.insight import Insight
from worker.measures import Distribution
from worker.metrics import METRICS, Meaning, Source, Value


class Metrics(Collector):
    """All metrics of this process, in a registry of their own."""

    def __init__(self, insight: Insight) -> None:
        self._insight = insight
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def text(self) -> bytes:
        """As Prometheus reads them."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Called by the registry."""
        sources = [
            Source(self._insight, observed, service, service.report() if service else None)
            for name, observed in self._insight.observed.items()
            for service in [self._insight.services.get(name)]
        ]
        for meaning in METRICS:
            yield _family(meaning, {source.name: meaning.value(source) for source in sources})


def _family(meaning: Meaning, values: Mapping[str, Value]) -> Metric:
    if meaning.kind == "histogram":
        return _histogram(meaning, values)
    family = CounterMetricFamily if meaning.kind == "counter" else GaugeMetricFamily
    labels = ["projection", meaning.label] if meaning.label else ["projection"]
    made = family(meaning.full_name, meaning.help, labels=labels)
    for projection, value in values.items():
        if isinstance(value, Mapping):
            for label in sorted(value):
                made.add_metric([projection, label], value[label])
        elif isinstance(value, int | float):
            made.add_metric([projection], value)
    return made


def _histogram(meaning: Meaning, values: Mapping[str, Value]) -> Metric:
    made = HistogramMetricFamily(meaning.full_name, meaning.help, labels=["projection"])
    for projection, value in values.items():
        if isinstance(value, Distribution):
            made.add_metric([projection], _buckets(value), value.total)
    return made


def _buckets(distribution: Distribution) -> list[tuple[str, float]]:
    """Each bound with how many values do not exceed it."""
    reached = list(accumulate(distribution.counts))
    bounds = [*(f"{bound:g}" for bound in distribution.bounds), "+Inf"]
    return list(zip(bounds, reached, strict=True))
