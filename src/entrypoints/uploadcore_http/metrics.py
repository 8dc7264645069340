"""What Prometheus scrapes. Counted in plain dictionaries on the way and made into metrics when asked: a request pays next to nothing."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

__all__ = ["Metrics"]

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0)
"""Seconds. The last is what a request in flight has left after SIGTERM."""


class Metrics(Collector):
    """Requests by method, route and status, how long they took, and the events that were delivered."""

    def __init__(self, events: Callable[[], Mapping[str, int]] = dict) -> None:
        """Start at nothing; `events` tells how many events of each type there were."""
        self.in_flight = 0
        self._events = events
        self._counts: dict[tuple[str, str, int], int] = {}
        self._durations: dict[tuple[str, str], list[float]] = {}
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request."""
        counts = self._counts
        key = (method, route, status)
        counts[key] = counts.get(key, 0) + 1
        durations = self._durations.get((method, route))
        if durations is None:
            durations = self._durations[method, route] = [0.0] * (len(BUCKETS) + 2)
        durations[bisect_left(BUCKETS, seconds)] += 1
        durations[-1] += seconds

    def exposed(self, accept: str) -> tuple[bytes, str]:
        """The text, and its media type, that the scraper asked for."""
        encode, media_type = choose_encoder(accept)
        return encode(self._registry), media_type

    def collect(self) -> Iterator[Metric]:
        """Make metrics of what was counted."""
        requests = CounterMetricFamily(
            "uploadcore_http_requests", "Requests answered.", labels=["method", "route", "status"]
        )
        for (method, route, status), count in self._counts.items():
            requests.add_metric([method, route, str(status)], count)
        yield requests
        durations = HistogramMetricFamily(
            "uploadcore_http_request_duration_seconds",
            "From the head of a request to the end of its answer.",
            labels=["method", "route"],
        )
        for (method, route), counted in self._durations.items():
            durations.add_metric([method, route], _cumulated(counted), sum_value=counted[-1])
        yield durations
        yield GaugeMetricFamily("uploadcore_http_requests_in_flight", "Requests being served.", value=self.in_flight)
        events = CounterMetricFamily("uploadcore_events", "Events delivered by this process.", labels=["type"])
        for kind, count in self._events().items():
            events.add_metric([kind], count)
        yield events


def _cumulated(counted: list[float]) -> list[tuple[str, float]]:
    total, buckets = 0.0, []
    for bound, count in zip((*BUCKETS, float("inf")), counted, strict=False):
        total += count
        buckets.append(("+Inf" if bound == float("inf") else str(bound), total))
    return buckets
