"""The way around the router signs exactly as the router does."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.integration.http.service import BASE, PEER, Service
from uploadcore_http.shortcut import SigningShortcut

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
async def test_both_ways_answer_the_same(service: Service, body: bytes, path: str, owner: str | None) -> None:
    concrete = path.format(upload_id=await service.initiated())
    shortcut = service.app._app
    assert isinstance(shortcut, SigningShortcut)
    short = await service.client(owner).post(concrete, content=body)

    service.app._app = shortcut._app
    long = await service.client(owner).post(concrete, content=body)

    assert (short.status_code, comparable(short)) == (long.status_code, comparable(long))


def comparable(answer: httpx.Response) -> Any:
    """An answer without what differs from request to request."""
    headers = {name: value for name, value in answer.headers.items() if name not in {"x-request-id", "content-length"}}
    body = json.loads(answer.content)
    body.pop("request_id", None)
    for part in body.get("parts", ()):
        part["url"] = part["url"].partition("&expires")[0]
        del part["expires_at"]
    return headers, body


async def test_signing_is_one_route_in_the_metrics_whichever_way_it_went(service: Service) -> None:
    upload_id = await service.initiated()
    transport = httpx.ASGITransport(service.app, client=PEER)
    api = service.client()
    await api.post(f"/v1/uploads/{upload_id}/part-urls", json={"part_numbers": [1]})
    await api.post(f"/v1/uploads/{upload_id}/part-urls?no=1", json={"part_numbers": [1]})

    async with httpx.AsyncClient(transport=transport, base_url=BASE) as scraper:
        text = (await scraper.get("/metrics")).text

    for status in (200, 400):
        assert f'{{method="POST",route="/v1/uploads/{{upload_id}}/part-urls",status="{status}"}} 1.0' in text
