"""Rule 13: route by role, whole by construction. A route without a row fails; another owner's thing is 404 and costs no call to the store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from tests.integration.http.service import Service
from uploadcore_http.application import ROUTES
from uploadcore_http.openapi import documented


@dataclass(frozen=True)
class Row:
    """What each role gets from a route. `make` prepares a thing of the owner's and returns its path."""

    owner: int
    other: int
    anonymous: int = 401
    body: Any = None
    makes: str = "initiated"


PUBLIC = Row(200, 200, anonymous=200)

MATRIX: dict[tuple[str, str], Row] = {
    ("POST", "/v1/uploads"): Row(201, 201, body={"filename": "a", "size": 1}),
    ("GET", "/v1/uploads"): Row(200, 200),
    ("GET", "/v1/uploads/{upload_id}"): Row(200, 404),
    ("GET", "/v1/uploads/{upload_id}/parts"): Row(200, 404),
    ("POST", "/v1/uploads/{upload_id}/part-urls"): Row(200, 404, body={"part_numbers": [1]}),
    ("POST", "/v1/uploads/{upload_id}/complete"): Row(200, 404, body={}, makes="uploaded"),
    ("DELETE", "/v1/uploads/{upload_id}"): Row(204, 404),
    ("GET", "/v1/files/{file_id}"): Row(200, 404, makes="completed"),
    ("GET", "/v1/files/{file_id}/content"): Row(307, 404, makes="completed"),
    ("HEAD", "/v1/files/{file_id}/content"): Row(307, 404, makes="completed"),
    ("GET", "/health/live"): PUBLIC,
    ("GET", "/health/ready"): PUBLIC,
    ("GET", "/metrics"): PUBLIC,  # to loopback peers, as these are; test_health.py has the others
    ("GET", "/schema"): PUBLIC,
}

CASES = [(method, path, role) for method, path in MATRIX for role in ("owner", "other", "anonymous")]


def test_every_route_has_a_row_and_every_row_a_route() -> None:
    routes = {(method, path) for path, method, _ in documented(ROUTES)}

    assert routes == set(MATRIX)


async def of_the_owner(service: Service, path: str, makes: str) -> str:
    """The path with the ids of a thing of the owner's."""
    if makes == "completed":
        upload_id, file_id = await service.completed()
        return path.format(upload_id=upload_id, file_id=file_id)
    upload_id = await service.initiated()
    if makes == "uploaded":
        await service.upload_parts(upload_id)
    return path.format(upload_id=upload_id)


@pytest.mark.parametrize(("method", "path", "role"), CASES)
async def test_a_role_gets_from_a_route_what_the_matrix_says(
    service: Service, method: str, path: str, role: str
) -> None:
    row = MATRIX[method, path]
    concrete = await of_the_owner(service, path, row.makes)
    service.store.calls.clear()

    answer = await service.client(None if role == "anonymous" else role).request(method, concrete, json=row.body)

    assert answer.status_code == getattr(row, role)
    if answer.status_code == 401:
        assert answer.headers["www-authenticate"].startswith("Bearer")
    if answer.status_code in {401, 404}:
        assert service.store.calls == []


FOREIGN = [(method, path) for (method, path), row in MATRIX.items() if row.other == 404 and method != "HEAD"]


@pytest.mark.parametrize(("method", "path"), FOREIGN)
async def test_a_foreign_id_can_not_be_told_from_an_unknown_one(service: Service, method: str, path: str) -> None:
    row = MATRIX[method, path]
    foreign_path = await of_the_owner(service, path, row.makes)
    unknown_path = path.format(upload_id="0" * 36, file_id="0" * 36)
    api = service.client("other")

    foreign = await api.request(method, foreign_path, json=row.body)
    unknown = await api.request(method, unknown_path, json=row.body)

    assert shape(foreign.json(), foreign_path) == shape(unknown.json(), unknown_path)


def shape(problem: dict[str, Any], path: str) -> dict[str, Any]:
    """A problem without what differs from request to request."""
    thing = path.split("/")[3]
    return {name: str(value).replace(thing, "…") for name, value in problem.items() if name != "request_id"}


@pytest.mark.parametrize("path", ["//v1/uploads", "/v1//uploads", "/V1/uploads", "/v1/../v1/uploads", "/x/v1/uploads"])
async def test_no_other_spelling_of_a_path_leads_past_authentication(service: Service, path: str) -> None:
    answer = await asgi_get(service, path)

    assert answer in {401, 404}


async def asgi_get(service: Service, path: str) -> int:
    """The status of a GET of exactly this path, which httpx would tidy up."""
    statuses: list[int] = []

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1:8484")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8484),
        "scheme": "http",
        "http_version": "1.1",
        "root_path": "",
    }
    await service.app(scope, receive, send)
    return statuses[0]
