"""Health, metrics, the schema, CORS, request ids and overload: what operators, probes and browsers see."""

from __future__ import annotations

import asyncio
import errno
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from dependency_injector import providers

from tests.integration.http.service import BASE, PEER, CountingStore, Service, bearer, serving
from uploadcore.errors import DatabaseUnavailableError, StoreUnavailableError
from uploadcore_app import Container, load_settings
from uploadcore_http import create_app
from uploadcore_http.application import Running
from uploadcore_memory import MemoryEventPublisher


def from_peer(service: Service, address: str) -> httpx.AsyncClient:
    """A client on another machine."""
    client = httpx.AsyncClient(transport=httpx.ASGITransport(service.app, client=(address, 5)), base_url=BASE)
    service.clients.append(client)
    return client


# --- health -------------------------------------------------------------------------------------------------------


class AwayStore(CountingStore):
    """Does not answer."""

    async def head(self, *_: Any) -> None:
        raise StoreUnavailableError("away")


class HangingStore(CountingStore):
    """Never answers."""

    async def head(self, *_: Any) -> None:
        await asyncio.Event().wait()


async def test_ready_says_what_is_wrong_without_failing_for_it() -> None:
    # Rule 19: neither probe fails because a port is down.
    async with serving(store=AwayStore()) as service:

        def away(**_: Any) -> Any:
            raise DatabaseUnavailableError("away")

        service.database.reader = away  # type: ignore[method-assign]
        api = service.client(None)

        ready, live = await api.get("/health/ready"), await api.get("/health/live")

        assert (ready.status_code, live.status_code) == (200, 200)
        assert ready.json() == {
            "status": "ready",
            "checks": {"store": "unavailable", "database": "unavailable", "cache": "ok"},
        }


async def test_a_port_that_hangs_does_not_hang_the_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uploadcore_http.operations.PROBE_TIMEOUT", 0.01)
    async with serving(store=HangingStore()) as service:
        ready = await service.client(None).get("/health/ready")

        assert ready.json()["checks"]["store"] == "unavailable"


async def test_ready_says_whose_clock_is_another_without_failing_for_it(service: Service) -> None:
    offsets = {"store": timedelta(minutes=14), "database": timedelta(minutes=-14)}
    service.store.clock_offset = offsets["store"]  # type: ignore[attr-defined]
    service.database.clock_offset = offsets["database"]  # type: ignore[attr-defined]
    api = service.client(None)

    ready = await api.get("/health/ready")
    assert ready.status_code == 200
    assert ready.json()["clock"] == {"store": "840 s ahead", "database": "840 s behind"}

    service.store.clock_offset = timedelta(seconds=2.4)  # type: ignore[attr-defined]
    service.database.clock_offset = None  # type: ignore[attr-defined]
    assert "clock" not in (await api.get("/health/ready")).json()


async def test_asking_often_does_not_become_work_for_the_store(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("uploadcore_http.operations.PROBE_INTERVAL", 600)  # longer than a slow machine takes to ask
    api = service.client(None)

    for _ in range(20):
        await api.get("/health/ready")

    assert service.store.calls == ["head"]


async def test_a_service_is_ready_from_its_start_to_its_end_unless_it_drains() -> None:
    app = create_app(load_settings(storage="memory://", database="memory://"))
    transport = httpx.ASGITransport(app, client=PEER)  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url=BASE) as api:
        before = await api.get("/health/ready")
        async with app.lifespan():
            during = await api.get("/health/ready")
            created = await api.post("/v1/uploads", json={"filename": "a", "size": 1})
            Running.of(app).lifecycle.is_draining = True
            draining = await api.get("/health/ready")
            alive = await api.get("/health/live")

    assert [answer.json()["status"] for answer in (before, during, draining)] == ["starting", "ready", "draining"]
    assert [answer.status_code for answer in (before, during, draining, alive)] == [503, 200, 503, 200]
    assert created.status_code == 201
    assert (during.headers.get("connection"), draining.headers["connection"]) == (None, "close")


# --- metrics ------------------------------------------------------------------------------------------------------


async def test_metrics_count_requests_by_route_and_status(service: Service) -> None:
    api, upload_id = service.client(), await service.initiated()
    await api.get(f"/v1/uploads/{upload_id}")
    await api.get("/v1/uploads/unknown")
    await api.get("/somewhere/else")

    text = (await service.client(None).get("/metrics")).text

    counted = 'uploadcore_http_requests_total{method="GET",route="%s",status="%s"} 1.0'
    assert counted % ("/v1/uploads/{upload_id}", 200) in text
    assert counted % ("/v1/uploads/{upload_id}", 404) in text
    assert counted % ("unmatched", 404) in text
    assert 'uploadcore_http_request_duration_seconds_count{method="GET",route="/v1/uploads/{upload_id}"} 2.0' in text
    assert "uploadcore_http_requests_in_flight 1.0" in text
    assert upload_id not in text


async def test_metrics_tell_of_the_events_that_were_delivered() -> None:
    container = Container()
    container.publishers.override(providers.Object({"crm": MemoryEventPublisher()}))
    app = create_app(load_settings(storage="memory://", database="memory://", background=False), container)
    transport = httpx.ASGITransport(app, client=PEER)  # type: ignore[arg-type]
    async with app.lifespan(), httpx.AsyncClient(transport=transport, base_url=BASE) as api:
        upload = (await api.post("/v1/uploads", json={"filename": "a", "size": 1})).json()
        await api.delete(f"/v1/uploads/{upload['id']}")
        await container.core().relay()
        text = (await api.get("/metrics")).text

    delivered = 'uploadcore_event_deliveries_total{destination="crm",outcome="delivered",type="upload.aborted"} 1.0'
    assert delivered in text
    assert 'uploadcore_events_pending{destination="crm"} 0.0' in text


