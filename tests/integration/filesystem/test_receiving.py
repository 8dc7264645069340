# ruff: noqa: ASYNC240 - a test may look at the disk, and start a process, while nothing else runs
"""What the data endpoint answers to PUTs, and what it leaves behind."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import awscrt.checksums
import pytest

from tests.integration.filesystem.serving import Served, files_below, serving, stored_sizes, until
from uploadcore.file import Checksum, ChecksumAlgorithm
from uploadcore.ports import ObjectHeaders
from uploadcore.upload import Address
from uploadcore_http.data import data_app

BODY = b"some bytes" * 1000


def _crc64(body: bytes) -> str:
    return base64.b64encode(awscrt.checksums.crc64nvme(body).to_bytes(8, "big")).decode()


def _code(text: str) -> str:
    return text.partition("<Code>")[2].partition("</Code>")[0]


# --- what is answered -------------------------------------------------------------------------------------------------


async def test_a_part_is_answered_with_its_etag_and_checksum(served: Served) -> None:
    address = await served.begin()
    answer = await served.put_part(address, 1, BODY)
    [listed] = await served.store.list_parts(address)
    assert answer.headers["etag"] == listed.etag
    assert listed.etag[0] == listed.etag[-1] == '"'
    assert answer.headers["x-amz-checksum-crc64nvme"] == _crc64(BODY)
    assert listed.checksum == Checksum(ChecksumAlgorithm.CRC64NVME, _crc64(BODY))


async def test_the_etag_tells_attempts_apart_and_nothing_of_the_bytes(served: Served) -> None:
    address = await served.begin()
    first = await served.put_part(address, 1, BODY)
    second = await served.put_part(address, 1, BODY)
    assert first.headers["etag"] != second.headers["etag"]
    assert hashlib.md5(BODY, usedforsecurity=False).hexdigest() not in first.headers["etag"]


async def test_an_object_is_answered_with_its_etag_and_checksum(served: Served) -> None:
    answer = await served.send(await served.sign_put("up/a", len(BODY)), BODY)
    head = await served.store.head(Address("files", "up/a"))
    assert head is not None
    assert (answer.status_code, answer.headers["etag"]) == (200, head.etag)
    assert answer.headers["x-amz-checksum-crc64nvme"] == _crc64(BODY)
    assert head.checksum == Checksum(ChecksumAlgorithm.CRC64NVME, _crc64(BODY))


async def test_metadata_of_any_text_comes_back_as_it_was(served: Served) -> None:
    headers = ObjectHeaders("video/mp4", {"Camera": "Kaméra, größe: 1\r\n", "empty": ""})
    answer = await served.send(await served.sign_put("up/a", 1, headers=headers), b"1")
    head = await served.store.head(Address("files", "up/a"))
    assert answer.status_code == 200, answer.text
    assert head is not None
    assert dict(head.metadata) == dict(headers.metadata)


@pytest.mark.parametrize(
    "key", ["../../escape", "/etc/passwd", "a/../b", ".", "..", "a\x00b", "\ud800", "k" * 1024, "ü" * 512]
)
async def test_any_key_works_and_none_leaves_the_folder(served: Served, tmp_path: Path, key: str) -> None:
    await served.put_object(key, BODY)
    address = await served.begin(key)
    await served.put_part(address, 1, BODY)
    assert [found.key async for found in served.store.list_multiparts(key)] == [key]
    assert await served.content(key) == BODY
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


async def test_keys_that_differ_in_case_only_are_two(served: Served) -> None:
    await served.put_object("up/A", b"upper")
    await served.put_object("up/a", b"lower")
    assert await served.content("up/A") == b"upper"


@pytest.mark.parametrize("key", ["", "k" * 1025, "ü" * 513])
async def test_a_key_that_is_none_is_refused(served: Served, key: str) -> None:
    with pytest.raises(Exception, match="a key has 1 to 1024 bytes"):
        await served.begin(key)


# --- what is refused --------------------------------------------------------------------------------------------------


async def test_an_expired_url_is_told_apart_from_a_false_one(served: Served) -> None:
    signed = await served.sign(await served.begin(), 1, 1)
    false = await served.client.put(signed.url[:-1] + ("A" if signed.url[-1] != "A" else "B"), content=b"1")
    served.clock.advance(61)
    expired = await served.send(signed, b"1")
    assert (false.status_code, _code(false.text)) == (403, "SignatureDoesNotMatch")
    assert (expired.status_code, _code(expired.text)) == (403, "AccessDenied")
    assert "Request has expired" in expired.text


async def test_errors_are_small_xml_that_a_page_may_read(served: Served) -> None:
    answer = await served.client.put(f"http://127.0.0.1:{served.port}/data/files/eA?signature=x", content=b"1")
    assert answer.headers["content-type"] == "application/xml"
    assert answer.text.endswith("</Message></Error>")
    assert answer.headers["access-control-allow-origin"] == "*"


async def test_an_unknown_upload_is_404(served: Served) -> None:
    address = await served.begin()
    signed = await served.sign(address, 1, 1)
    await served.store.abort_multipart(address)
    answer = await served.send(signed, b"1")
    assert (answer.status_code, _code(answer.text)) == (404, "NoSuchUpload")


@pytest.mark.parametrize("name", ["x-amz-acl", "x-amz-meta-more", "x-amz-checksum-sha256"])
async def test_an_unsigned_amz_header_is_refused(served: Served, name: str) -> None:
    address = await served.begin()
    answer = await served.send(await served.sign(address, 1, 1), b"1", **{name: "x"})
    assert (answer.status_code, _code(answer.text)) == (403, "AccessDenied")
    assert await served.store.list_parts(address) == []


async def test_a_line_break_in_the_path_moves_nothing_across_what_was_signed(served: Served) -> None:
    checksum = Checksum(ChecksumAlgorithm.CRC32C, "4waSgw==")
    address = await served.begin()
    signed = await served.sign(address, 1, 9, checksum=checksum)
    url, _, query = signed.url.partition("?")
    query, _, signature = query.rpartition("&signature=")
    [(name, value)] = signed.headers.items()

    moved = f"{url}%0A{quote(query)}?{name}:{value}&signature={signature}"
    answer = await served.client.put(moved, content=b"123456789")

    assert (answer.status_code, _code(answer.text)) == (403, "SignatureDoesNotMatch")
    assert await served.store.list_parts(address) == []


async def test_another_length_is_refused_before_the_body_is_read(served: Served) -> None:
    address = await served.begin()
    connection = await served.connect(await served.sign(address, 1, 100), length=99)
    assert await connection.status() == 403
    assert b"SignatureDoesNotMatch" in await connection.error()


async def test_a_bound_length_must_be_told(served: Served) -> None:
    address = await served.begin()
    connection = await served.connect(await served.sign(address, 1, 100), length=None)
    assert await connection.status() == 411
    assert b"MissingContentLength" in await connection.error()


async def test_a_client_that_asks_first_is_refused_without_sending(served: Served) -> None:
    signed = await served.sign(await served.begin(), 1, 100)
    served.clock.advance(61)
    connection = await served.connect(signed, length=100, Expect="100-continue")
    assert await connection.status() == 403


async def test_a_refused_client_that_goes_on_sending_still_gets_the_answer(served: Served) -> None:
    signed = await served.sign(await served.begin(), 1, 8_000_000)
    served.clock.advance(61)
    connection = await served.connect(signed, length=8_000_000)
    await connection.send(bytes(8_000_000))
    assert await connection.status() == 403


async def test_a_body_without_a_length_is_taken_where_none_was_signed(served: Served) -> None:
    address = await served.begin()
    connection = await served.connect(await served.sign(address, 1, None), length=None)
    await connection.send(b"5\r\nhello\r\n0\r\n\r\n")
    assert await connection.status() == 200
    assert stored_sizes(await served.store.list_parts(address)) == [(1, 5)]


async def test_a_body_larger_than_a_part_may_be_is_refused(served: Served) -> None:
    address = await served.begin()
    connection = await served.connect(await served.sign(address, 1, None), length=5 * 1024**3 + 1)
    assert await connection.status() == 400
    assert b"EntityTooLarge" in await connection.error()


@pytest.mark.parametrize("method", ["POST", "DELETE", "PATCH"])
async def test_another_method_is_405(served: Served, method: str) -> None:
    signed = await served.sign(await served.begin(), 1, 1)
    answer = await served.client.request(method, signed.url)
    assert (answer.status_code, _code(answer.text)) == (405, "MethodNotAllowed")
    assert answer.headers["allow"] == "GET, HEAD, OPTIONS, PUT"


@pytest.mark.parametrize(
    "url",
    ["/data", "/data/", "/data/files", "/data/files/", "/data/files/%FF?signature=", "/data/%00/%00?&&=&signature=%FF"],
)
@pytest.mark.parametrize("method", ["GET", "PUT", "HEAD"])
async def test_nonsense_is_refused(served: Served, method: str, url: str) -> None:
    answer = await served.client.request(method, f"http://127.0.0.1:{served.port}{url}")
    assert answer.status_code == 403


# --- checksums --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("algorithm", "digest"),
    [
        (ChecksumAlgorithm.CRC64NVME, awscrt.checksums.crc64nvme(BODY).to_bytes(8, "big")),
        (ChecksumAlgorithm.CRC32C, awscrt.checksums.crc32c(BODY).to_bytes(4, "big")),
        (ChecksumAlgorithm.SHA256, hashlib.sha256(BODY).digest()),
    ],
)
async def test_a_checksum_that_was_sent_is_verified(
    served: Served, algorithm: ChecksumAlgorithm, digest: bytes
) -> None:
    checksum = Checksum(algorithm, base64.b64encode(digest).decode())
    address = await served.begin()
    part = await served.sign(address, 1, len(BODY), checksum=checksum)
    whole = await served.sign_put("up/b", len(BODY), checksum=checksum)
    wrong = BODY[:-1] + b"?"
    for signed in (part, whole):
        refused = await served.send(signed, wrong)
        assert (refused.status_code, _code(refused.text)) == (400, "BadDigest")
    assert await served.store.list_parts(address) == []
    assert await served.store.head(Address("files", "up/b")) is None
    for signed in (part, whole):
        assert (await served.send(signed, BODY)).status_code == 200


# --- conditional PUT --------------------------------------------------------------------------------------------------


async def test_an_object_is_not_overwritten_and_that_is_known_before_the_body(served: Served) -> None:
    await served.put_object("up/a", BODY)
    connection = await served.connect(await served.sign_put("up/a", 100), length=100)
    assert await connection.status() == 412
    assert b"PreconditionFailed" in await connection.error()


async def test_of_two_puts_at_once_the_first_to_end_wins(served: Served) -> None:
    signed = await served.sign_put("up/a", 5)
    slow, fast = await served.connect(signed, length=5), await served.connect(signed, length=5)
    await slow.send(b"slo")
    await until(lambda: len(served.writers) == 2)
    await fast.send(b"fast!")
    assert await fast.status() == 200
    await slow.send(b"w!")
    assert await slow.status() == 412
    assert await served.content() == b"fast!"
    await until(lambda: not served.writers)
    assert len(files_below(served.root)) == 2


# --- bodies that do not arrive ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [3_000_000, None], ids=["at its offset", "in a file of its own"])
async def test_a_cut_connection_leaves_no_part(served: Served, length: int | None) -> None:
    address = await served.begin()
    before = files_below(served.root)
    connection = await served.connect(await served.sign(address, 1, length), length=3_000_000)
    await connection.send(bytes(2_999_999))
    await until(lambda: len(served.writers) == 1)
    await connection.close()
    await until(lambda: not served.writers)
    assert await served.store.list_parts(address) == []
    assert files_below(served.root) == before


async def test_a_cut_connection_leaves_no_object(served: Served) -> None:
    connection = await served.connect(await served.sign_put("up/a", 3_000_000), length=3_000_000)
    await connection.send(bytes(2_999_999))
    await until(lambda: len(served.writers) == 1)
    await connection.close()
    await until(lambda: not served.writers)
    assert await served.store.head(Address("files", "up/a")) is None
    assert files_below(served.root) == set()


async def test_an_idle_body_is_cut(tmp_path: Path) -> None:
    async with serving(tmp_path / "store", idle_timeout=0.05) as served:
        address = await served.begin()
        connection = await served.connect(await served.sign(address, 1, 100), length=100)
        await connection.send(b"half")
        assert await connection.status() == 408
        assert b"RequestTimeout" in await connection.error()
        assert await served.store.list_parts(address) == []


async def test_a_body_that_ends_early_without_http_noticing_is_incomplete(served: Served) -> None:
    """A server in front that does not frame bodies strictly: the store counts for itself."""
    address = await served.begin()
    signed = await served.sign(address, 1, 100)
    status, body = await _call(served, signed.url, length=100, messages=[{"body": b"short"}])
    assert (status, _code(body.decode())) == (400, "IncompleteBody")
    status, body = await _call(served, signed.url, length=100, messages=[{"body": b"l" * 101}])
    assert (status, _code(body.decode())) == (400, "IncompleteBody")
    assert await served.store.list_parts(address) == []


# --- while a body is on its way ---------------------------------------------------------------------------------------


async def test_a_slow_disk_stops_neither_the_loop_nor_makes_the_body_pile_up(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = await served.begin()
    signed = await served.sign(address, 1, 64 * 1024 * 1024)
    asleep, wake, write = threading.Event(), threading.Event(), os.pwritev

    def slow(descriptor: int, chunks: Sequence[bytes], offset: int) -> int:
        asleep.set()
        assert wake.wait(20)
        return write(descriptor, chunks, offset)

    taken = 0
    chunk = bytes(64 * 1024)

    async def receive() -> dict[str, Any]:
        nonlocal taken
        taken += len(chunk)
        return {"type": "http.request", "body": chunk, "more_body": taken < 64 * 1024 * 1024}

    monkeypatch.setattr(os, "pwritev", slow)
    sending = asyncio.create_task(_call(served, signed.url, length=64 * 1024 * 1024, receive=receive))
    await until(asleep.is_set)
    monkeypatch.undo()
    await served.put_part(address, 2, b"meanwhile", offset=None)
    assert taken <= 3 * 1024 * 1024
    wake.set()
    assert (await sending)[0] == 200
    assert stored_sizes(await served.store.list_parts(address)) == [(1, 64 * 1024 * 1024), (2, 9)]


async def test_a_body_of_single_bytes_is_taken(served: Served) -> None:
    address = await served.begin()
    signed = await served.sign(address, 1, 1000)
    messages = [{"body": bytes([n % 256]), "more_body": n < 999} for n in range(1000)]
    status, _ = await _call(served, signed.url, length=1000, messages=messages)
    await served.complete(address)
    assert status == 200
    assert await served.content() == bytes(n % 256 for n in range(1000))


async def test_no_query_string_is_logged(
    served: Served, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG, logger="uploadcore")
    for name in ("uvicorn", "uvicorn.access"):  # as they are in a process that has not configured our service's logging
        caplog.set_level(logging.DEBUG, logger=name)
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)
        monkeypatch.setattr(logging.getLogger(name), "disabled", False)
    address = await served.begin()
    signed = await served.sign(address, 1, 1)
    await served.send(signed, b"1")
    await served.send(await served.sign_get("up/nothing"))
    (served.root / "multiparts" / (address.storage_upload_id or "") / "data").unlink()
    assert (await served.send(signed, b"1")).status_code == 503
    mine = [record for record in caplog.records if record.name.startswith("uploadcore")]
    assert mine, "a disk that fails is told"
    said = "".join(logging.Formatter().format(record) for record in caplog.records if "httpx" not in record.name)
    assert "PUT /data/files/" in said, "the server's own access log is among them"
    for secret in ("signature=", "upload="):
        assert secret not in said


async def test_a_disk_that_fails_is_503(served: Served) -> None:
    address = await served.begin()
    (served.root / "multiparts" / (address.storage_upload_id or "") / "data").unlink()
    answer = await served.send(await served.sign(address, 1, 1), b"1")
    assert (answer.status_code, _code(answer.text)) == (503, "ServiceUnavailable")


async def test_a_closed_store_is_503(served: Served) -> None:
    signed = await served.sign(await served.begin(), 1, 1)
    await served.store.close()
    assert (await served.send(signed, b"1")).status_code == 503


# --- CORS -------------------------------------------------------------------------------------------------------------


async def test_a_page_of_any_origin_may_send_and_read_the_etag(served: Served) -> None:
    signed = await served.sign_put("up/a", 1)
    asked = {
        "Origin": "https://app.example",
        "Access-Control-Request-Method": "PUT",
        "Access-Control-Request-Headers": ",".join(signed.headers),
    }
    preflight = await served.client.options(signed.url, headers=asked)
    answer = await served.send(signed, b"1", Origin="https://app.example")
    assert preflight.status_code == 204
    assert "PUT" in preflight.headers["access-control-allow-methods"]
    assert preflight.headers["access-control-allow-headers"] == "*"
    for headers in (preflight.headers, answer.headers):
        assert headers["access-control-allow-origin"] == "*"
        assert headers["access-control-expose-headers"] == "ETag, x-amz-checksum-crc64nvme"


async def _call(
    served: Served,
    url: str,
    *,
    length: int,
    messages: Sequence[dict[str, Any]] = (),
    receive: Any = None,
) -> tuple[int, bytes]:
    """Call the application as a server would, with the messages a real one would not send."""
    split = urlsplit(url)
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "PUT",
        "path": split.path,
        "query_string": split.query.encode(),
        "headers": [(b"content-length", str(length).encode())],
    }
    coming = iter(messages)
    sent: list[dict[str, Any]] = []

    async def default_receive() -> dict[str, Any]:
        return {"type": "http.request", **next(coming)}

    async def send(message: Any) -> None:
        sent.append(message)

    await data_app(served.store)(scope, receive or default_receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])
