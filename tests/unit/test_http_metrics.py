"""Metrics in Prometheus's text format, as Prometheus's own parser reads them."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from uploadcore_http.metrics import BUCKETS, Metrics


def samples(metrics: Metrics) -> dict[frozenset[str], float]:
    """Values by name and label values, in no order."""
    text, media_type = metrics.exposed("text/plain")
    assert media_type.startswith("text/plain")
    return {
        frozenset({sample.name, *sample.labels.values()}): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def test_requests_are_counted_by_method_route_and_status() -> None:
    metrics = Metrics()
    for status in (200, 200, 404):
        metrics.observe("GET", "/v1/uploads", status, 0.01)

    found = samples(metrics)

    assert found[frozenset({"uploadcore_http_requests_total", "GET", "/v1/uploads", "200"})] == 2
    assert found[frozenset({"uploadcore_http_requests_total", "GET", "/v1/uploads", "404"})] == 1


def test_durations_are_in_cumulative_buckets_whose_bounds_are_inclusive() -> None:
    metrics = Metrics()
    for seconds in (0.0001, BUCKETS[0], 0.02, 100.0):
        metrics.observe("GET", "/", 200, seconds)

    found = samples(metrics)
    name = "uploadcore_http_request_duration_seconds"

    assert found[frozenset({f"{name}_bucket", "GET", "/", "0.001"})] == 2
    assert found[frozenset({f"{name}_bucket", "GET", "/", "0.025"})] == 3
    assert found[frozenset({f"{name}_bucket", "GET", "/", "25.0"})] == 3
    assert (
        found[frozenset({f"{name}_bucket", "GET", "/", "+Inf"})] == found[frozenset({f"{name}_count", "GET", "/"})] == 4
    )
    assert found[frozenset({f"{name}_sum", "GET", "/"})] == 0.0001 + BUCKETS[0] + 0.02 + 100.0


def test_events_and_requests_in_flight_are_read_when_asked() -> None:
    counted = {"upload.completed": 1}
    metrics = Metrics(lambda: counted)
    metrics.in_flight = 3
    counted["upload.completed"] = 2

    found = samples(metrics)

    assert found[frozenset({"uploadcore_events_total", "upload.completed"})] == 2
    assert found[frozenset({"uploadcore_http_requests_in_flight"})] == 3
