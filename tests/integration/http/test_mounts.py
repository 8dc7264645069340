"""`create_asgi` in FastAPI, Starlette and Litestar: their lifespan opens the core, their path prefix is in every link."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from litestar import Litestar, asgi, get
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from tests.integration.http.service import BASE, PEER
from uploadcore import UploadCore
from uploadcore.errors import ForbiddenError
from uploadcore_app import load_settings, open_app
from uploadcore_filesystem import FilesystemObjectStore
from uploadcore_http import Principal, create_asgi, metrics, operations
from uploadcore_memory import MemoryDatabase, MemoryObjectStore

PREFIX = "/api/uploads-service"
FILE = b"twelve bytes"


async def by_header(scope: Any) -> Principal | None:
    """An authenticator of the host's own."""
    named = dict(scope["headers"]).get(b"x-user")
    return None if named is None else Principal(named.decode())


def in_fastapi(core: UploadCore) -> Any:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with core:
            yield

    host = FastAPI(lifespan=lifespan)

    @host.get("/hello")
    async def hello() -> str:
        return "host"

    host.mount(PREFIX, create_asgi(core, authenticate=by_header))
    return host


def in_starlette(core: UploadCore) -> Any:
    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with core:
            yield

    async def hello(_: Request) -> PlainTextResponse:
        return PlainTextResponse("host")

    mount = Mount(PREFIX, create_asgi(core, authenticate=by_header))
    return Starlette(routes=[Route("/hello", hello), mount], lifespan=lifespan)


def in_litestar(core: UploadCore) -> Any:
    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        async with core:
            yield

    @get("/hello")
    async def hello() -> str:
        return "host"

    mounted = asgi(PREFIX, is_mount=True, copy_scope=True)(create_asgi(core, authenticate=by_header))
    return Litestar([hello, mounted], lifespan=[lifespan], openapi_config=None)


@asynccontextmanager
async def started(host: Any) -> AsyncIterator[None]:
    """The host's own lifespan, as its server would run it."""
    lifespan = host.lifespan() if isinstance(host, Litestar) else host.router.lifespan_context(host)
    async with lifespan:
        yield


@pytest.mark.parametrize("slash", ["", "/"])
async def test_links_lead_below_the_public_url_however_it_ends(slash: str) -> None:
    async with UploadCore(store=MemoryObjectStore(), database=MemoryDatabase()) as core:
        app = create_asgi(core, authenticate=by_header, public_url=f"https://uploads.example.com/api{slash}")
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app, client=PEER), base_url=BASE) as api:
            begun = await api.post("/v1/uploads", json={"filename": "a", "size": 1}, headers={"x-user": "u_1"})

    assert begun.headers["location"] == f"https://uploads.example.com/api/v1/uploads/{begun.json()['id']}"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"cors_origins": ["https://app.example.com/"]}, "'https://app.example.com/' is not an origin"),
        ({"cors_origins": ["*"]}, "is not an origin"),
        ({"rate_limit": "often"}, "often"),
    ],
)
def test_what_would_never_match_is_refused_at_once(options: dict[str, Any], complaint: str) -> None:
    core = UploadCore(store=MemoryObjectStore(), database=MemoryDatabase())
    with pytest.raises(ValueError, match=complaint):
        create_asgi(core, authenticate=by_header, **options)


@pytest.mark.parametrize("mounted_in", [in_fastapi, in_starlette, in_litestar])
async def test_a_mounted_service_does_the_main_job_under_its_prefix(
    mounted_in: Callable[[UploadCore], Any], tmp_path: Path
) -> None:
    store = FilesystemObjectStore(tmp_path / "files", public_url=BASE + PREFIX, secret=b"a secret of the tests" * 2)
    host = mounted_in(UploadCore(store=store, database=MemoryDatabase()))
    transport = httpx.ASGITransport(host, raise_app_exceptions=True, client=PEER)
    async with started(host), httpx.AsyncClient(transport=transport, base_url=BASE) as api:
        assert (await api.get("/hello")).text.strip('"') == "host"
        me = {"x-user": "u_1"}
        asked = {"filename": "note.txt", "size": len(FILE), "sign": 1}

        nobody = await api.post(f"{PREFIX}/v1/uploads", json=asked)
        begun = await api.post(f"{PREFIX}/v1/uploads", json=asked, headers=me)

        assert nobody.status_code == 401
        assert begun.status_code == 201
        location = begun.headers["location"]
        assert location == f"{PREFIX}/v1/uploads/{begun.json()['id']}"
        [part] = begun.json()["parts"]
        assert part["url"].startswith(f"{BASE}{PREFIX}/data/")
        sent = await api.request(part["method"], part["url"], headers=part["headers"], content=FILE)
        assert sent.status_code == 200

        again = await api.post(f"{location}/part-urls", json={"part_numbers": [1]}, headers=me)
        assert again.status_code == 200
        done = await api.post(f"{location}/complete", json={}, headers=me)
        assert done.status_code == 200
        content = await api.get(f"{PREFIX}/v1/files/{done.json()['file']['id']}/content", headers=me)
        assert (await api.get(content.headers["location"])).content == FILE

        unknown = await api.get(f"{PREFIX}/v1/nothing", headers=me)
        assert (unknown.status_code, unknown.json()["code"]) == (404, "not_found")
        schema = (await api.get(f"{PREFIX}/schema")).json()
        assert schema["servers"] == [{"url": PREFIX}]
        assert (await api.get(f"{PREFIX}/health/ready")).json()["status"] == "ready"


