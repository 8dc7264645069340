"""Rule 16: bodies bounded, schemas closed, integers bounded, U+0000 refused everywhere. Bad input gets a clear 4xx, never a 5xx."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.integration.http.service import Service
from uploadcore_http.requests import LARGE_BODY, SMALL_BODY

GOOD = {"filename": "a", "size": 1}

UNREADABLE = {
    "empty": b"",
    "not JSON": b"filename=a",
    "cut": b'{"filename": "a", "si',
    "two documents": b'{"filename": "a", "size": 1} {}',
    "invalid UTF-8": b'{"filename": "\xff", "size": 1}',
    "UTF-16": '{"filename": "a", "size": 1}'.encode("utf-16"),
    "half a surrogate pair": b'{"filename": "\\ud800", "size": 1}',
    "U+0000": b'{"filename": "a\\u0000b", "size": 1}',
    "a raw control character": b'{"filename": "a\nb", "size": 1}',
    "a newline at the end": b'{"filename": "a\\n", "size": 1}',
    "20,000 brackets": b"[" * 20_000,
    "20,000 braces": b'{"metadata":' * 5_000,
    "brackets within": b'{"filename": ' + b"[" * 20_000,
    "NaN": b'{"filename": "a", "size": NaN}',
    "Infinity": b'{"filename": "a", "size": -Infinity}',
    "a fraction": b'{"filename": "a", "size": 1.5}',
    "an exponent beyond 64 bits": b'{"filename": "a", "size": 1e300}',
    "an exponent beyond a float": b'{"filename": "a", "size": 1e400}',
    "the same member twice, a whole fraction": b'{"filename": "a", "filename": "b", "size": 1.0}',
    "NaN beside a whole fraction": b'{"filename": "a", "size": 1.0, "sign": NaN}',
    "text for a number": b'{"filename": "a", "size": "1"}',
    "true for a number": b'{"filename": "a", "size": true}',
    "a number beyond 64 bits": b'{"filename": "a", "size": 9223372036854775808}',
    "a number of 5,000 digits": b'{"filename": "a", "size": ' + b"9" * 5_000 + b"}",
    "a negative size": b'{"filename": "a", "size": -1}',
    "the same member twice": b'{"filename": "a", "filename": "b", "size": 1}',
    "the same member twice, escaped": b'{"filename": "a", "file\\u006eame": "b", "size": 1}',
    "the same metadata twice": b'{"filename": "a", "size": 1, "metadata": {"k": "1", "k": "2"}}',
    "an unknown member": b'{"filename": "a", "size": 1, "bucket": "other"}',
    "an address": b'{"filename": "a", "size": 1, "key": "../../etc/passwd"}',
    "no size": b'{"filename": "a"}',
    "no name": b'{"filename": "", "size": 1}',
    "a name of 256 characters": json.dumps({"filename": "a" * 256, "size": 1}).encode(),
    "a media type that is none": b'{"filename": "a", "size": 1, "content_type": "video"}',
    "a header in a media type": b'{"filename": "a", "size": 1, "content_type": "a/b\\r\\nx-evil: 1"}',
    "3 KB of metadata": json.dumps({**GOOD, "metadata": {f"k{n}": "v" * 1_000 for n in range(3)}}).encode(),
    "a list": b"[]",
    "null": b"null",
}


@pytest.mark.parametrize("body", UNREADABLE.values(), ids=UNREADABLE.keys())
async def test_a_body_that_does_not_fit_is_400_and_changes_nothing(service: Service, body: bytes) -> None:
    answer = await service.client().post("/v1/uploads", content=body)

    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")
    assert answer.json()["detail"]
    assert service.database.uploads == {}


@pytest.mark.parametrize("size", ["1000", "1000.0", "1e3", "1.0E+3"])
async def test_every_spelling_of_an_integer_is_the_integer_it_is_to_json_schema(service: Service, size: str) -> None:
    answer = await service.client().post("/v1/uploads", content=f'{{"filename": "a", "size": {size}}}')

    assert (answer.status_code, answer.json()["size"]) == (201, 1000)


SIGNING = {
    "none": b'{"part_numbers": []}',
    "1,001": json.dumps({"part_numbers": list(range(1, 1_002))}).encode(),
    "zero": b'{"part_numbers": [0]}',
    "10,001": b'{"part_numbers": [10001]}',
    "one twice": b'{"part_numbers": [1, 1]}',
    "a length twice": b'{"part_numbers": [1], "lengths": {"1": 1, "1": 2}}',
    "a length of part 01": b'{"part_numbers": [1], "lengths": {"01": 1}}',
    "a length with a newline": b'{"part_numbers": [1], "lengths": {"1\\n": 1}}',
    "a checksum of 5 bytes": b'{"part_numbers": [1], "checksums": {"1": "AAAAAAA="}}',
    "a checksum that is none": b'{"part_numbers": [1], "checksums": {"1": "!!!!!!=="}}',
    "cut": b'{"part_numbers": [1',
    "brackets": b'{"part_numbers": ' + b"[" * 20_000,
    "invalid UTF-8": b'{"part_numbers": [1], "\xff": 1}',
}


@pytest.mark.parametrize("query", [b"", b"x="], ids=["short", "long"])
@pytest.mark.parametrize("body", SIGNING.values(), ids=SIGNING.keys())
async def test_parts_that_can_not_be_signed_are_400_either_way(service: Service, body: bytes, query: bytes) -> None:
    # The second way has a query, which the shortcut leaves to the router.
    upload_id = await service.initiated()
    path = f"/v1/uploads/{upload_id}/part-urls" + ("?" + query.decode() if query else "")

    answer = await service.client().post(path, content=body)

    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/uploads?limit=0"),
        ("GET", "/v1/uploads?limit=1001"),
        ("GET", "/v1/uploads?limit=ten"),
        ("GET", "/v1/uploads?limit=%D9%A1"),  # a digit, but not one of ours
        ("GET", "/v1/uploads?limit=" + "9" * 5_000),
        ("GET", "/v1/uploads?limit=1&limit=2"),
        ("GET", "/v1/uploads?state=gone"),
        ("GET", "/v1/uploads?cursor=nonsense"),
        ("GET", "/v1/uploads?cursor="),
        ("GET", "/v1/uploads?fingerprint="),
        ("GET", "/v1/uploads?fingerprint=%00"),
        ("GET", "/v1/uploads?fingerprint=%ff"),
        ("GET", "/v1/uploads?owner=other"),
        ("GET", "/v1/uploads?" + "&".join(f"a{n}=1" for n in range(100))),
        ("GET", "/v1/uploads/x/parts?after=-1"),
        ("GET", "/v1/uploads/%00"),
        ("GET", "/v1/files/a%00b"),
        ("GET", "/v1/files/x?owner=other"),
        ("DELETE", "/v1/uploads/x?force=1"),
    ],
)
async def test_an_address_that_does_not_fit_is_400(service: Service, method: str, path: str) -> None:
    answer = await service.client().request(method, path)

    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")


@pytest.mark.parametrize("key", ["", "x" * 256, "a\tb"])
async def test_an_idempotency_key_that_does_not_fit_is_400(service: Service, key: str) -> None:
    answer = await service.client().post("/v1/uploads", json=GOOD, headers={"idempotency-key": key})

    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")


async def test_two_idempotency_keys_are_400(service: Service) -> None:
    headers = [("idempotency-key", "a"), ("idempotency-key", "b"), *service.client().headers.items()]

    answer = await service.client().post("/v1/uploads", json=GOOD, headers=headers)

    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")


@pytest.mark.parametrize("thing", ["../../etc/passwd", "a" * 65, "ä", "%2e%2e", "a b", "' or 1=1 --", "%ed%a0%80"])
async def test_an_id_that_can_not_be_one_is_the_id_of_nothing(service: Service, thing: str) -> None:
    answer = await service.client().get(f"/v1/uploads/{thing}/parts")

    assert answer.status_code == 404


@pytest.mark.parametrize(
    ("path", "limit"),
    [("/v1/uploads", SMALL_BODY), ("/v1/uploads/x/part-urls", LARGE_BODY), ("/v1/uploads/x/complete", LARGE_BODY)],
)
@pytest.mark.parametrize("declared", [True, False], ids=["with Content-Length", "without"])
async def test_a_body_beyond_its_bound_is_413_and_is_not_read_to_the_end(
    service: Service, path: str, limit: int, declared: bool
) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < limit * 100:
            sent += 65_536
            yield b" " * 65_536

    headers = {"content-length": str(limit * 100)} if declared else {}
    answer = await service.client().post(path, content=endless(), headers=headers)

    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert answer.headers["connection"] == "close"
    assert sent < limit + 2 * 1024 * 1024


@pytest.mark.parametrize("size", [0, 1, 2])
async def test_a_body_of_exactly_its_bound_is_read(service: Service, size: int) -> None:
    body = json.dumps(GOOD).encode()
    padded = body + b" " * (SMALL_BODY - len(body) + (1 if size == 2 else -size))

    answer = await service.client().post("/v1/uploads", content=padded)

    assert answer.status_code == (413 if size == 2 else 201)


async def test_an_unknown_address_is_404_and_a_wrong_method_405(service: Service) -> None:
    api = service.client()

    unknown = await api.get("/v2/uploads")
    wrong = await api.put("/v1/uploads", json={})

    for answer, status, code in ((unknown, 404, "not_found"), (wrong, 405, "method_not_allowed")):
        assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert answer.headers["content-type"] == "application/problem+json"
    assert {"GET", "POST"} <= {method.strip() for method in wrong.headers["allow"].split(",")}


@pytest.mark.parametrize("way", ["router", "shortcut"])
async def test_a_defect_is_500_with_the_id_under_which_the_log_has_it(
    service: Service, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    async def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("a defect planted by a test")

    service.core.uploads.sign_parts = broken  # type: ignore[method-assign, assignment]
    service.core.uploads.get = broken  # type: ignore[method-assign, assignment]
    api = service.client()

    if way == "shortcut":
        answer = await api.post("/v1/uploads/x/part-urls", json={"part_numbers": [1]})
    else:
        answer = await api.get("/v1/uploads/x")

    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert "planted" not in answer.text
    assert caplog.text.count("ZeroDivisionError: a defect planted") == 1
    [record] = caplog.records
    assert record.__dict__["request_id"] == answer.json()["request_id"] == answer.headers["x-request-id"]
