"""What the data endpoint answers to GETs and HEADs."""

from __future__ import annotations

from email.message import Message
from email.utils import collapse_rfc2231_value

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.integration.filesystem.serving import Served
from uploadcore.upload import Address

BODY = bytes(range(256)) * 10_000


@pytest.fixture
async def url(served: Served) -> str:
    await served.put_object("up/a", BODY)
    return (await served.sign_get("up/a")).url


async def test_the_object_comes_with_all_that_is_known_of_it(served: Served, url: str) -> None:
    head = await served.store.head(Address("files", "up/a"))
    assert head is not None
    assert head.checksum is not None
    answer = await served.client.get(url)
    assert answer.content == BODY
    assert answer.headers["etag"] == head.etag
    assert answer.headers["x-amz-checksum-crc64nvme"] == head.checksum.value
    assert answer.headers["content-length"] == str(len(BODY))
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["content-disposition"] == 'attachment; filename="trip.mp4"'
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["access-control-expose-headers"] == "ETag, x-amz-checksum-crc64nvme"


async def test_head_is_get_without_a_body(served: Served, url: str) -> None:
    answer, of_get = await served.client.head(url), await served.client.get(url)
    assert (answer.status_code, answer.content) == (200, b"")
    for name in ("content-length", "etag", "content-type", "content-disposition", "last-modified"):
        assert answer.headers[name] == of_get.headers[name]


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [("bytes=0-0", 0, 1), ("bytes=1000000-", 1_000_000, len(BODY)), ("bytes=-5", len(BODY) - 5, len(BODY))],
)
async def test_a_range_is_sent_alone(served: Served, url: str, asked: str, start: int, end: int) -> None:
    answer = await served.client.get(url, headers={"Range": asked})
    assert answer.status_code == 206
    assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{len(BODY)}"
    assert answer.content == BODY[start:end]
    assert answer.headers["content-disposition"].startswith("attachment")


async def test_several_ranges_are_sent_in_parts(served: Served, url: str) -> None:
    answer = await served.client.get(url, headers={"Range": "bytes=0-1,100-101"})
    assert answer.status_code == 206
    assert answer.headers["content-type"].startswith("multipart/byteranges")
    assert BODY[100:102] in answer.content


async def test_a_range_beyond_the_end_is_416(served: Served, url: str) -> None:
    answer = await served.client.get(url, headers={"Range": f"bytes={len(BODY)}-"})
    assert (answer.status_code, answer.headers["content-range"]) == (416, f"bytes */{len(BODY)}")


async def test_a_range_of_another_version_is_the_whole(served: Served, url: str) -> None:
    etag = (await served.client.head(url)).headers["etag"]
    same = await served.client.get(url, headers={"Range": "bytes=0-4", "If-Range": etag})
    other = await served.client.get(url, headers={"Range": "bytes=0-4", "If-Range": '"other"'})
    assert (same.status_code, other.status_code) == (206, 200)
    assert other.content == BODY


async def test_conditional_requests_are_answered(served: Served, url: str) -> None:
    seen = (await served.client.head(url)).headers

    async def status(**headers: str) -> int:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return (await served.client.get(url, headers=sent)).status_code

    assert await status(If_None_Match=seen["etag"]) == 304
    assert await status(If_None_Match='"other"') == 200
    assert await status(If_Modified_Since=seen["last-modified"]) == 304
    assert await status(If_Match=seen["etag"]) == 200
    assert await status(If_Match="*") == 200
    assert await status(If_Match='"other"') == 412


async def test_an_absent_object_is_404(served: Served) -> None:
    answer = await served.send(await served.sign_get("up/nothing"))
    assert answer.status_code == 404
    assert "<Code>NoSuchKey</Code>" in answer.text


@pytest.mark.parametrize("content_type", ["text/html", "image/svg+xml", "application/xhtml+xml"])
async def test_a_page_is_never_shown_in_our_origin(served: Served, url: str, content_type: str) -> None:
    answer = await served.send(await served.sign_get("up/a", filename="page.html", content_type=content_type))
    assert answer.headers["content-disposition"].startswith("attachment")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in answer.headers["content-security-policy"]


@pytest.mark.parametrize("content_type", ["", "text/plain\r\nset-cookie: a=b", "größe/x", " "])
async def test_a_content_type_that_is_none_becomes_bytes(served: Served, url: str, content_type: str) -> None:
    answer = await served.send(await served.sign_get("up/a", content_type=content_type))
    assert answer.headers["content-type"] == "application/octet-stream"
    assert "set-cookie" not in answer.headers


async def test_an_object_that_was_replaced_while_it_was_sent_arrives_whole(served: Served) -> None:
    await served.put_object("up/a", BODY * 4)
    signed = await served.sign_get("up/a")
    async with served.client.stream("GET", signed.url) as answer:
        chunks = answer.aiter_raw()
        received = await anext(chunks)
        await served.store.delete(Address("files", "up/a"))
        await served.put_object("up/a", b"another")
        async for chunk in chunks:
            received += chunk
    assert received == BODY * 4


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(filename=st.text(max_size=60))
async def test_any_filename_makes_one_header_and_comes_back(served: Served, filename: str) -> None:
    if await served.store.head(Address("files", "up/a")) is None:
        await served.put_object("up/a", b"1")
    answer: httpx.Response = await served.send(await served.sign_get("up/a", filename=filename))
    assert answer.status_code == 200
    disposition = Message()
    disposition["content-disposition"] = answer.headers["content-disposition"]
    assert disposition.get_content_disposition() == "attachment"
    name = collapse_rfc2231_value(disposition.get_param("filename", header="content-disposition") or "")
    assert name
    if filename.isprintable() and filename:
        assert name == filename
    else:
        assert not set(name) & set("\r\n\x00")
