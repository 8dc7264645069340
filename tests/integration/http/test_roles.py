"""Rule 13: route by role, whole by construction. A route without a row fails; another owner's thing is 404 and costs no call to the store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.integration.http.service import Service, token
from uploadcore import Visibility
from uploadcore_http.application import ROUTES
from uploadcore_http.openapi import documented


@dataclass(frozen=True)
class Row:
    """What each role gets from a route. `makes` is the thing of the owner's that is there."""

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
    ("GET", "/v1/files"): Row(200, 200),
    ("HEAD", "/v1/files"): Row(200, 200),
    ("GET", "/health/live"): PUBLIC,
    ("GET", "/health/ready"): PUBLIC,
    ("GET", "/metrics"): PUBLIC,  # to loopback peers, as these are; test_operations.py has the others
    ("GET", "/schema"): PUBLIC,
}


@dataclass(frozen=True)
class FileRow:
    """What a route of one file answers: to its owner, to who may see it, to who may not, and to nobody who may not."""

    owner: int
    seen: int
    unseen: int
    anonymous: int
    body: Any = None

    def by_visibility(self) -> dict[str, Row]:
        """Who sees what."""
        return {
            "private": Row(self.owner, self.unseen, self.anonymous, self.body),
            "unlisted": Row(self.owner, self.seen, self.anonymous, self.body),
            "public": Row(self.owner, self.seen, self.anonymous if self.seen == self.unseen else self.seen, self.body),
        }


READ, CONTENT = FileRow(200, 200, 404, 404), FileRow(307, 307, 404, 404)
FILE_MATRIX: dict[tuple[str, str], FileRow] = {
    ("GET", "/v1/files/{file_id}"): READ,
    ("HEAD", "/v1/files/{file_id}"): READ,
    ("PATCH", "/v1/files/{file_id}"): FileRow(200, 404, 404, 401, body={"title": "Changed"}),
    ("DELETE", "/v1/files/{file_id}"): FileRow(204, 404, 404, 401),
    ("GET", "/v1/files/{file_id}/content"): CONTENT,
    ("HEAD", "/v1/files/{file_id}/content"): CONTENT,
}

ROWS: dict[tuple[str, str, str], Row] = {
    **{(method, path, row.makes): row for (method, path), row in MATRIX.items()},
    **{
        (method, path, visibility): row
        for (method, path), several in FILE_MATRIX.items()
        for visibility, row in several.by_visibility().items()
    },
}
CASES = [(*what, role) for what in ROWS for role in ("owner", "other", "anonymous", "admin")]
ADMIN: dict[str, Any] = {
    "sub": "other",
    "admin": True,
    "role": "admin",
    "roles": ["admin"],
    "scope": "admin files:write",
}
"""What other systems grant by: nobody is more than an owner here."""


def test_every_route_has_a_row_and_every_row_a_route() -> None:
    routes = {(method, path) for path, method, _ in documented(ROUTES)}

    assert routes == set(MATRIX) | set(FILE_MATRIX)
    assert {(method, path) for method, path in routes if "{file_id}" in path} == set(FILE_MATRIX)


async def of_the_owner(service: Service, path: str, makes: str) -> str:
    """The path with the id of a thing of the owner's: an upload as far as `makes` says, or a file that visible."""
    if makes in set(Visibility):
        _, file_id = await service.completed()
        await service.core.files.update(file_id, owner="owner", visibility=Visibility(makes))
        return path.format(file_id=file_id)
    upload_id = await service.initiated()
    if makes == "uploaded":
        await service.upload_parts(upload_id)
    return path.format(upload_id=upload_id)


@pytest.mark.parametrize(("method", "path", "makes", "role"), CASES)
async def test_a_role_gets_from_a_route_what_the_matrix_says(
    service: Service, method: str, path: str, makes: str, role: str
) -> None:
    row = ROWS[method, path, makes]
    concrete = await of_the_owner(service, path, makes)
    service.store.calls.clear()

    if role == "admin":
        client = service.client(None, headers={"authorization": f"Bearer {token(**ADMIN)}"})
    else:
        client = service.client(None if role == "anonymous" else role)
    answer = await client.request(method, concrete, json=row.body)

    assert answer.status_code == getattr(row, "other" if role == "admin" else role)
    if answer.status_code == 401:
        assert answer.headers["www-authenticate"].startswith("Bearer")
    if answer.status_code in {401, 404}:
        assert service.store.calls == []


