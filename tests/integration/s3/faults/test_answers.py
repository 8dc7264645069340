"""Errors: which are definite, which are asked again, what they tell a person, and what they may not tell."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.integration.s3.faults.scripted import (
    Answer,
    Script,
    ScriptedS3,
    edits,
    edits_body,
    element,
    error,
    floods,
    refuses,
    resets,
    says,
    says_nothing,
    scripted_s3,
    then,
)
from tests.integration.s3.faults.stores import BUCKET, HEADERS, Bench, at_most, refused
from uploadcore.errors import (
    InvalidRequestError,
    NoSuchMultipartError,
    StorageFullError,
    StoreUnavailableError,
)
from uploadcore.ports import MARKER
from uploadcore.upload import Address
from uploadcore_s3.configuration import Timeouts

OBJECT = Address(BUCKET, "up/a", "storage-1")
IDEMPOTENT: dict[str, Callable[[Bench], Awaitable[object]]] = {
    "list_parts": lambda bench: bench.store.list_parts(OBJECT),
    "abort": lambda bench: bench.store.abort_multipart(OBJECT),
    "list_multiparts": lambda bench: bench.multiparts("up/"),
    "head": lambda bench: bench.store.head(OBJECT),
    "delete": lambda bench: bench.store.delete(OBJECT),
    "put": lambda bench: bench.store.put_marker(OBJECT, HEADERS),
}
"""Calls that may be made again, by the operation the server sees."""
EVERY: dict[str, Callable[[Bench], Awaitable[object]]] = {**IDEMPOTENT, "create": lambda bench: bench.begin()}
EACH = pytest.mark.parametrize(("operation", "call"), IDEMPOTENT.items(), ids=IDEMPOTENT)

PASSING: dict[str, Script] = {
    "slow_down": refuses(503, "SlowDown"),
    "500": refuses(500, "InternalError"),
    "html_502": says(Answer(502, b"<html>Bad Gateway</html>", {"Content-Type": "text/html"})),
    "429_without_a_body": says(Answer(429)),
    "no_answer": says_nothing,
    "reset": resets,
}


@EACH
@pytest.mark.parametrize("script", PASSING.values(), ids=PASSING)
async def test_what_passes_is_asked_again(
    bench_of: Callable[..., Any],
    far: ScriptedS3,
    operation: str,
    call: Callable[[Bench], Awaitable[object]],
    script: Script,
) -> None:
    bench: Bench = await bench_of(timeouts=Timeouts(retries=10.0))
    await bench.begin()
    far.script(operation, script)

    async with at_most(20):
        await call(bench)

    assert far.count(operation) == 2


@pytest.mark.parametrize("times", [3])
async def test_a_store_that_says_slow_down_is_asked_again_within_the_budget_and_no_longer(
    bench_of: Callable[..., Any], far: ScriptedS3, times: int
) -> None:
    bench: Bench = await bench_of(timeouts=Timeouts(retries=3.0))
    far.always("head", refuses(503, "SlowDown"))

    async with at_most(20):
        raised = await refused(bench.store.head(OBJECT), StoreUnavailableError, far.secrets)

    assert 1 < far.count("head") < 50
    assert raised.message


@pytest.mark.parametrize("script", PASSING.values(), ids=PASSING)
async def test_creation_is_never_asked_for_again(bench: Bench, far: ScriptedS3, script: Script) -> None:
    far.script("create", script)
    async with at_most(20):
        await refused(bench.begin(), StoreUnavailableError, far.secrets)
    assert far.count("create") == 1


@pytest.mark.parametrize(
    "script",
    [
        then(says(Answer(200))),
        then(says(Answer(200, b"<html/>", {"Content-Type": "text/html"}))),
        edits(lambda answer: Answer(200, answer.body.replace(b"UploadId>", b"Other>"))),
        edits(lambda answer: Answer(200, answer.body.replace(b"storage-1", b""))),
        says(error(200, "InternalError")),
    ],
    ids=["no_body", "html", "no_upload_id", "empty_upload_id", "an_error"],
)
async def test_a_creation_that_names_no_upload_is_no_creation(bench: Bench, far: ScriptedS3, script: Script) -> None:
    far.script("create", script)
    await refused(bench.begin(), StoreUnavailableError, far.secrets)
    assert far.count("create") == 1


@pytest.mark.parametrize("code", ["InvalidArgument", "InvalidURI", "KeyTooLongError", "MetadataTooLarge"])
async def test_a_creation_definitely_refused_is_the_callers_fault(bench: Bench, far: ScriptedS3, code: str) -> None:
    far.script("create", refuses(400, code, "that can't be"))
    raised = await refused(bench.begin(), InvalidRequestError, far.secrets)
    assert code in raised.message


@pytest.mark.parametrize(
    "code",
    [
        "InvalidRequest",
        "KMS.DisabledException",
        "KMS.NotFoundException",
        "InvalidBucketState",
        "ServerSideEncryptionConfigurationNotFoundError",
        "ThrottlingException",
        "TokenRefreshRequired",
        "WhateverComesNext",
    ],
)
async def test_a_creation_refused_for_what_the_operator_can_mend_may_be_tried_again(
    bench: Bench, far: ScriptedS3, code: str
) -> None:
    far.script("create", refuses(400, code, "not as things are"))
    raised = await refused(bench.begin(), StoreUnavailableError, far.secrets)
    assert code in raised.message
    await bench.begin()


async def test_a_creation_refused_by_something_else_than_the_store_may_be_tried_again(
    bench: Bench, far: ScriptedS3
) -> None:
    page = b"<html><title>400 The plain HTTP request was sent to HTTPS port</title></html>"
    far.script("create", says(Answer(400, page, {"Content-Type": "text/html"})))
    raised = await refused(bench.begin(), StoreUnavailableError, far.secrets)
    assert "HTTPS port" not in raised.message
    await bench.begin()


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (507, "InsufficientStorage"),
        (507, "XMinioStorageFull"),
        (403, "QuotaExceeded"),
        (409, "XMinioAdminBucketQuotaExceeded"),
    ],
)
async def test_no_room_is_told_as_such(bench: Bench, far: ScriptedS3, status: int, code: str) -> None:
    far.always("create", refuses(status, code))
    await refused(bench.begin(), StorageFullError, far.secrets)


# --- what has to be put right by somebody -----------------------------------------------------------------------------

FOR_THE_OPERATOR = [
    (error(403, "AccessDenied"), "AccessDenied"),
    (error(403, "InvalidAccessKeyId"), "InvalidAccessKeyId"),
    (error(403, "SignatureDoesNotMatch"), "SignatureDoesNotMatch"),
    (error(403, "RequestTimeTooSkewed"), "clock"),
    (error(404, "NoSuchBucket"), "bucket"),
    (error(400, "AuthorizationHeaderMalformed"), "region"),
    (error(400, "ExpiredToken"), "expired"),
    (error(301, "PermanentRedirect"), "region"),
]


@pytest.mark.parametrize("operation", ["list_parts", "create", "list_multiparts", "abort"])
@pytest.mark.parametrize(("answer", "word"), FOR_THE_OPERATOR, ids=lambda each: each if isinstance(each, str) else None)
async def test_an_error_of_configuration_is_told_and_not_asked_again(
    bench: Bench, far: ScriptedS3, operation: str, answer: Answer, word: str
) -> None:
    far.always(operation, says(answer))

    raised = await refused(EVERY[operation](bench), StoreUnavailableError, far.secrets)

    assert word.lower() in raised.message.lower()
    assert far.count(operation) == 1


async def test_what_the_store_echoes_of_the_signature_is_not_told(bench: Bench, far: ScriptedS3) -> None:
    """S3 API, SignatureDoesNotMatch: the answer repeats signature and string to sign."""
    echoed = "0123456789abcdef" * 4

    far.always(
        "list_parts",
        refuses(
            403,
            "SignatureDoesNotMatch",
            "The request signature we calculated does not match",
            element("SignatureProvided", echoed),
            element("StringToSign", f"AWS4-HMAC-SHA256 {echoed}"),
        ),
    )
    far.secrets.add(echoed)
    await refused(bench.store.list_parts(OBJECT), StoreUnavailableError, far.secrets)


@pytest.mark.parametrize(
    "headers",
    [{}, {"Location": "http://{host}/media/up/a"}],
    ids=["without_location", "with_location"],
)
@pytest.mark.parametrize("status", [301, 302, 307, 308])
@pytest.mark.parametrize("operation", ["list_parts", "create", "head", "put", "complete"])
async def test_a_redirect_is_never_followed(
    bench: Bench, far: ScriptedS3, operation: str, status: int, headers: dict[str, str]
) -> None:
    address, parts = await bench.sent()
    asked = len(far.calls)
    with scripted_s3() as elsewhere:
        host = elsewhere.url.removeprefix("http://")
        far.always(
            operation,
            refuses(
                status,
                "PermanentRedirect" if status == 301 else "TemporaryRedirect",
                "The bucket must be addressed using the specified endpoint",
                element("Endpoint", host),
                element("Region", "eu-central-1"),
                x_amz_bucket_region="eu-central-1",
                **{name: value.format(host=host) for name, value in headers.items()},
            ),
        )
        call = bench.complete(address, parts) if operation == "complete" else EVERY[operation](bench)
        async with at_most(20):
            raised = await refused(call, StoreUnavailableError, far.secrets)
        assert elsewhere.calls == []
    assert "redirect" in raised.message.lower() or "region" in raised.message.lower()
    assert {seen.operation for seen in far.calls[asked:]} == {operation}


# --- what is not XML, or too much of it -------------------------------------------------------------------------------

BOMB = (
    b'<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">'
    b'<!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;">]>'
)


@pytest.mark.parametrize("declared", [BOMB, b'<!DOCTYPE x [<!ENTITY c SYSTEM "file:///etc/hostname">]>'])
@pytest.mark.parametrize("operation", ["create", "list_parts", "list_multiparts", "complete"])
async def test_documents_with_entities_are_refused(
    bench: Bench, far: ScriptedS3, operation: str, declared: bytes
) -> None:
    address, parts = await bench.sent()

    def with_entity(answer: Answer) -> Answer:
        body = answer.body[answer.body.index(b"?>") + 2 :].strip()
        return Answer(200, declared + body.replace(b"</Key>", b"&c;</Key>", 1).replace(b"storage-1", b"&c;"))

    far.always(operation, edits(with_entity))
    call = bench.complete(address, parts) if operation == "complete" else EVERY[operation](bench)
    async with at_most(20):
        raised = await refused(call, StoreUnavailableError, far.secrets)
    assert "aaaa" not in raised.message


@pytest.mark.parametrize("operation", ["list_parts", "create", "complete", "list_multiparts"])
@pytest.mark.parametrize("status", [200, 403, 500])
async def test_a_body_without_end_is_not_read_to_its_end(
    bench: Bench, far: ScriptedS3, operation: str, status: int
) -> None:
    address, parts = await bench.sent()
    size = 1024**3
    far.always(operation, floods(size, status))
    call = bench.complete(address, parts) if operation == "complete" else EVERY[operation](bench)
    async with at_most(60):
        await refused(call, StoreUnavailableError, far.secrets)
    assert far.written < 64 * 1024**2


@pytest.mark.parametrize("status", [403, 404, 500])
async def test_an_error_that_is_not_xml_is_told_in_a_sentence(bench: Bench, far: ScriptedS3, status: int) -> None:
    page = b"<!DOCTYPE html><html><head><title>Proxy</title></head><body>" + b"secret internals " * 10_000
    far.always("list_parts", says(Answer(status, page, {"Content-Type": "text/html"})))
    async with at_most(20):
        raised = await refused(bench.store.list_parts(OBJECT), StoreUnavailableError, far.secrets)
    assert "internals" not in raised.message


# --- objects ----------------------------------------------------------------------------------------------------------


async def test_head_tells_what_stands_there(bench: Bench) -> None:
    assert await bench.store.head(OBJECT) is None
    await bench.store.put_marker(OBJECT, HEADERS)
    head = await bench.store.head(OBJECT)
    assert head is not None
    assert (head.size, head.content_type, head.metadata) == (0, "video/mp4", {MARKER: "upload-1"})


@pytest.mark.parametrize(
    "etag", [None, "", "unquoted", '"quoted"', 'W/"weak"'], ids=["none", "empty", "unquoted", "quoted", "weak"]
)
async def test_head_answers_whatever_the_etag_is(bench: Bench, far: ScriptedS3, etag: str | None) -> None:
    await bench.store.put_marker(OBJECT, HEADERS)

    def with_etag(answer: Answer) -> Answer:
        rest = {name: value for name, value in answer.headers.items() if name != "ETag"}
        return Answer(200, headers=rest if etag is None else {**rest, "ETag": etag})

    far.always("head", edits(with_etag))
    head = await bench.store.head(OBJECT)
    assert head is not None
    assert head.metadata[MARKER] == "upload-1"


async def test_head_of_what_is_not_there_is_absent_only_where_the_store_says_so(bench: Bench, far: ScriptedS3) -> None:
    """S3 API, HeadObject: without permission to list, a missing object is 403: that says nothing of the object."""
    far.script("head", says(Answer(404)))
    assert await bench.store.head(OBJECT) is None

    far.script("head", says(Answer(403)))
    raised = await refused(bench.store.head(OBJECT), StoreUnavailableError, far.secrets)

    assert "403" in raised.message or "denied" in raised.message.lower()
    assert far.count("head") == 2


async def test_head_of_a_missing_bucket_is_not_an_absent_object(bench: Bench, far: ScriptedS3) -> None:
    """A HEAD has no body: the code is told in a header by some (MinIO `x-minio-error-code`), and by most not at all."""
    far.script("head", says(Answer(404, headers={"x-minio-error-code": "NoSuchBucket"})))
    await refused(bench.store.head(OBJECT), StoreUnavailableError, far.secrets)


@pytest.mark.parametrize(
    "script", [says(Answer(204)), says(Answer(200)), refuses(404, "NoSuchKey")], ids=["204", "200", "404"]
)
async def test_deleting_what_is_not_there_is_no_error(bench: Bench, far: ScriptedS3, script: Script) -> None:
    far.script("delete", script)
    await bench.store.delete(OBJECT)
    assert far.count("delete") == 1


@pytest.mark.parametrize(
    "script",
    [refuses(403, "AccessDenied"), refuses(404, "NoSuchBucket"), says(Answer(404, b"<html>Not Found</html>"))],
    ids=["403", "no bucket", "a proxy's 404"],
)
async def test_a_delete_that_is_refused_is_an_error(bench: Bench, far: ScriptedS3, script: Script) -> None:
    far.always("delete", script)
    await refused(bench.store.delete(OBJECT), StoreUnavailableError, far.secrets)


@pytest.mark.parametrize("told", ["none", "rosUhgp5mIg=-2", "AAAA"])
async def test_a_checksum_that_can_not_be_one_of_the_bytes_is_none(
    bench_of: Callable[..., Any], far: ScriptedS3, told: str
) -> None:
    bench: Bench = await bench_of(capabilities="aws")
    address, parts = await bench.sent()
    far.always("list_parts", edits_body("</Size>", f"</Size><ChecksumCRC64NVME>{told}</ChecksumCRC64NVME>"))
    assert [part.checksum for part in await bench.store.list_parts(address)] == [None, None]
    await bench.complete(address, parts)
    header = {"x-amz-checksum-crc64nvme": told}
    far.always("head", edits(lambda answer: replace(answer, headers={**answer.headers, **header})))

    found = await bench.store.head(address)

    assert found is not None
    assert (found.size, found.checksum) == (9, None)


@pytest.mark.parametrize(
    "script", [says(Answer(204)), says(Answer(200)), refuses(404, "NoSuchUpload")], ids=["204", "200", "404"]
)
async def test_aborting_what_is_not_there_is_no_error(bench: Bench, far: ScriptedS3, script: Script) -> None:
    far.script("abort", script)
    await bench.store.abort_multipart(OBJECT)
    assert far.count("abort") == 1


async def test_an_abort_that_keeps_failing_is_an_error(bench_of: Callable[..., Any], far: ScriptedS3) -> None:
    bench: Bench = await bench_of(timeouts=Timeouts(retries=0.5))
    far.always("abort", refuses(500, "InternalError"))
    async with at_most(20):
        await refused(bench.store.abort_multipart(OBJECT), StoreUnavailableError, far.secrets)


@pytest.mark.parametrize("call", ["list_parts", "abort"])
async def test_a_404_of_something_else_is_not_an_unknown_upload(bench: Bench, far: ScriptedS3, call: str) -> None:
    """The body says which: a bucket that is gone has not lost this upload alone."""
    far.always(call, refuses(404, "NoSuchBucket"))
    await refused(IDEMPOTENT[call](bench), StoreUnavailableError, far.secrets)
    far.always(call, refuses(404, "NoSuchUpload"))
    if call == "list_parts":
        await refused(IDEMPOTENT[call](bench), NoSuchMultipartError, far.secrets)
    else:
        await IDEMPOTENT[call](bench)
