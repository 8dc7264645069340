"""Bodies made to break every route that reads one. What initiate and part-urls refuse in detail is in `tests/integration/http/test_input.py`."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from tests.integration.http.service import Service
from uploadcore_http.application import ROUTES
from uploadcore_http.openapi import documented

READING = {(method, path): operation.example for path, method, operation in documented(ROUTES) if operation.body}
"""Whole by construction: a new route that reads a body is in it."""

BROKEN: dict[str, bytes] = {
    "a gzip bomb": gzip.compress(b" " * 1_000_000),
    "UTF-16": "{}".encode("utf-16"),
    "UTF-32": "{}".encode("utf-32"),
    "a byte order mark": b"\xef\xbb\xbf{}",
    "Latin-1": b'{"\xe9": 1}',
    "overlong UTF-8": b'{"\xc0\xae\xc0\xae": 1}',
    "half a character": b'{"\\udc00": 1}',
    "NaN": b'{"size": NaN}',
    "Infinity": b'{"size": Infinity}',
    "0x10": b'{"size": 0x10}',
    "a number without end": b'{"size": 1' + b"0" * 60_000 + b"}",
    "an exponent without end": b'{"size": 1e' + b"9" * 60_000 + b"}",
    "a fraction without end": b'{"size": 1.' + b"0" * 60_000 + b"}",
    "arrays without end": b"[" * 60_000,
    "objects without end": b'{"a":' * 10_000,
    "10,000 members": json.dumps({f"m{number}": 1 for number in range(4_000)}).encode(),
    "__proto__": b'{"__proto__": {"owner": "other"}}',
    "an owner": b'{"owner": "other"}',
    "comments": b"{} // {}",
    "a comma at the end": b'{"size": 1,}',
    "single quotes": b"{'size': 1}",
    "a form": b"filename=a&size=1",
    "XML": b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>',
    "pickle": b"\x80\x04\x8c\x05posix\x8c\x06system\x93.",
}


async def concrete(service: Service, path: str) -> str:
    if "{file_id}" in path:
        return path.format(file_id=(await service.completed())[1])
    return path.format(upload_id=await service.initiated())


@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN.keys())
async def test_no_route_reads_a_broken_body_and_none_breaks_of_it(service: Service, body: bytes) -> None:
    assert len(READING) >= 4
    for method, path in READING:
        answer = await service.client().request(method, await concrete(service, path), content=body)

        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request"), (method, path)
        assert len(answer.content) < 2_000


async def test_no_route_takes_a_member_twice(service: Service) -> None:
    # Who reads the first and who reads the last of them would disagree about what was allowed.
    examples = {**READING, ("POST", "/v1/uploads/{upload_id}/complete"): {"size": 25}}
    for (method, path), example in examples.items():
        name, value = next(iter(example.items()))
        twice = f"{json.dumps(example)[:-1]}, {json.dumps({name: value})[1:]}"
        answer = await service.client().request(method, await concrete(service, path), content=twice)

        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request"), (method, path)
        assert "twice" in answer.json()["detail"], (method, path)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "gzip, gzip", "aws-chunked"])
async def test_no_body_is_decompressed(service: Service, encoding: str) -> None:
    for (method, path), example in READING.items():
        bomb = gzip.compress(json.dumps(example).encode() + b" " * 10_000_000)
        answer = await service.client().request(
            method, await concrete(service, path), content=bomb, headers={"content-encoding": encoding}
        )

        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request"), (method, path)


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-16", "text/plain; charset=utf-7", "x", ""])
async def test_what_a_body_is_said_to_be_does_not_change_what_it_is(service: Service, content_type: str) -> None:
    headers = {"content-type": content_type}
    utf16 = json.dumps({"filename": "a", "size": 1}).encode("utf-16-le")

    good = await service.client().post("/v1/uploads", content=b'{"filename": "a", "size": 1}', headers=headers)
    bad = await service.client().post("/v1/uploads", content=utf16, headers=headers)

    assert (good.status_code, bad.status_code) == (201, 400)


@pytest.mark.parametrize("depth", [10, 100, 900, 1_100, 30_000])
async def test_any_depth_is_refused_alike(service: Service, depth: int) -> None:
    nested: Any = b'{"filename": "a", "size": 1.0, "metadata": {"k": ' + b"[" * depth + b"]" * depth + b"}}"

    answer = await service.client().post("/v1/uploads", content=nested)

    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")


async def test_a_body_where_none_is_asked_for_does_nothing(service: Service) -> None:
    upload_id = await service.initiated()

    for path in (f"/v1/uploads/{upload_id}", "/v1/uploads", "/v1/files", "/health/live"):
        answer = await service.client().request("GET", path, content=b'{"owner": "other"}' * 10_000)

        assert answer.status_code == 200


@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "PROPFIND", "get", "GET\x00", "A" * 1_000])
async def test_a_method_that_is_none_is_refused_and_echoes_nothing(service: Service, method: str) -> None:
    statuses: list[int] = []
    bodies = b""

    async def send(message: Any) -> None:
        nonlocal bodies
        if message["type"] == "http.response.start":
            statuses.append(message["status"])
        bodies += message.get("body", b"")

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    for path in ("/v1/uploads", "/health/live", "*", "/v1"):
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in service.client().headers.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8484),
            "scheme": "http",
            "http_version": "1.1",
            "root_path": "",
        }
        await service.app(scope, receive, send)

    assert set(statuses) <= {404, 405}
    assert len(statuses) == 4
    assert b"Bearer" not in bodies
    assert method.encode() not in bodies or method == "get"
