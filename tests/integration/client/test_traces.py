"""The client's spans: what they are of, how they hang together, and that neither they nor signed URLs tell what they must not."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.integration.client.scripted import FarEnd, Handler
from uploadcore.errors import UploadCoreError
from uploadcore_client import Client
from uploadcore_client.tracing import call_name

MIB = 1024 * 1024
Clients = Callable[..., Client]
Blobs = Callable[..., Path]
TOKEN = "a-token-that-is-a-secret-of-the-tests"


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """What the spans go to of a program that has set a provider: which can be done once per process only, so it is not done here."""
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    yield exporter
    provider.shutdown()


def attributes(span: ReadableSpan) -> dict[str, object]:
    return dict(span.attributes or {})


def test_an_upload_is_one_trace_that_the_service_is_told_of_and_the_store_is_not(
    far: FarEnd, client_of: Clients, blob: Blobs, exporter: InMemorySpanExporter
) -> None:
    to_service: list[str | None] = []
    to_store: list[str | None] = []

    def before_call(handler: Handler, _: str) -> bool:
        to_service.append(handler.headers.get("traceparent"))
        return False

    def before_part(handler: Handler, _: int) -> bool:
        to_store.append(handler.headers.get("traceparent"))
        return False

    far.before_call, far.before_part = before_call, before_part

    file = client_of(far, token=TOKEN).upload(blob(3 * MIB))

    spans = exporter.get_finished_spans()
    [upload] = [span for span in spans if span.name == "uploadcore upload"]
    by_id = {f"{span.context.span_id:016x}": span for span in spans if span.context is not None}
    assert upload.context is not None
    trace_id = f"{upload.context.trace_id:032x}"
    assert upload.parent is None
    assert {span.parent.span_id for span in spans if span.parent is not None} == {upload.context.span_id}
    assert sorted(span.name for span in spans if "part" not in span.name)[-2:] == [
        "POST /v1/uploads/{id}/complete",
        "uploadcore upload",
    ]
    parts = [attributes(span) for span in spans if span.name == "uploadcore part"]
    assert {part["uploadcore.part_number"] for part in parts} == {1, 2, 3}
    assert {part["http.response.status_code"] for part in parts} == {200}
    for header in to_service:
        assert header is not None
        version, told_trace, told_span, _ = header.split("-")
        assert (version, told_trace) == ("00", trace_id)
        assert by_id[told_span].name.startswith(("GET /v1/", "POST /v1/"))
    assert to_store == [None] * 3
    for span in spans:
        told = json.dumps([span.name, attributes(span), str(span.status.description)])
        assert not span.events
        for secret in (TOKEN, "SECRET", far.url, "http://", "blob.bin", file.id):
            assert secret not in told


def test_what_goes_wrong_is_told_in_one_word(
    far: FarEnd, client_of: Clients, blob: Blobs, exporter: InMemorySpanExporter
) -> None:
    with pytest.raises(UploadCoreError):
        client_of(far).get_upload("a-private-id")

    [call] = exporter.get_finished_spans()
    assert call.name == "GET /v1/uploads/{id}"
    assert attributes(call) == {"http.response.status_code": 404, "uploadcore.outcome": "upload_not_found"}
    assert not call.status.is_ok
    assert not call.events


def test_a_program_without_opentelemetry_uploads_as_well(far: FarEnd, blob: Blobs, tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from pathlib import Path; from uploadcore_client import Client\n"
        f"with Client({far.url!r}, state_dir=Path({str(tmp_path)!r})) as client:\n"
        f"    client.upload({str(blob(1))!r})\n"
    )

    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)

    assert ran.returncode == 0, ran.stderr
    assert len(far.files) == 1


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/v1/uploads", "GET /v1/uploads"),
        ("/v1/uploads?fingerprint=private", "GET /v1/uploads"),
        ("/v1/uploads/x/part-urls", "GET /v1/uploads/{id}/part-urls"),
        ("/v1/files/a%2Fb/content", "GET /v1/files/{id}/content"),
    ],
)
def test_a_call_is_named_without_what_it_is_about(path: str, name: str) -> None:
    assert call_name("GET", path) == name
