"""Spans of a whole upload: which there are, how they hang together, and that none tells a secret (rule 14)."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest
from dependency_injector import providers
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.integration.http.service import BASE, KEY, PEER, bearer
from uploadcore import UploadCore
from uploadcore.errors import StoreUnavailableError
from uploadcore.file_service import FileService
from uploadcore.upload_service import UploadService
from uploadcore_app import ConfigurationError, Container, Tracing, load_settings, open_app
from uploadcore_app.tracing import trace_use_cases, tracing_from
from uploadcore_filesystem import FilesystemObjectStore
from uploadcore_http import create_app
from uploadcore_http.application import Running
from uploadcore_memory import MemoryDatabase, MemoryObjectStore

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracing(exporter: InMemorySpanExporter) -> Iterator[Tracing]:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing = Tracing(provider)
    yield tracing
    tracing.close()


@dataclass
class Traced:
    """The service, whose spans are kept."""

    api: httpx.AsyncClient
    core: UploadCore
    exporter: InMemorySpanExporter

    def spans(self) -> dict[str, ReadableSpan]:
        return {span.name: span for span in self.exporter.get_finished_spans()}


@pytest.fixture
async def traced(tmp_path: Path, tracing: Tracing, exporter: InMemorySpanExporter) -> AsyncIterator[Traced]:
    container = Container()
    container.tracing.override(providers.Object(tracing))
    app = create_app(load_settings(data_dir=tmp_path / "data", public_url=BASE, auth_jwt_key=KEY), container)
    transport = httpx.ASGITransport(app, client=PEER)  # type: ignore[arg-type]
    async with (
        Running.of(app).opened(),
        httpx.AsyncClient(transport=transport, base_url=BASE, headers=bearer("owner-me")) as api,
    ):
        yield Traced(api, container.core(), exporter)


async def uploaded(api: httpx.AsyncClient) -> tuple[str, set[str]]:
    """Make a whole upload; its id, and everything in it that nobody else may read."""
    asked = {"filename": "private.txt", "size": 3, "sign": 1, "title": "a private title"}
    upload = (await api.post("/v1/uploads", json=asked, headers={"idempotency-key": "a-private-key"})).json()
    [part] = (await api.post(f"/v1/uploads/{upload['id']}/part-urls", json={"part_numbers": [1]})).json()["parts"]
    (await api.put(part["url"], content=b"abc", headers=part["headers"])).raise_for_status()
    await api.put(part["url"].replace("&signature=", "&signature=A"), content=b"abc")
    file = (await api.post(f"/v1/uploads/{upload['id']}/complete", headers={"traceparent": TRACEPARENT})).json()["file"]
    content = (await api.get(f"/v1/files/{file['id']}/content")).headers["location"]
    (await api.get(content)).raise_for_status()
    (await api.get("/v1/uploads?fingerprint=a-private-query")).raise_for_status()
    await api.get("/v1/uploads/a-private-path")
    token = api.headers["authorization"].removeprefix("Bearer ")
    signed = {part["url"], content, upload["parts"][0]["url"]}
    signatures = {value for url in signed for name, value in parse_qsl(urlsplit(url).query) if name == "signature"}
    private = {"private.txt", "a private title", "a-private-key", "a-private-query", "a-private-path", "owner-me"}
    return upload["id"], {token, KEY, *signed, *signatures, *private}


def told(span: ReadableSpan) -> str:
    """Everything an exporter sends of a span."""
    return json.dumps(
        [
            span.name,
            dict(span.attributes or {}),
            str(span.status.description),
            [(event.name, dict(event.attributes or {})) for event in span.events],
            [dict(link.attributes or {}) for link in span.links],
            dict(span.resource.attributes),
        ],
        default=str,
    )


async def test_no_span_of_a_whole_upload_tells_a_secret(traced: Traced) -> None:
    upload_id, secrets = await uploaded(traced.api)
    await traced.core.sweep()
    row = await traced.core.uploads._steps.read(upload_id)

    spans = traced.exporter.get_finished_spans()

    assert len(spans) > 20
    for span in spans:
        text = told(span)
        for secret in {*secrets, row.address.key, str(row.address.storage_upload_id)} - {"None"}:
            assert secret not in text, span.name
        assert "signature" not in text
        assert "http://" not in text
        assert not span.events, "an exception quotes what it is about"


async def test_a_request_is_in_the_trace_its_caller_names_and_all_it_does_is_below_it(traced: Traced) -> None:
    upload_id, _ = await uploaded(traced.api)

    of_trace = [span for span in traced.exporter.get_finished_spans() if f"{span.context.trace_id:032x}" == TRACE]
    spans = {span.name: span for span in of_trace}
    request, complete = spans["POST /v1/uploads/{upload_id}/complete"], spans["upload complete"]

    assert request.parent is not None
    assert f"{request.parent.span_id:016x}" == "00f067aa0ba902b7"
    assert dict(request.attributes or {}) | {"uploadcore.request_id": ""} == {
        "http.request.method": "POST",
        "http.route": "/v1/uploads/{upload_id}/complete",
        "http.response.status_code": 200,
        "uploadcore.request_id": "",
        "uploadcore.outcome": "ok",
    }
    assert complete.parent == request.context
    assert (complete.attributes or {})["uploadcore.upload_id"] == upload_id
    assert {"store head", "database read", "database write"} <= spans.keys()
    assert all(span.parent is not None for span in of_trace)


async def test_what_goes_wrong_is_told_in_one_word(traced: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_: Any, **__: Any) -> None:
        raise StoreUnavailableError("the store at http://secret.example does not answer")

    monkeypatch.setattr(FilesystemObjectStore, "create_multipart", away)

    answer = await traced.api.post("/v1/uploads", json={"filename": "a", "size": 100 * 1024**2})
    missing = await traced.api.get("/v1/uploads/unknown")

    spans = traced.spans()
    assert (answer.status_code, missing.status_code) == (503, 404)
    for name in ("POST /v1/uploads", "upload initiate", "store create_multipart"):
        assert (spans[name].attributes or {})["uploadcore.outcome"] == "store_unavailable"
        assert not spans[name].status.is_ok
        assert "secret.example" not in told(spans[name])
    refused = spans["GET /v1/uploads/{upload_id}"]
    assert (refused.attributes or {})["uploadcore.outcome"] == "upload_not_found"
    assert refused.status.is_unset, "a caller's mistake is no error here"
    assert "uploadcore.upload_id" not in (spans["upload get"].attributes or {}), "it may be anything"


async def test_who_goes_away_is_no_error(tracing: Tracing, exporter: InMemorySpanExporter) -> None:
    class Hanging:
        async def complete(self, _: str) -> None:
            await asyncio.Event().wait()

    service = Hanging()
    trace_use_cases(service, "upload", tracing)
    task = asyncio.create_task(service.complete("1"))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    [span] = exporter.get_finished_spans()
    assert (span.attributes or {})["uploadcore.outcome"] == "cancelled"
    assert span.status.is_unset


async def test_every_use_case_has_a_span(tracing: Tracing, exporter: InMemorySpanExporter) -> None:
    async with UploadCore(store=MemoryObjectStore(), database=MemoryDatabase()) as core:
        trace_use_cases(core.uploads, "upload", tracing)
        trace_use_cases(core.files, "file", tracing)
        trace_use_cases(core, "background", tracing)
        await core.uploads.initiate(owner="u", filename="a", size=1)
        await core.files.find(owner="u")
        await core.sweep()
        await core.relay()
    untraced = {
        name
        for service, kind in ((core.uploads, UploadService), (core.files, FileService))
        for name in vars(kind)
        if not name.startswith("_") and name != "close" and name not in vars(service)
    }

    assert not untraced
    assert [span.name for span in exporter.get_finished_spans()] == [
        "upload initiate",
        "file find",
        "background sweep",
        "background relay",
    ]


async def test_lines_of_the_log_name_their_trace(traced: Traced, capfd: pytest.CaptureFixture[str]) -> None:
    from uploadcore_http.logs import configure_logging

    handlers, level = logging.getLogger().handlers[:], logging.getLogger().level
    configure_logging("json", "info")
    try:
        await traced.api.get("/v1/uploads", headers={"traceparent": TRACEPARENT})
        span = Tracing.work(traced.core.store._measurements.tracing, "work")  # type: ignore[attr-defined]
        span.begin()
        logging.getLogger("uploadcore").warning("something")
        span.end("ok")
        logging.getLogger("uploadcore").warning("something else")
    finally:
        logging.getLogger().handlers[:] = handlers
        logging.getLogger().setLevel(level)

    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    request, work, outside = lines[-3:]
    assert (request["event"], request["trace_id"]) == ("request", TRACE)
    assert (work["event"], work["trace_id"]) == ("something", span.trace_id)
    assert "trace_id" not in outside


# --- the environment ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"},
        {"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"},
        {"OTEL_SERVICE_NAME": "uploads"},
    ],
)
def test_without_being_asked_for_there_are_no_traces(environment: dict[str, str]) -> None:
    assert tracing_from(environment) is None


@pytest.mark.parametrize(
    "environment",
    [
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"},
        {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9/v1/traces"},
        {"OTEL_TRACES_EXPORTER": "console"},
        {"OTEL_TRACES_EXPORTER": "otlp,console", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"},
    ],
)
def test_the_standard_variables_turn_traces_on(environment: dict[str, str]) -> None:
    tracing = tracing_from(environment)

    assert tracing is not None
    tracing.close()


@pytest.mark.parametrize(
    "environment",
    [
        {"OTEL_TRACES_EXPORTER": "carrier-pigeon"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
    ],
)
def test_an_exporter_that_is_not_there_is_said_to_be_missing(environment: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="otlp_proto_http"):
        tracing_from(environment)


@pytest.mark.parametrize("variable", ["OTEL_BSP_MAX_QUEUE_SIZE", "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT"])
def test_a_variable_that_cannot_be_used_is_said_in_one_line(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "-1")  # where the SDK looks

    with pytest.raises(ConfigurationError, match=r"OTEL_.*must be a"):
        tracing_from({"OTEL_TRACES_EXPORTER": "console"})


def test_without_the_extra_a_warning_names_it(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("opentelemetry")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)

    assert tracing_from({"OTEL_TRACES_EXPORTER": "console"}) is None
    assert "uploadcore[telemetry]" in caplog.text


def test_nothing_of_it_is_loaded_where_it_is_not_asked_for() -> None:
    program = (
        "import sys, uploadcore_http.server; from uploadcore_app import *; "
        "from uploadcore_http import create_app; create_app(load_settings(storage='memory://', database='memory://')); "
        "sys.exit(any(name.startswith('opentelemetry.sdk') for name in sys.modules))"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}

    assert subprocess.run([sys.executable, "-c", program], env=environment, check=False, timeout=60).returncode == 0


async def test_what_is_left_is_sent_when_the_application_closes(exporter: InMemorySpanExporter) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    container = Container()
    container.tracing.override(providers.Object(Tracing(provider)))

    async with open_app(load_settings(storage="memory://", database="memory://"), container) as app:
        await app.core.uploads.initiate(owner="u", filename="a", size=1)
        assert not exporter._stopped

    assert exporter._stopped


def test_a_collector_that_is_away_does_not_hold_up_the_end(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Away(SpanExporter):
        answers, given_up = threading.Event(), threading.Event()

        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            self.answers.wait(10)
            self.given_up.set()
            return SpanExportResult.FAILURE

    monkeypatch.setattr("uploadcore_app.tracing.LAST_WORD", 0.05)
    away, provider = Away(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(away))
    tracing = Tracing(provider)
    span = tracing.work("work")
    span.begin()
    span.end("ok")

    tracing.close()
    is_held_up = away.given_up.is_set()
    away.answers.set()

    assert not is_held_up
    assert "the last spans were not taken" in caplog.text
    assert away.given_up.wait(10)
