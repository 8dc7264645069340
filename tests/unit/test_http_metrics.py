"""Metrics in Prometheus's text format, as Prometheus's own parser reads them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from uploadcore import UploadCore
from uploadcore.errors import DatabaseUnavailableError, ForbiddenError, OverloadedError
from uploadcore.ports import Backlog
from uploadcore_app import BUCKETS, Measurements
from uploadcore_http.auth import Principal
from uploadcore_http.edge import Edge
from uploadcore_http.lifecycle import Lifecycle
from uploadcore_http.metrics import Metrics
from uploadcore_http.rate_limit import RateLimit
from uploadcore_http.responses import BytesResponse
from uploadcore_memory import MemoryDatabase, MemoryObjectStore


def samples(metrics: Metrics) -> dict[frozenset[str], float]:
    """Values by name and label values, in no order."""
    text, media_type = metrics.exposed("text/plain")
    assert media_type.startswith("text/plain")
    return {
        frozenset({sample.name, *sample.labels.values()}): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


@pytest.fixture
async def core() -> AsyncIterator[UploadCore]:
    async with UploadCore(store=MemoryObjectStore(), database=MemoryDatabase()) as core:
        yield core


def test_requests_are_counted_by_method_route_and_status() -> None:
    metrics = Metrics()
    for status in (200, 200, 404):
        metrics.observe("GET", "/v1/uploads", status, 0.01)

    found = samples(metrics)

    assert found[frozenset({"uploadcore_http_requests_total", "GET", "/v1/uploads", "200"})] == 2
    assert found[frozenset({"uploadcore_http_requests_total", "GET", "/v1/uploads", "404"})] == 1


@pytest.mark.parametrize(
    ("path", "caller", "route", "status"),
    [
        ("/v1/uploads", OverloadedError("the issuer's keys can't be fetched just now"), "refused", "503"),
        ("/v1/uploads", RuntimeError("a defect of the host's"), "refused", "500"),
        ("/v1/uploads", ForbiddenError("not from there"), "refused", "403"),
        ("/v1/uploads", None, "refused", "401"),
        ("/v1/what/nobody/has", None, "refused", "401"),
        ("/v1/uploads", Principal("u"), "unmatched", "204"),  # by an application that says nothing of routes
        ("/elsewhere", None, "unmatched", "204"),
        ("/else//where", None, "unmatched", "404"),
    ],
)
async def test_what_is_refused_before_it_is_routed_is_counted_as_asked_of_the_api(
    path: str, caller: Principal | Exception | None, route: str, status: str
) -> None:
    async def authenticate(scope: Any) -> Principal | None:
        if isinstance(caller, Exception):
            raise caller
        return caller

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await BytesResponse(b"", 204)(scope, receive, send)

    metrics = Metrics()
    edge = Edge(app, authenticate=authenticate, lifecycle=Lifecycle(is_started=True), metrics=metrics)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(edge), base_url="http://127.0.0.1") as api:
        await api.get(path)

    assert samples(metrics)[frozenset({"uploadcore_http_requests_total", "GET", route, status})] == 1


async def test_who_asks_too_often_is_refused_before_it_is_routed() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await BytesResponse(b"", 204)(scope, receive, send)

    async def authenticate(scope: Any) -> Principal:
        return Principal("u")

    metrics = Metrics()
    edge = Edge(
        app,
        authenticate=authenticate,
        lifecycle=Lifecycle(is_started=True),
        metrics=metrics,
        rate_limit=RateLimit("1/minute"),
    )
    async with httpx.AsyncClient(transport=httpx.ASGITransport(edge), base_url="http://127.0.0.1") as api:
        for _ in range(2):
            await api.get("/v1/uploads")

    assert samples(metrics)[frozenset({"uploadcore_http_requests_total", "GET", "refused", "429"})] == 1


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


def test_what_changes_by_itself_is_read_when_asked() -> None:
    metrics = Metrics(max_in_flight=7)
    metrics.in_flight = 3
    metrics.problems["overloaded"] += 2

    found = samples(metrics)

    assert found[frozenset({"uploadcore_http_requests_in_flight"})] == 3
    assert found[frozenset({"uploadcore_http_requests_in_flight_limit"})] == 7
    assert found[frozenset({"uploadcore_http_problems_total", "overloaded"})] == 2


def test_the_version_and_the_process_are_told() -> None:
    found = samples(Metrics())

    assert any("uploadcore_build_info" in labels and value == 1 for labels, value in found.items())
    assert found[frozenset({"process_open_fds"})] > 0


async def test_a_core_tells_what_has_happened_in_it(core: UploadCore) -> None:
    metrics = Metrics(core)
    assert frozenset({"uploadcore_sweep_last_success_timestamp_seconds"}) not in samples(metrics)
    upload = await core.uploads.initiate(owner="u", filename="a", size=1)
    await core.uploads.sign_parts(upload.id, owner="u", part_numbers=[1])
    await core.uploads.abort(upload.id, owner="u")
    began = datetime.now(UTC).timestamp()
    await core.sweep()

    found = samples(metrics)

    assert found[frozenset({"uploadcore_upload_transitions_total", "aborted"})] == 1
    assert found[frozenset({"uploadcore_cache_reads_total", "upload", "miss"})] == 1
    assert found[frozenset({"uploadcore_sweeps_total", "ok"})] == 1
    assert found[frozenset({"uploadcore_sweep_duration_seconds_count"})] == 1
    assert found[frozenset({"uploadcore_sweep_last_success_timestamp_seconds"})] >= began
    assert found[frozenset({"uploadcore_sweep_has_more"})] == 0
    assert found[frozenset({"uploadcore_swept_total", "expired"})] == 0


async def test_ports_tell_how_long_they_took() -> None:
    measurements = Measurements()
    measurements.store.observe(("head", "ok"), 0.004)
    measurements.database.observe(("read", "ok"), 2.0)
    measurements.cache["upload", "stored"] += 1

    found = samples(Metrics(measurements=measurements))

    assert found[frozenset({"uploadcore_store_call_duration_seconds_bucket", "head", "ok", "0.005"})] == 1
    assert found[frozenset({"uploadcore_database_transaction_duration_seconds_sum", "read", "ok"})] == 2.0
    assert found[frozenset({"uploadcore_cache_writes_total", "upload", "stored"})] == 1


def test_a_fault_that_has_not_come_yet_is_told_in_one_bucket_and_in_all_once_it_has() -> None:
    measurements = Measurements()
    fault = {"uploadcore_store_call_duration_seconds_bucket", "head", "storage_full"}

    before = [labels for labels in samples(Metrics(measurements=measurements)) if labels > fault]
    measurements.store.observe(("head", "storage_full"), 0.004)
    after = [labels for labels in samples(Metrics(measurements=measurements)) if labels > fault]

    assert before == [frozenset({*fault, "+Inf"})]
    assert len(after) == len(BUCKETS) + 1


def test_what_is_not_measured_is_not_told_to_be_well() -> None:
    told = {name for labels in samples(Metrics()) for name in labels}

    assert "uploadcore_store_call_duration_seconds_count" not in told
    assert "uploadcore_database_transaction_duration_seconds_count" not in told
    assert "uploadcore_cache_writes_total" not in told


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        ("application/openmetrics-text;version=1.0.0", "application/openmetrics-text; version=1.0.0"),
        ("application/openmetrics-text;version=x", "text/plain; version=0.0.4"),
        ("text/plain;version=x", "text/plain; version=0.0.4"),
        ("text/html;version=x", "text/plain; version=0.0.4"),
        ("", "text/plain; version=0.0.4"),
    ],
)
def test_a_version_that_is_none_is_answered_in_plain_text(accept: str, media_type: str) -> None:
    text, answered = Metrics().exposed(accept)

    assert answered.startswith(media_type)
    assert b"uploadcore_build_info" in text


async def test_what_waits_to_be_delivered_is_asked_for_by_a_scrape(
    core: UploadCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0

    async def backlog() -> Sequence[Backlog]:
        nonlocal asked
        asked += 1
        return (Backlog("crm", 3, 1, timedelta(seconds=90)), Backlog("sync", 0, 0, None))

    monkeypatch.setattr(core.events, "backlog", backlog)
    metrics = Metrics(core)

    await metrics.scraped("text/plain")
    await metrics.scraped("text/plain")
    found = samples(metrics)

    assert asked == 1
    assert found[frozenset({"uploadcore_events_pending", "crm"})] == 3
    assert found[frozenset({"uploadcore_events_dead", "crm"})] == 1
    assert found[frozenset({"uploadcore_events_oldest_pending_age_seconds", "crm"})] == 90
    assert found[frozenset({"uploadcore_events_oldest_pending_age_seconds", "sync"})] == 0


async def test_a_database_that_is_away_fails_no_scrape_and_leaves_no_old_number(
    core: UploadCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("uploadcore_http.metrics.BACKLOG_AGE", -1.0)
    answers: list[Any] = [(Backlog("crm", 3, 1, timedelta(seconds=90)),), DatabaseUnavailableError("away")]

    async def backlog() -> Sequence[Backlog]:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return tuple(answer)

    monkeypatch.setattr(core.events, "backlog", backlog)
    metrics = Metrics(core)

    await metrics.scraped("text/plain")
    assert frozenset({"uploadcore_events_pending", "crm"}) in samples(metrics)
    await metrics.scraped("text/plain")

    assert frozenset({"uploadcore_events_pending", "crm"}) not in samples(metrics)
