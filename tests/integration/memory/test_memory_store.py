"""What the memory store shows to a test, and answers beyond the contract."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from uploadcore.errors import InvalidRequestError, NoSuchMultipartError, PartsRejectedError
from uploadcore.file import Checksum, ChecksumAlgorithm
from uploadcore.plan import Part, StoredPart
from uploadcore.ports import AdapterContext, ObjectHeaders, SignedRequest
from uploadcore.upload import Address
from uploadcore_memory import (
    MEMORY_CAPABILITIES,
    MEMORY_LIMITS,
    ManualClock,
    MemoryObjectStore,
    RefusedError,
    checksum_of,
    store_from_url,
)

HEADERS = ObjectHeaders("text/plain", {"uploadcore-upload": "u"})
MINUTE = timedelta(minutes=1)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def store(clock: ManualClock) -> MemoryObjectStore:
    return MemoryObjectStore(clock=clock)


async def begin(store: MemoryObjectStore, key: str = "k") -> Address:
    return Address("memory", key, await store.create_multipart(Address("memory", key), HEADERS))


async def sign(
    store: MemoryObjectStore, address: Address, *parts: Part, checksums: Mapping[int, Checksum] | None = None
) -> list[SignedRequest]:
    return await store.presign_parts(address, parts, checksums=checksums or {}, expires_in=MINUTE)


async def complete(store: MemoryObjectStore, address: Address, *bodies: bytes) -> list[SignedRequest]:
    signed = await sign(store, address, *(Part(n, 0, None) for n in range(1, len(bodies) + 1)))
    for request, body in zip(signed, bodies, strict=True):
        assert (await store.put(request, body)).status == 200
    listed = await store.list_parts(address)
    await store.complete_multipart(address, listed, size=len(b"".join(bodies)), checksum=None)
    return signed


async def test_a_stored_part_is_answered_with_etag_and_checksum(store: MemoryObjectStore) -> None:
    address = await begin(store)
    [signed] = await sign(store, address, Part(1, 0, 9))
    response = await store.put(signed, b"123456789")
    [part] = await store.list_parts(address)
    assert response.status == 200
    assert dict(response.headers) == {"etag": part.etag, "x-amz-checksum-crc64nvme": "rosUhgp5mIg="}
    assert part == StoredPart(1, 9, part.etag, checksum_of(b"123456789"))


async def test_refusals_are_s3s(store: MemoryObjectStore, clock: ManualClock) -> None:
    address = await begin(store)
    checksum = checksum_of(b"right", ChecksumAlgorithm.SHA256)
    [signed] = await sign(store, address, Part(1, 0, 5), checksums={1: checksum})
    tampered = signed._replace(url=signed.url.replace("partNumber=1", "partNumber=2"))
    single = await store.presign_put(
        Address("memory", "other"), Part(1, 0, 5), HEADERS, checksum=None, expires_in=MINUTE
    )
    dead = await begin(store)
    [of_dead] = await sign(store, dead, Part(1, 0, 5))
    store.lose(dead)
    [beyond] = await sign(store, address, Part(10_001, 0, 5))

    assert (await store.put(tampered, b"right")).status == 403
    assert (await store.put(signed, b"right", {"x-amz-checksum-sha256": "other"})).status == 403
    assert (await store.put(signed, b"right", {"x-amz-acl": "public-read"})).status == 403
    assert (await store.put(signed, b"short"[:4])).status == 400
    assert (await store.put(signed, b"wrong")).status == 400
    assert (await store.put(beyond, b"right")).status == 400
    assert (await store.put(of_dead, b"right")).status == 404
    assert (await store.put(single, b"right")).status == 200
    assert (await store.put(single, b"again")).status == 412
    assert (await store.get(signed)).status == 403
    clock.advance(60)
    expired = await store.put(signed, b"right")
    assert expired.status == 403
    assert b"expired" in expired.body
    assert await store.list_parts(address) == []
    assert store.objects == {"other": b"right"}


async def test_a_url_of_another_store_is_refused(store: MemoryObjectStore) -> None:
    other = MemoryObjectStore("other")
    await complete(store, await begin(store), b"bytes")
    signed = await store.presign_get(Address("memory", "k"), filename="f", content_type="a/b", expires_in=MINUTE)
    assert (await other.get(signed)).status == 403
    assert (await other.get(signed._replace(url=signed.url.replace("memory://memory", "memory://other")))).status == 403


async def test_a_body_larger_than_a_part_may_be_is_refused() -> None:
    store = MemoryObjectStore(limits=replace(MEMORY_LIMITS, max_part_size=4, max_object_size=100))
    [signed] = await sign(store, await begin(store), Part(1, 0, None))
    assert (await store.put(signed, b"12345")).status == 400
    assert (await store.put(signed, b"1234")).status == 200


async def test_fetch_returns_bytes_or_raises_what_was_answered(store: MemoryObjectStore) -> None:
    await complete(store, await begin(store), b"by", b"tes")
    signed = await store.presign_get(Address("memory", "k"), filename="f", content_type="a/b", expires_in=MINUTE)
    assert await store.fetch(signed) == b"bytes"
    await store.delete(Address("memory", "k"))
    with pytest.raises(RefusedError, match="404 NoSuchKey") as refused:
        await store.fetch(signed)
    assert refused.value.response.status == 404


async def test_a_test_sees_objects_and_multipart_uploads(store: MemoryObjectStore) -> None:
    address = await begin(store, "a")
    assert (store.objects, store.multiparts) == ({}, {address.storage_upload_id: "a"})
    await complete(store, address, b"bytes")
    assert (store.objects, store.multiparts) == ({"a": b"bytes"}, {})


async def test_a_lost_multipart_upload_is_unknown(store: MemoryObjectStore) -> None:
    address = await begin(store)
    store.lose(address)
    store.lose(address)
    with pytest.raises(NoSuchMultipartError):
        await store.list_parts(address)


async def test_without_late_parts_refused_a_late_part_changes_the_object() -> None:
    store = MemoryObjectStore(capabilities=replace(MEMORY_CAPABILITIES, late_parts_refused=False))
    signed = await complete(store, await begin(store), b"one", b"two")
    assert (await store.put(signed[1], b"TWO")).status == 200
    assert store.objects == {"k": b"oneTWO"}
    await store.delete(Address("memory", "k"))
    assert (await store.put(signed[1], b"two")).status == 200
    assert store.objects == {}, "it does not bring a deleted object back"


async def test_without_conditional_put_none_is_signed() -> None:
    store = MemoryObjectStore(capabilities=replace(MEMORY_CAPABILITIES, conditional_put=False))
    with pytest.raises(InvalidRequestError):
        await store.presign_put(Address("memory", "k"), Part(1, 0, 1), HEADERS, checksum=None, expires_in=MINUTE)


async def test_another_bucket_is_refused(store: MemoryObjectStore) -> None:
    with pytest.raises(InvalidRequestError):
        await store.create_multipart(Address("elsewhere", "k"), HEADERS)


async def test_a_completion_of_nothing_twice_the_same_or_another_size_is_rejected(store: MemoryObjectStore) -> None:
    address = await begin(store)
    [signed] = await sign(store, address, Part(1, 0, None))
    await store.put(signed, b"bytes")
    [part] = await store.list_parts(address)
    for parts, size in (([], 0), ([part, part], 10), ([part], 4)):
        with pytest.raises(PartsRejectedError):
            await store.complete_multipart(address, parts, size=size, checksum=None)
    assert store.objects == {}


async def test_a_repeated_completion_of_a_deleted_object_finds_no_upload(store: MemoryObjectStore) -> None:
    address = await begin(store)
    await complete(store, address, b"bytes")
    part = StoredPart(1, 5, '"4b3a6218bb3e3a7303e8a171a60fcf92"')
    await store.complete_multipart(address, [part], size=5, checksum=None)
    await store.delete(address)
    with pytest.raises(NoSuchMultipartError):
        await store.complete_multipart(address, [part], size=5, checksum=None)
    assert store.objects == {}


@pytest.mark.parametrize(("url", "bucket"), [("memory://", "memory"), ("memory://media", "media")])
def test_a_store_is_made_from_a_url(url: str, bucket: str) -> None:
    context = AdapterContext(data_dir=Path("unused"), public_url="http://127.0.0.1:8484")
    assert store_from_url(url, context).bucket == bucket