@pytest.mark.parametrize(("method", "path", "makes"), ROWS)
async def test_a_token_that_proves_nothing_is_401_wherever_one_counts(
    service: Service, method: str, path: str, makes: str
) -> None:
    # Who sends a token wants to be somebody: a public file does not make an expired one look valid.
    row = ROWS[method, path, makes]
    concrete = await of_the_owner(service, path, makes)
    service.store.calls.clear()

    for wrong in (token(key="another key, of 32 bytes at least"), token(exp=1), "nonsense", ""):
        headers = {"authorization": f"Bearer {wrong}"}
        answer = await service.client(None, headers=headers).request(method, concrete, json=row.body)

        assert answer.status_code == (200 if row is PUBLIC else 401)
    assert set(service.store.calls) <= {"head"}  # of the probe


FOREIGN = [(*what, "other") for what, row in ROWS.items() if row.other == 404 and what[0] != "HEAD"]
HIDDEN = [(*what, "anonymous") for what, row in ROWS.items() if row.anonymous == 404 and what[0] != "HEAD"]


@pytest.mark.parametrize(("method", "path", "makes", "role"), FOREIGN + HIDDEN)
async def test_a_foreign_id_can_not_be_told_from_an_unknown_one(
    service: Service, method: str, path: str, makes: str, role: str
) -> None:
    row = ROWS[method, path, makes]
    foreign_path = await of_the_owner(service, path, makes)
    unknown_path = path.format(upload_id="0" * 36, file_id="0" * 36)
    api = service.client(None if role == "anonymous" else role)

    foreign = await api.request(method, foreign_path, json=row.body)
    unknown = await api.request(method, unknown_path, json=row.body)

    assert shape(foreign, foreign_path) == shape(unknown, unknown_path)


def shape(answer: httpx.Response, path: str) -> tuple[Any, ...]:
    """A problem without what differs from request to request."""
    thing = path.split("/")[3]
    problem = {name: str(value).replace(thing, "…") for name, value in answer.json().items() if name != "request_id"}
    headers = {name: value for name, value in answer.headers.items() if name not in {"x-request-id", "content-length"}}
    return answer.status_code, headers, problem


@pytest.mark.parametrize("state", ["uploading", "failed", "deleted"])
@pytest.mark.parametrize("visibility", ["unlisted", "public"])
async def test_a_file_without_content_is_there_for_its_owner_only(
    service: Service, visibility: str, state: str
) -> None:
    if state == "deleted":
        _, file_id = await service.completed()
        await service.core.files.update(file_id, owner="owner", visibility=Visibility(visibility))
        await service.core.files.delete(file_id, owner="owner")
    else:
        upload = await service.core.uploads.initiate(owner="owner", filename="a", size=1)
        file_id = upload.file_id
        await service.core.files.update(file_id, owner="owner", visibility=Visibility(visibility))
        if state == "failed":
            await service.core.uploads.abort(upload.id, owner="owner")
            await service.core.sweep()

    own = await service.client().get(f"/v1/files/{file_id}")
    assert (own.status_code, own.json()["status"]) == (200, state)
    assert own.headers["cache-control"].startswith("private")
    for api in (service.client("other"), service.client(None)):
        for path in (f"/v1/files/{file_id}", f"/v1/files/{file_id}/content"):
            assert (await api.get(path)).status_code == 404


async def test_a_list_shows_ones_own_files_only_whatever_others_show(service: Service) -> None:
    for owner in ("owner", "other"):
        for visibility in Visibility:
            _, file_id = await service.completed(owner)
            await service.core.files.update(file_id, owner=owner, visibility=visibility)

    shown = (await service.client().get("/v1/files")).json()["files"]

    assert [file["visibility"] for file in shown] == ["public", "unlisted", "private"]
    assert not {file["id"] for file in shown} & {
        file["id"] for file in (await service.client("other").get("/v1/files")).json()["files"]
    }


@pytest.mark.parametrize(
    "path",
    [
        "//v1/uploads",
        "/v1//uploads",
        "/V1/uploads",
        "/v1/../v1/uploads",
        "/x/v1/uploads",
        "/v1/files",
        "/v1/files/",
        "/v1/files/../uploads",
        "/v1/files/x/../../uploads",
        "/v1/files/x/content/y",
        "/v1/files/x/contents",
        "/v1/files/x\n",
        "/v1/files/" + "x" * 65,
    ],
)
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