async def test_links_follow_the_public_url_where_one_is_given(tmp_path: Path) -> None:
    public = "https://files.example/up"
    store = FilesystemObjectStore(tmp_path / "files", public_url=public, secret=b"a secret of the tests" * 2)
    async with UploadCore(store=store, database=MemoryDatabase()) as core:
        app = create_asgi(core, authenticate=by_header, public_url=public)
        transport = httpx.ASGITransport(app, client=PEER)
        async with httpx.AsyncClient(transport=transport, base_url=BASE, headers={"x-user": "u_1"}) as api:
            begun = await api.post("/v1/uploads", json={"filename": "a", "size": 1})
            schema = (await api.get("/schema")).json()

    assert begun.headers["location"] == f"{public}/v1/uploads/{begun.json()['id']}"
    assert schema["servers"] == [{"url": public}]


async def test_signed_urls_of_a_core_that_was_opened_from_settings_lead_here(tmp_path: Path) -> None:
    async with open_app(load_settings(data_dir=tmp_path, public_url=BASE)) as app:
        transport = httpx.ASGITransport(create_asgi(app.core, authenticate=by_header), client=PEER)
        async with httpx.AsyncClient(transport=transport, base_url=BASE) as api:
            asked = {"filename": "a", "size": 3, "sign": 1}
            [part] = (await api.post("/v1/uploads", json=asked, headers={"x-user": "u_1"})).json()["parts"]
            answer = await api.put(part["url"], content=b"abc", headers=part["headers"])

    assert answer.status_code == 200


async def test_what_an_authenticator_raises_on_purpose_is_answered_as_what_it_is() -> None:
    async def refuse(_: Any) -> Principal | None:
        raise ForbiddenError("this account is suspended")

    async with UploadCore(store=MemoryObjectStore(), database=MemoryDatabase()) as core:
        transport = httpx.ASGITransport(create_asgi(core, authenticate=refuse), client=PEER)
        async with httpx.AsyncClient(transport=transport, base_url=BASE) as api:
            answer = await api.get("/v1/uploads")

    assert (answer.status_code, answer.json()["detail"]) == (403, "this account is suspended")


async def test_a_defect_of_an_authenticator_lets_nobody_in() -> None:
    async def broken(_: Any) -> Principal | None:
        raise KeyError("claims")

    async with UploadCore(store=MemoryObjectStore(), database=MemoryDatabase()) as core:
        transport = httpx.ASGITransport(create_asgi(core, authenticate=broken), client=PEER)
        async with httpx.AsyncClient(transport=transport, base_url=BASE) as api:
            answers = [await api.get("/v1/uploads"), await api.post("/v1/uploads/x/part-urls", json={})]

    assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [(500, "internal")] * 2


def test_a_global_host_serves_in_one_event_loop_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under its own tests, which have a loop each: also those that ask for the same at once."""
    monkeypatch.setattr(operations, "PROBE_INTERVAL", -1)
    monkeypatch.setattr(metrics, "BACKLOG_AGE", -1)
    core = UploadCore(store=MemoryObjectStore(), database=MemoryDatabase())
    host = create_asgi(core, authenticate=by_header)

    async def asked(path: str) -> set[int]:
        transport = httpx.ASGITransport(host, raise_app_exceptions=False, client=PEER)
        async with core, httpx.AsyncClient(transport=transport, base_url=BASE) as client:
            answers = await asyncio.gather(*(client.get(path, headers={"x-user": "u_1"}) for _ in range(5)))
        return {answer.status_code for answer in answers}

    for path in ("/health/ready", "/metrics", "/v1/uploads"):
        assert asyncio.run(asked(path)) == asyncio.run(asked(path)) == {200}
