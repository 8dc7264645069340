"""`/metrics` of a worker: what it counts, and who may read it."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.servers.process import free_port
from tests.soak.service import COMMAND, Service, wait_until
from uploadcore_app import ConfigurationError, Measurements, load_settings, open_app
from uploadcore_http.metrics import Metrics
from uploadcore_http.operations import MetricsAccess
from uploadcore_http.protocol import MAX_HEAD
from uploadcore_http.scraping import MAX_CONNECTIONS, metrics_app, metrics_served

TOKEN = "a metrics token, a secret of the tests"


@pytest.mark.parametrize(
    ("method", "path", "peer", "headers", "status"),
    [
        ("GET", "/metrics", "127.0.0.1", {}, 200),
        ("HEAD", "/metrics", "127.0.0.1", {}, 200),
        ("POST", "/metrics", "127.0.0.1", {}, 404),
        ("GET", "/v1/uploads", "127.0.0.1", {}, 404),
        ("GET", "/metrics", "10.0.0.7", {}, 403),
        ("GET", "/metrics", "10.0.0.7", {"authorization": f"Bearer {TOKEN}"}, 200),
        ("GET", "/metrics", "10.0.0.7", {"authorization": "Bearer another"}, 403),
    ],
)
async def test_whoever_may_scrape_is_told_and_there_is_nothing_else(
    method: str, path: str, peer: str, headers: dict[str, str], status: int
) -> None:
    app = metrics_app(Metrics(measurements=Measurements()), MetricsAccess(TOKEN))
    transport = httpx.ASGITransport(app, client=(peer, 5))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as api:
        answer = await api.request(method, path, headers=headers)

    assert answer.status_code == status
    assert ("uploadcore_build_info" in answer.text) == (status == 200 and method == "GET")


async def test_a_scraper_that_asks_for_a_version_that_is_none_is_told_in_plain_text() -> None:
    app = metrics_app(Metrics(measurements=Measurements()), MetricsAccess(None))
    transport = httpx.ASGITransport(app, client=("127.0.0.1", 5))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as api:
        answer = await api.get("/metrics", headers={"accept": "application/openmetrics-text;version=x"})

    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "uploadcore_build_info" in answer.text


async def test_without_a_port_nothing_listens_and_a_port_that_is_taken_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with open_app(load_settings(storage="memory://", database="memory://")) as app, metrics_served(app):
            pass
        async with open_app(load_settings(storage="memory://", database="memory://", metrics_port=port)) as app:
            with pytest.raises(ConfigurationError, match="UPLOADCORE_METRICS_PORT"):
                async with metrics_served(app):
                    raise AssertionError("it serves")


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """Where metrics are served."""
    port = free_port()
    settings = load_settings(storage="memory://", database="memory://", metrics_port=port)
    async with open_app(settings) as app, metrics_served(app):
        yield port


async def answered(port: int, head: bytes) -> bytes:
    """The first line of the answer to a request."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head)
    try:
        async with asyncio.timeout(10):
            return await reader.readline()
    finally:
        writer.close()


async def test_a_head_has_a_bound(port: int) -> None:
    unended = b"GET /metrics HTTP/1.1\r\nhost: a\r\nx: " + b"x" * MAX_HEAD

    assert b" 400 " in await answered(port, unended)


async def test_connections_have_a_bound(port: int) -> None:
    whole = b"GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n"
    assert b" 200 " in await answered(port, whole)

    with ExitStack() as stack:
        for _ in range(MAX_CONNECTIONS):
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        assert b" 503 " in await answered(port, whole)


def test_a_worker_tells_of_its_passes(tmp_path: Path) -> None:
    port = free_port()
    service = Service(tmp_path, UPLOADCORE_METRICS_PORT=str(port))
    text = ""

    def has_swept() -> bool:
        nonlocal text
        try:
            text = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=30).text
        except httpx.ConnectError:
            return False
        return 'uploadcore_sweeps_total{outcome="ok"}' in text

    with subprocess.Popen([*COMMAND, "worker"], env=service.environment, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(has_swept, 30, "it has not swept")
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0

    assert "uploadcore_sweep_last_success_timestamp_seconds" in text
    assert "uploadcore_database_transaction_duration_seconds_count" in text
