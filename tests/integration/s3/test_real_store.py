"""Both stores on a real server: whose credentials, which endpoint, and what is told where something is wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.integration.s3.conftest import RealHttp
from tests.servers.s3 import S3Server
from uploadcore.errors import NoSuchMultipartError, StoreUnavailableError
from uploadcore.plan import Part
from uploadcore.ports import MARKER, ObjectHeaders, StoreCapabilities
from uploadcore.upload import Address
from uploadcore_s3 import Credentials, MinioObjectStore, S3ObjectStore, StoreOptions

HEADERS = ObjectHeaders("video/mp4", {MARKER: "upload-1"})
MINUTE = timedelta(minutes=1)
Store = S3ObjectStore | MinioObjectStore

pytestmark = pytest.mark.parametrize("make", [S3ObjectStore, MinioObjectStore], ids=["s3", "minio"])


@asynccontextmanager
async def opened(make: type[Store], bucket: str, options: StoreOptions) -> AsyncIterator[Store]:
    store = make(bucket, **options)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def sent(store: Store, http: RealHttp, key: str, bodies: tuple[bytes, ...]) -> Address:
    """A multipart upload with these parts sent."""
    begun = Address(store.bucket, key)
    address = Address(store.bucket, key, await store.create_multipart(begun, HEADERS))
    parts = [Part(number, 0, len(body)) for number, body in enumerate(bodies, 1)]
    signed = await store.presign_parts(address, parts, checksums={}, expires_in=MINUTE)
    for request, body in zip(signed, bodies, strict=True):
        assert (await http.request("PUT", request.url, request.headers, body)).status == 200
    return address


async def test_credentials_of_the_environment_sign_and_call(
    make: type[Store], s3_server: S3Server, s3_options: StoreOptions, http: RealHttp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.secret_key)
    async with opened(make, s3_server.new_bucket(), s3_options | StoreOptions(credentials=None)) as store:
        address = await sent(store, http, "up/a", (b"1", b"2"))

        await store.complete_multipart(address, await store.list_parts(address), size=2, checksum=None)

        found = await store.head(address)
        assert found is not None
        assert found.size == 2


async def test_without_credentials_it_does_not_open(
    make: type[Store], s3_options: StoreOptions, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "MINIO_ACCESS_KEY", "MINIO_SECRET_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    # minio-py knows no such switch: it asks here, where nobody listens.
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1:9/")
    store = make("media", **(s3_options | StoreOptions(credentials=None)))

    with pytest.raises(StoreUnavailableError, match="'media' can't be used"):
        await store.open()


async def test_urls_are_for_the_public_endpoint_and_calls_go_to_the_other(
    make: type[Store], s3_server: S3Server, s3_options: StoreOptions, http: RealHttp
) -> None:
    public = f"http://localhost:{urlsplit(s3_server.endpoint).port}"
    async with opened(make, s3_server.new_bucket(), s3_options | StoreOptions(public_endpoint=public)) as store:
        address = await sent(store, http, "up/a", (b"1",))
        [signed] = await store.presign_parts(address, [Part(1, 0, 1)], checksums={}, expires_in=MINUTE)

        assert signed.url.startswith(f"{public}/{store.bucket}/up/a?")
        assert [part.size for part in await store.list_parts(address)] == [1]


async def test_what_the_write_identity_may_not_do_its_urls_do_not(
    make: type[Store], s3_server: S3Server, s3_options: StoreOptions, http: RealHttp
) -> None:
    if s3_server.stranger is None or s3_server.writer is None:
        pytest.skip("this server was given one identity only")
    bucket = s3_server.new_bucket()
    answers: dict[str, Any] = {}
    for name, keys in {"writer": s3_server.writer, "stranger": s3_server.stranger}.items():
        write = Credentials(keys.access_key, keys.secret_key)
        async with opened(make, bucket, s3_options | StoreOptions(write_credentials=write)) as store:
            address = Address(bucket, name, await store.create_multipart(Address(bucket, name), HEADERS))
            [signed] = await store.presign_parts(address, [Part(1, 0, 1)], checksums={}, expires_in=MINUTE)
            answers[name] = (await http.request("PUT", signed.url, signed.headers, b"1")).status

    assert answers["stranger"] == 403
    assert answers["writer"] in {200, 403}, "403: this server lets no one in by a role of ours"


@pytest.mark.parametrize("wrong", ["secret", "bucket"])
async def test_what_is_wrong_is_told_and_no_secret(
    make: type[Store], s3_server: S3Server, s3_options: StoreOptions, wrong: str
) -> None:
    secret = "not-the-secret-at-all"
    options, bucket = s3_options, "uploadcore-no-such-bucket"
    if wrong == "secret":
        options, bucket = s3_options | StoreOptions(credentials=Credentials(s3_server.access_key, secret)), "media"
    async with opened(make, bucket, options) as store:
        with pytest.raises(StoreUnavailableError) as refused:
            await store.create_multipart(Address(bucket, "up/a"), HEADERS)

    advice = {"secret": "the secret key is wrong", "bucket": "there is no such bucket"}[wrong]
    assert advice in refused.value.message
    assert secret not in str(refused.value)
    assert s3_server.access_key not in str(refused.value)


async def test_parts_are_listed_and_completed_whatever_the_size_of_a_page(
    make: type[Store], s3_server: S3Server, s3_options: StoreOptions, http: RealHttp
) -> None:
    async with opened(make, s3_server.new_bucket(), s3_options | StoreOptions(page_size=2)) as store:
        address = await sent(store, http, "up/a", (b"1", b"2", b"3", b"4", b"5"))

        listed = await store.list_parts(address)

        assert [part.part_number for part in listed] == [1, 2, 3, 4, 5]
        await store.complete_multipart(address, listed, size=5, checksum=None)


async def test_a_completed_upload_is_listed_or_forgotten_as_the_store_was_found_to_do(
    make: type[Store],
    s3_server: S3Server,
    s3_options: StoreOptions,
    s3_capabilities: StoreCapabilities,
    http: RealHttp,
) -> None:
    async with opened(make, s3_server.new_bucket(), s3_options) as store:
        address = await sent(store, http, "up/a", (b"1",))
        listed = await store.list_parts(address)
        await store.complete_multipart(address, listed, size=1, checksum=None)

        if s3_capabilities.forgets_completed:
            with pytest.raises(NoSuchMultipartError):
                await store.list_parts(address)
        else:
            assert await store.list_parts(address) == listed
        await store.abort_multipart(address)
        found = await store.head(address)
        assert found is not None, "an abort after completion spares the object"
