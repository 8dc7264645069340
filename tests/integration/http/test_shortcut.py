"""The way around the router answers exactly as the router does."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.integration.http.service import BASE, PEER, Service
from uploadcore import Visibility
from uploadcore_http.shortcut import Shortcut

BODIES: dict[str, bytes] = {
    "one": b'{"part_numbers": [1]}',
    "all": b'{"part_numbers": [3, 1, 2]}',
    "checksums": b'{"part_numbers": [1], "checksums": {"1": "AAAAAA=="}}',
    "lengths": b'{"part_numbers": [1], "lengths": {"1": 10}}',
    "a length that is not the plan's": b'{"part_numbers": [1], "lengths": {"1": 11}}',
    "outside": b'{"part_numbers": [4]}',
    "twice": b'{"part_numbers": [1, 1]}',
    "not JSON": b"{",
    "too much": b" " * (2 * 1024 * 1024 + 1),
}
PATHS = {
    "known": "/v1/uploads/{upload_id}/part-urls",
    "unknown": "/v1/uploads/unknown/part-urls",
    "with a slash": "/v1/uploads/{upload_id}/part-urls/",
    "no id": "/v1/uploads/a%20b/part-urls",
}


@pytest.mark.parametrize("owner", ["owner", "other", None])
@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS.keys())
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
async def test_both_ways_sign_the_same(service: Service, body: bytes, path: str, owner: str | None) -> None:
    concrete = path.format(upload_id=await service.initiated())

    short, long = await both_ways(service, owner, "POST", concrete, content=body)

    assert (short.status_code, comparable(short)) == (long.status_code, comparable(long))


FILES = {
    "known": "/v1/files/{file_id}",
    "unknown": "/v1/files/unknown",
    "with a slash": "/v1/files/{file_id}/",
    "with a query": "/v1/files/{file_id}?version=1",
    "no id": "/v1/files/a%20b",
}
CONDITIONS: dict[str, dict[str, str]] = {
    "none": {},
    "any is known": {"if-none-match": "*"},
    "another is known": {"if-none-match": '"1"'},
    "a version is asked for": {"if-match": '"1"'},
    "none there is": {"if-match": 'W/"1"'},
    "nonsense": {"if-match": "1"},
    "a token that proves nothing": {"authorization": "Bearer x"},
}


@pytest.mark.parametrize("visibility", Visibility)
@pytest.mark.parametrize("owner", ["owner", "other", None])
@pytest.mark.parametrize("headers", CONDITIONS.values(), ids=CONDITIONS.keys())
async def test_both_ways_read_a_file_the_same(
    service: Service, headers: dict[str, str], owner: str | None, visibility: Visibility
) -> None:
    _, file_id = await service.completed()
    await service.core.files.update(file_id, owner="owner", visibility=visibility)

    for method in ("GET", "HEAD"):
        for path in FILES.values():
            short, long = await both_ways(service, owner, method, path.format(file_id=file_id), headers=headers)

            assert (short.status_code, comparable(short)) == (long.status_code, comparable(long))


async def both_ways(
    service: Service, owner: str | None, method: str, path: str, **options: Any
) -> tuple[httpx.Response, httpx.Response]:
    """The answer of the shortcut, and that of the router."""
    shortcut = service.app._app
    assert isinstance(shortcut, Shortcut)
    short = await service.client(owner).request(method, path, **options)
    service.app._app = shortcut._app
    long = await service.client(owner).request(method, path, **options)
    service.app._app = shortcut
    return short, long


def comparable(answer: httpx.Response) -> Any:
    """An answer without what differs from request to request."""
    headers = {name: value for name, value in answer.headers.items() if name not in {"x-request-id", "content-length"}}
    body = json.loads(answer.content or b"{}")
    body.pop("request_id", None)
    for part in body.get("parts", ()):
        part["url"] = part["url"].partition("&expires")[0]
        del part["expires_at"]
    return headers, body


async def test_a_route_is_one_in_the_metrics_whichever_way_a_request_went(service: Service) -> None:
    upload_id, file_id = await service.initiated(), (await service.completed())[1]
    transport = httpx.ASGITransport(service.app, client=PEER)
    api = service.client()
    await api.post(f"/v1/uploads/{upload_id}/part-urls", json={"part_numbers": [1]})
    await api.post(f"/v1/uploads/{upload_id}/part-urls?no=1", json={"part_numbers": [1]})
    await api.get(f"/v1/files/{file_id}")
    await api.get(f"/v1/files/{file_id}?no=1")

    async with httpx.AsyncClient(transport=transport, base_url=BASE) as scraper:
        text = (await scraper.get("/metrics")).text

    for status in (200, 400):
        assert f'{{method="POST",route="/v1/uploads/{{upload_id}}/part-urls",status="{status}"}} 1.0' in text
        assert f'{{method="GET",route="/v1/files/{{file_id}}",status="{status}"}} 1.0' in text