async def test_metrics_tell_of_a_part_there_was_no_room_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pwritev(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    app = create_app(load_settings(data_dir=str(tmp_path), database="memory://", background=False))
    transport = httpx.ASGITransport(app, client=PEER)  # type: ignore[arg-type]
    async with app.lifespan(), httpx.AsyncClient(transport=transport, base_url=BASE) as api:
        upload = (await api.post("/v1/uploads", json={"filename": "a", "size": 1, "sign": 1})).json()
        [part] = upload["parts"]
        with monkeypatch.context() as full:
            full.setattr(os, "pwritev", pwritev)
            sent = await api.put(part["url"], headers=part["headers"], content=b"a")
        text = (await api.get("/metrics")).text

    assert sent.status_code == 507
    assert 'uploadcore_http_problems_total{code="storage_full"} 1.0' in text


TOKEN = "a token for the scraper"


@pytest.mark.parametrize(
    ("token", "peer", "headers", "status"),
    [
        (None, "127.0.0.1", {}, 200),
        (None, "::1", {}, 200),
        (None, "10.0.0.7", {}, 403),
        (None, "127.0.0.1", {"x-forwarded-for": "127.0.0.1"}, 403),
        (None, "127.0.0.1", {"forwarded": "for=127.0.0.1"}, 403),
        (None, "10.0.0.7", {"authorization": "Bearer "}, 403),
        (TOKEN, "10.0.0.7", {}, 403),
        (TOKEN, "10.0.0.7", {"authorization": f"Bearer {TOKEN}x"}, 403),
        (TOKEN, "10.0.0.7", {"authorization": f"Bearer {TOKEN}"}, 200),
        (TOKEN, "127.0.0.1", {"x-forwarded-for": "10.0.0.7", "authorization": f"Bearer {TOKEN}"}, 200),
        (TOKEN, "10.0.0.7", bearer(), 403),
    ],
)
async def test_metrics_are_for_this_machine_or_for_the_token(
    token: str | None, peer: str, headers: dict[str, str], status: int
) -> None:
    async with serving(metrics_token=token) as service:
        answer = await from_peer(service, peer).get("/metrics", headers=headers)

        assert answer.status_code == status


# --- the rest -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("abc-1.2_3", True),
        ("x" * 64, True),
        ("x" * 65, False),
        ("a b", False),
        ("a\tb", False),
        ("é", False),
        ("", False),
    ],
)
async def test_a_plain_request_id_is_kept_and_any_other_replaced(service: Service, given: str, kept: bool) -> None:
    answer = await service.client().get("/v1/uploads/x", headers=[(b"x-request-id", given.encode("latin-1"))])

    assert (answer.headers["x-request-id"] == given) is kept
    assert answer.json()["request_id"] == answer.headers["x-request-id"]


async def test_every_answer_says_that_it_is_not_to_be_stored(service: Service) -> None:
    for path in ("/v1/uploads", "/v1/uploads/x", "/nowhere", "/health/live"):
        answer = await service.client().get(path)
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"


async def test_more_than_can_be_served_is_told_to_come_back() -> None:
    async with serving(max_in_flight=1) as service:
        entered, gate = asyncio.Event(), asyncio.Event()
        get = service.core.uploads.get

        async def held(*args: Any, **kwargs: Any) -> Any:
            entered.set()
            await gate.wait()
            return await get(*args, **kwargs)

        service.core.uploads.get = held  # type: ignore[method-assign]
        first = asyncio.create_task(service.client().get("/v1/uploads/x"))
        await entered.wait()

        second = await service.client().get("/v1/uploads/x")
        probe = await service.client(None).get("/health/live")
        gate.set()

        assert (second.status_code, second.json()["code"]) == (503, "overloaded")
        assert int(second.headers["retry-after"]) >= 1
        assert probe.status_code == 200
        assert (await first).status_code == 404


ORIGIN = "https://app.example"


async def test_a_page_of_a_configured_origin_may_read_every_answer_refusals_included() -> None:
    async with serving(cors_origins=[ORIGIN]) as service:
        preflight = await service.client(None).options(
            "/v1/uploads",
            headers={
                "origin": ORIGIN,
                "access-control-request-method": "POST",
                "access-control-request-headers": "authorization, content-type, idempotency-key",
            },
        )
        refused = await service.client(None).get("/v1/uploads", headers={"origin": ORIGIN})
        created = await service.client().post(
            "/v1/uploads", json={"filename": "a", "size": 1}, headers={"origin": ORIGIN}
        )

        assert preflight.status_code == 200
        assert "POST" in preflight.headers["access-control-allow-methods"]
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, ORIGIN)
        assert created.headers["access-control-allow-origin"] == ORIGIN
        assert "location" in created.headers["access-control-expose-headers"].lower()


async def test_a_page_of_another_origin_may_read_nothing() -> None:
    async with serving(cors_origins=[ORIGIN]) as service:
        answer = await service.client().get("/v1/uploads", headers={"origin": "https://evil.example"})

        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("path", ["/v1/uploads", "/v1/uploads/x", "/v1/files", "/v1/files/x", "/v1/files/x/content"])
async def test_options_says_what_a_path_takes(service: Service, path: str) -> None:
    answer = await service.client(None).options(path)

    taken = {
        "/v1/uploads": "GET, OPTIONS, POST",
        "/v1/uploads/x": "DELETE, GET, OPTIONS",
        "/v1/files": "GET, HEAD, OPTIONS",
        "/v1/files/x": "DELETE, GET, HEAD, OPTIONS, PATCH",
        "/v1/files/x/content": "GET, HEAD, OPTIONS",
    }
    assert (answer.status_code, answer.headers["allow"]) == (204, taken[path])
