"""The contract of an `ObjectStore`."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from email.message import Message
from email.utils import collapse_rfc2231_value
from typing import ClassVar, Protocol
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import pytest

from uploadcore.errors import (
    ChecksumMismatchError,
    NoSuchMultipartError,
    PartsRejectedError,
)
from uploadcore.file import Checksum, ChecksumAlgorithm
from uploadcore.plan import Part, StoredPart
from uploadcore.ports import MARKER, ObjectHeaders, ObjectStore, SignedRequest
from uploadcore.upload import Address

__all__ = ["HttpAnswer", "ObjectStoreContract", "SignedHttp"]

MINUTE = timedelta(minutes=1)
HEADERS = ObjectHeaders(content_type="video/mp4", metadata={MARKER: "upload-1"})
NINE = b"123456789"
CHECKSUMS = {
    ChecksumAlgorithm.CRC64NVME: Checksum(ChecksumAlgorithm.CRC64NVME, "rosUhgp5mIg="),
    ChecksumAlgorithm.CRC32C: Checksum(ChecksumAlgorithm.CRC32C, "4waSgw=="),
    ChecksumAlgorithm.SHA256: Checksum(ChecksumAlgorithm.SHA256, "FeKw08M4keuw8e9gnsQZQgwg4yDOlMZfvIwzEkSOsiU="),
}
"""Of `NINE`. Sources: the check values in NVM Express NVM Command Set 1.0 (5.2.1.3.4) and RFC 3720 (B.4); hashlib."""


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """What the store's endpoint answered. Header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""


class SignedHttp(Protocol):
    """Reaches the store as a client with a signed URL would. With httpx it is four lines."""

    async def request(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> HttpAnswer:
        """Send exactly this, with a `Content-Length` that is the body's. Follow no redirect, retry nothing."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A request that must not succeed."""

    what: str
    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes


class ObjectStoreContract:
    """What every `ObjectStore` does, and what it declares in its `capabilities`. Subclass it and give two fixtures.

    `store`: an opened, empty `ObjectStore`, closed afterwards.

    `http`: a `SignedHttp` that reaches it.

    Override `advance` where the store's clock can be told to go on, and the class attributes where the store is slow.

    Attributes:
        part_counts: How many parts are listed and completed; those beyond `limits.max_parts` are left out.
        open_multiparts: How many multipart uploads are listed at once. More than a page of the store's own.
    """

    part_counts: ClassVar[Sequence[int]] = (1_000, 1_001, 10_000)
    open_multiparts: ClassVar[int] = 1_001

    # --- seams and steps ------------------------------------------------------------------------------------------

    async def advance(self, store: ObjectStore, seconds: float) -> None:
        """Let that much time pass for the store."""
        del store
        await asyncio.sleep(seconds)

    async def send(self, http: SignedHttp, signed: SignedRequest, body: bytes = b"") -> HttpAnswer:
        """Redeem a signed request as it is."""
        return await http.request(signed.method, signed.url, signed.headers, body)

    async def begin(self, store: ObjectStore, key: str = "up/a", headers: ObjectHeaders = HEADERS) -> Address:
        """A multipart upload in progress."""
        address = Address(store.bucket, key)
        return Address(store.bucket, key, await store.create_multipart(address, headers))

    async def sign(
        self, store: ObjectStore, address: Address, number: int, length: int | None, checksum: Checksum | None = None
    ) -> SignedRequest:
        """A signed PUT of one part."""
        offset = (number - 1) * (length or 0)
        checksums = {} if checksum is None else {number: checksum}
        [signed] = await store.presign_parts(
            address, [Part(number, offset, length)], checksums=checksums, expires_in=MINUTE
        )
        return signed

    async def sign_put(
        self, store: ObjectStore, key: str, length: int, checksum: Checksum | None = None
    ) -> SignedRequest:
        """A signed PUT of a whole object."""
        address = Address(store.bucket, key)
        return await store.presign_put(address, Part(1, 0, length), HEADERS, checksum=checksum, expires_in=MINUTE)

    async def sign_get(self, store: ObjectStore, key: str, filename: str = "trip.mp4") -> SignedRequest:
        """A signed GET of an object."""
        address = Address(store.bucket, key)
        return await store.presign_get(address, filename=filename, content_type="video/mp4", expires_in=MINUTE)

    async def put_parts(
        self, store: ObjectStore, http: SignedHttp, address: Address, bodies: Mapping[int, bytes]
    ) -> list[StoredPart]:
        """Send parts, in the order given; what is listed then."""
        for number, body in bodies.items():
            answer = await self.send(http, await self.sign(store, address, number, len(body)), body)
            assert 200 <= answer.status < 300, answer
        return await store.list_parts(address)

    async def content(self, store: ObjectStore, http: SignedHttp, key: str = "up/a") -> bytes:
        """The bytes of an object, as a client gets them."""
        answer = await self.send(http, await self.sign_get(store, key))
        assert answer.status == 200, answer
        return answer.body

    async def put_object(self, store: ObjectStore, http: SignedHttp, key: str, body: bytes) -> None:
        """An object, brought by a multipart upload of one part."""
        address = await self.begin(store, key)
        listed = await self.put_parts(store, http, address, {1: body})
        await store.complete_multipart(address, listed, size=len(body), checksum=None)

    def bodies(self, store: ObjectStore) -> tuple[bytes, bytes, bytes]:
        """Three different parts of which the last is short, as small as the store takes them."""
        size = max(store.limits.min_part_size, 3)
        return b"a" * size, b"b" * size, b"c"

    # --- multipart: the whole way ---------------------------------------------------------------------------------

    async def test_parts_sent_in_any_order_make_the_object(self, store: ObjectStore, http: SignedHttp) -> None:
        first, second, third = self.bodies(store)
        address = await self.begin(store)
        listed = await self.put_parts(store, http, address, {3: third, 1: first, 2: second})
        assert [(part.part_number, part.size) for part in listed] == [
            (1, len(first)),
            (2, len(second)),
            (3, len(third)),
        ]
        assert all(part.etag for part in listed)
        assert await store.head(address) is None, "nothing stands before it is completed"

        whole = first + second + third
        await store.complete_multipart(address, listed, size=len(whole), checksum=None)

        head = await store.head(address)
        assert head is not None
        assert (head.size, head.content_type, head.metadata[MARKER]) == (len(whole), "video/mp4", "upload-1")
        assert head.etag
        assert await self.content(store, http) == whole

    async def test_one_empty_part_makes_an_empty_object(self, store: ObjectStore, http: SignedHttp) -> None:
        address = await self.begin(store)
        listed = await self.put_parts(store, http, address, {1: b""})
        assert [(part.part_number, part.size) for part in listed] == [(1, 0)]
        await store.complete_multipart(address, listed, size=0, checksum=None)
        head = await store.head(address)
        assert head is not None
        assert head.size == 0
        assert await self.content(store, http) == b""

    async def test_each_creation_makes_another_multipart_upload(self, store: ObjectStore, http: SignedHttp) -> None:
        one, other = await self.begin(store), await self.begin(store)
        assert one.storage_upload_id != other.storage_upload_id
        await self.put_parts(store, http, one, {1: b"1"})
        await self.put_parts(store, http, other, {1: b"other", 2: b"2"})
        assert [part.size for part in await store.list_parts(one)] == [1]
        assert [part.size for part in await store.list_parts(other)] == [5, 1]

    async def test_a_part_sent_again_takes_the_place(self, store: ObjectStore, http: SignedHttp) -> None:
        address = await self.begin(store)
        [before] = await self.put_parts(store, http, address, {1: b"before, and longer"})
        [after] = await self.put_parts(store, http, address, {1: b"after"})
        assert after.size == 5
        assert after.etag != before.etag
        await store.complete_multipart(address, [after], size=5, checksum=None)
        assert await self.content(store, http) == b"after"

    async def test_many_parts_are_listed_in_order_and_completed(self, store: ObjectStore, http: SignedHttp) -> None:
        for count in (count for count in self.part_counts if count <= store.limits.max_parts):
            key = f"up/{count}"
            address = await self.begin(store, key)
            body = {number: bytes([number % 251]) for number in range(1, count + 1)}
            plan = [Part(number, number - 1, 1) for number in body]
            signed = await store.presign_parts(address, plan, checksums={}, expires_in=timedelta(minutes=15))
            for first in range(0, count, 50):
                numbers = range(first + 1, min(first + 50, count) + 1)
                answers = await asyncio.gather(
                    *(self.send(http, signed[number - 1], body[number]) for number in numbers)
                )
                assert {answer.status for answer in answers} == {200}
            listed = await store.list_parts(address)
            assert [part.part_number for part in listed] == list(body)
            assert {part.size for part in listed} == {1}
            if store.limits.min_part_size == 1:
                await store.complete_multipart(address, listed, size=count, checksum=None)
                assert await self.content(store, http, key) == b"".join(body.values())

    @pytest.mark.parametrize(
        "key", ["a", "a/b/c/d", "with space/plus+and=equals", "per%20cent&question?", "up/a/", "dot.."]
    )
    async def test_a_key_is_only_a_name(self, store: ObjectStore, http: SignedHttp, key: str) -> None:
        await self.put_object(store, http, key, b"bytes")
        assert await self.content(store, http, key) == b"bytes"
        for other in (f"{key}x", key[:-1] or "b"):
            assert await store.head(Address(store.bucket, other)) is None

    # --- completion -----------------------------------------------------------------------------------------------

    async def test_only_the_parts_named_are_assembled(self, store: ObjectStore, http: SignedHttp) -> None:
        first, second, stray = self.bodies(store)
        address = await self.begin(store)
        named = await self.put_parts(store, http, address, {1: first, 2: second})
        await self.put_parts(store, http, address, {3: stray})
        await store.complete_multipart(address, named, size=len(first + second), checksum=None)
        assert await self.content(store, http) == first + second

    async def test_parts_that_are_not_as_named_are_rejected_and_nothing_is_assembled(
        self, store: ObjectStore, http: SignedHttp
    ) -> None:
        first, second, third = self.bodies(store)
        address = await self.begin(store)
        stale = await self.put_parts(store, http, address, {1: first, 2: second, 3: b"overwritten"})
        listed = await self.put_parts(store, http, address, {3: third})
        size = len(first + second + third)
        never_sent = StoredPart(4, 1, stale[2].etag)
        for wrong in (stale, [*listed, never_sent]):
            with pytest.raises(PartsRejectedError):
                await store.complete_multipart(address, wrong, size=size, checksum=None)
            assert await store.head(address) is None
        assert await store.list_parts(address) == listed
        await store.complete_multipart(address, listed, size=size, checksum=None)
        assert await self.content(store, http) == first + second + third

    async def test_a_short_part_before_another_is_rejected(self, store: ObjectStore, http: SignedHttp) -> None:
        address = await self.begin(store)
        short = b"x" * (store.limits.min_part_size - 1)
        listed = await self.put_parts(store, http, address, {1: short, 2: b"y"})
        with pytest.raises(PartsRejectedError):
            await store.complete_multipart(address, listed, size=len(short) + 1, checksum=None)
        assert await store.head(address) is None

    async def test_a_completed_multipart_upload_is_known_no_more(self, store: ObjectStore, http: SignedHttp) -> None:
        address = await self.begin(store)
        listed = await self.put_parts(store, http, address, {1: NINE})
        await store.complete_multipart(address, listed, size=9, checksum=None)
        with pytest.raises(NoSuchMultipartError):
            await store.list_parts(address)
        assert [found async for found in store.list_multiparts(address.key)] == []

    async def test_completing_again_answers_as_declared(self, store: ObjectStore, http: SignedHttp) -> None:
        address = await self.begin(store)
        listed = await self.put_parts(store, http, address, {1: NINE})
        await store.complete_multipart(address, listed, size=9, checksum=None)
        if store.capabilities.repeatable_complete:
            await store.complete_multipart(address, listed, size=9, checksum=None)
        else:
            with pytest.raises(NoSuchMultipartError):
                await store.complete_multipart(address, listed, size=9, checksum=None)
        assert await self.content(store, http) == NINE

    async def test_concurrent_completions_do_no_harm_where_that_is_declared(
        self, store: ObjectStore, http: SignedHttp
    ) -> None:
        address = await self.begin(store)
        listed = await self.put_parts(store, http, address, {1: NINE})
        callers = 5 if store.capabilities.concurrent_complete else 1
        attempts = (store.complete_multipart(address, listed, size=9, checksum=None) for _ in range(callers))
        outcomes = await asyncio.gather(*attempts, return_exceptions=True)
        assert None in outcomes
        assert all(outcome is None or isinstance(outcome, NoSuchMultipartError) for outcome in outcomes)
        assert await self.content(store, http) == NINE

    async def test_a_late_part_changes_no_byte_where_that_is_declared(
        self, store: ObjectStore, http: SignedHttp
    ) -> None:
        address = await self.begin(store)
        late = await self.sign(store, address, 1, 9)
        listed = await self.put_parts(store, http, address, {1: NINE})
        await store.complete_multipart(address, listed, size=9, checksum=None)
        answer = await self.send(http, late, b"987654321")
        if store.capabilities.late_parts_refused:
            assert answer.status >= 400
            assert await self.content(store, http) == NINE

    @pytest.mark.parametrize("algorithm", list(ChecksumAlgorithm))
    async def test_a_declared_object_checksum_is_verified_and_told(
        self, store: ObjectStore, http: SignedHttp, algorithm: ChecksumAlgorithm
    ) -> None:
        checksum, other = CHECKSUMS[algorithm], Checksum(algorithm, _zeros(algorithm))
        verified = algorithm in store.capabilities.object_checksums
        address = await self.begin(store)
        listed = await self.put_parts(store, http, address, {1: NINE})
        if verified:
            with pytest.raises(ChecksumMismatchError):
                await store.complete_multipart(address, listed, size=9, checksum=other)
            assert await store.head(address) is None
            assert await store.list_parts(address) == listed, "the upload goes on"
        await store.complete_multipart(address, listed, size=9, checksum=checksum if verified else None)
        head = await store.head(address)
        assert head is not None
        if store.capabilities.object_checksums:
            assert head.checksum is not None
            assert head.checksum == CHECKSUMS[head.checksum.algorithm]
            assert head.checksum.algorithm in store.capabilities.object_checksums

    async def test_the_checksum_of_several_parts_is_that_of_the_whole(
        self, store: ObjectStore, http: SignedHttp
    ) -> None:
        bodies = (b"1234", b"56789") if store.limits.min_part_size <= 4 else (NINE,)
        address = await self.begin(store)
        listed = await self.put_parts(store, http, address, dict(enumerate(bodies, 1)))
        await store.complete_multipart(address, listed, size=9, checksum=None)
        head = await store.head(address)
        assert head is not None
        if store.capabilities.object_checksums:
            assert head.checksum is not None
            assert head.checksum == CHECKSUMS[head.checksum.algorithm]

    # --- abort, list ----------------------------------------------------------------------------------------------

    async def test_an_aborted_multipart_upload_is_gone_with_its_urls(
        self, store: ObjectStore, http: SignedHttp
    ) -> None:
        address, other = await self.begin(store), await self.begin(store)
        signed = await self.sign(store, address, 2, 1)
        await self.put_parts(store, http, address, {1: b"1"})
        await store.abort_multipart(address)
        with pytest.raises(NoSuchMultipartError):
            await store.list_parts(address)
        with pytest.raises(NoSuchMultipartError):
            await store.complete_multipart(address, [StoredPart(1, 1, '"x"')], size=1, checksum=None)
        assert (await self.send(http, signed, b"2")).status >= 400
        found = [upload.storage_upload_id async for upload in store.list_multiparts(address.key)]
        assert found == [other.storage_upload_id]

    async def test_abort_is_idempotent_and_spares_the_object(self, store: ObjectStore, http: SignedHttp) -> None:
        await store.abort_multipart(Address(store.bucket, "up/never", "never-made"))
        address = await self.begin(store)
        await store.abort_multipart(address)
        await store.abort_multipart(address)
        await self.put_object(store, http, "up/a", NINE)
        await store.abort_multipart(address)
        assert await self.content(store, http) == NINE

    async def test_a_multipart_upload_is_known_under_its_own_key_only(
        self, store: ObjectStore, http: SignedHttp
    ) -> None:
        address = await self.begin(store, "up/a")
        elsewhere = Address(store.bucket, "up/b", address.storage_upload_id)
        unknown = Address(store.bucket, "up/a", f"{address.storage_upload_id}0")
        for wrong in (elsewhere, unknown):
            with pytest.raises(NoSuchMultipartError):
                await store.list_parts(wrong)
            await store.abort_multipart(wrong)
            assert (await self.send(http, await self.sign(store, wrong, 1, 1), b"1")).status >= 400
        assert await store.list_parts(address) == []

    async def test_multipart_uploads_are_listed_by_prefix_or_by_key_as_declared(self, store: ObjectStore) -> None:
        a, b, c = (
            await self.begin(store, "up/a/1"),
            await self.begin(store, "up/a/2"),
            await self.begin(store, "up/b/1"),
        )

        async def listed(prefix: str) -> set[tuple[str, str]]:
            return {(found.key, found.storage_upload_id) async for found in store.list_multiparts(prefix)}

        def named(*addresses: Address) -> set[tuple[str, str]]:
            return {(address.key, address.storage_upload_id or "") for address in addresses}

        assert await listed("up/a/1") == named(a)
        assert await listed("up/nothing") == set()
        if store.capabilities.list_by_prefix:
            assert await listed("up/") == named(a, b, c)
            assert await listed("up/a") == named(a, b)
            assert await listed("") == named(a, b, c)
        async for found in store.list_multiparts("up/a/1"):
            assert found.initiated.utcoffset() is not None, "times know their zone"

    async def test_many_multipart_uploads_are_listed(self, store: ObjectStore) -> None:
        made = {(await self.begin(store, "up/many")).storage_upload_id for _ in range(self.open_multiparts)}
        assert {found.storage_upload_id async for found in store.list_multiparts("up/many")} == made

    # --- single PUT -----------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("body", [NINE, b""], ids=["nine bytes", "empty"])
    async def test_a_single_put_makes_an_object_that_no_second_one_overwrites(
        self, store: ObjectStore, http: SignedHttp, body: bytes
    ) -> None:
        if not store.capabilities.conditional_put:
            return
        signed = await self.sign_put(store, "up/a", len(body))
        assert (await self.send(http, signed, body)).status in {200, 201, 204}
        head = await store.head(Address(store.bucket, "up/a"))
        assert head is not None
        assert (head.size, head.content_type, head.metadata[MARKER]) == (len(body), "video/mp4", "upload-1")
        again = await self.sign_put(store, "up/a", len(body))
        for late in (signed, again):
            assert (await self.send(http, late, body[::-1])).status == 412
        assert await self.content(store, http) == body

    async def test_a_single_put_binds_its_headers(self, store: ObjectStore, http: SignedHttp) -> None:
        if not store.capabilities.conditional_put:
            return
        signed = await self.sign_put(store, "up/a", 9)
        for name in signed.headers:
            if name.lower() in {"content-length", "host"}:
                continue
            without = {key: value for key, value in signed.headers.items() if key != name}
            for headers in (without, {**signed.headers, name: f"{signed.headers[name]}x"}):
                await self._refuse(http, Refused(f"header {name} changed", "PUT", signed.url, headers, NINE))
        assert await store.head(Address(store.bucket, "up/a")) is None
        assert (await self.send(http, signed, NINE)).status in {200, 201, 204}

    async def test_an_unsigned_amz_header_is_refused_or_does_nothing(
        self, store: ObjectStore, http: SignedHttp
    ) -> None:
        if not store.capabilities.conditional_put:
            return
        signed = await self.sign_put(store, "up/a", 9)
        headers = {**signed.headers, "x-amz-meta-intruder": "1"}
        answer = await http.request("PUT", signed.url, headers, NINE)
        head = await store.head(Address(store.bucket, "up/a"))
        if answer.status >= 400:
            assert head is None
        else:
            assert head is not None
            assert "intruder" not in head.metadata

    # --- signed URLs ----------------------------------------------------------------------------------------------

    async def test_parts_are_signed_in_the_order_asked_for(self, store: ObjectStore, http: SignedHttp) -> None:
        address = await self.begin(store)
        parts = [Part(number, 0, number) for number in (3, 1, 2)]
        signed = await store.presign_parts(address, parts, checksums={}, expires_in=MINUTE)
        assert [request.method for request in signed] == ["PUT"] * 3
        for part, request in zip(parts, signed, strict=True):
            assert (await self.send(http, request, b"x" * part.part_number)).status == 200
        listed = await store.list_parts(address)
        assert [(part.part_number, part.size) for part in listed] == [(1, 1), (2, 2), (3, 3)]
        assert await store.presign_parts(address, [], checksums={}, expires_in=MINUTE) == []

    async def test_a_signed_request_hides_its_url(self, store: ObjectStore) -> None:
        signed = await self.sign(store, await self.begin(store), 1, 1)
        assert signed.url not in repr(signed)
        assert urlsplit(signed.url).query not in repr(signed)

    async def test_a_url_expires_when_it_says(self, store: ObjectStore, http: SignedHttp) -> None:
        address = await self.begin(store)
        await self.put_object(store, http, "up/b", NINE)
        part = [Part(1, 0, 1)]
        [short] = await store.presign_parts(address, part, checksums={}, expires_in=timedelta(seconds=1))
        [longer] = await store.presign_parts(address, part, checksums={}, expires_in=MINUTE)
        assert short.expires_at.utcoffset() is not None
        assert short.expires_at < longer.expires_at <= short.expires_at + MINUTE
        get = await store.presign_get(
            Address(store.bucket, "up/b"), filename="f", content_type="text/plain", expires_in=timedelta(seconds=1)
        )
        await self._until_refused(store, http, short, b"1")
        await self._until_refused(store, http, get, b"")
        assert (await self.send(http, longer, b"1")).status == 200

    async def test_a_part_url_binds_the_length(self, store: ObjectStore, http: SignedHttp) -> None:
        address = await self.begin(store)
        signed = await self.sign(store, address, 1, 9)
        for body in (b"12345678", b"1234567890", b""):
            await self._refuse(http, Refused(f"{len(body)} bytes", "PUT", signed.url, signed.headers, body))
        assert await store.list_parts(address) == []
        assert (await self.send(http, signed, NINE)).status == 200

    async def test_a_part_without_a_length_takes_any(self, store: ObjectStore, http: SignedHttp) -> None:
        address = await self.begin(store)
        signed = await self.sign(store, address, 1, None)
        for body in (b"12", b"1", b"123"):
            assert (await self.send(http, signed, body)).status == 200
            assert [part.size for part in await store.list_parts(address)] == [len(body)]

    @pytest.mark.parametrize("algorithm", list(ChecksumAlgorithm))
    async def test_a_part_url_binds_a_checksum_where_that_is_declared(
        self, store: ObjectStore, http: SignedHttp, algorithm: ChecksumAlgorithm
    ) -> None:
        if algorithm not in store.capabilities.part_checksums:
            return
        address = await self.begin(store)
        signed = await self.sign(store, address, 1, 9, CHECKSUMS[algorithm])
        header = next(name for name in signed.headers if name.lower() == f"x-amz-checksum-{algorithm}")
        without = {name: value for name, value in signed.headers.items() if name != header}
        other = {**without, header: _zeros(algorithm)}
        for refused in (
            Refused("other bytes", "PUT", signed.url, signed.headers, b"987654321"),
            Refused("no checksum", "PUT", signed.url, without, b"987654321"),
            Refused("another checksum", "PUT", signed.url, other, b"987654321"),
        ):
            await self._refuse(http, refused)
        assert await store.list_parts(address) == []
        assert (await self.send(http, signed, NINE)).status == 200
        assert [part.size for part in await store.list_parts(address)] == [9]

    async def test_a_part_url_can_not_be_turned_into_another_grant(self, store: ObjectStore, http: SignedHttp) -> None:
        address = await self.begin(store)
        await self.put_object(store, http, "up/b", b"untouched")
        signed = await self.sign(store, address, 1, 9)
        for refused in self._alterations(signed, NINE):
            await self._refuse(http, refused)
        assert await store.list_parts(address) == []
        assert await store.head(address) is None
        assert await self.content(store, http, "up/b") == b"untouched"
        assert (await self.send(http, signed, NINE)).status == 200

    async def test_a_get_url_can_not_be_turned_into_another_grant(self, store: ObjectStore, http: SignedHttp) -> None:
        for key in ("up/a", "up/b"):
            await self.put_object(store, http, key, NINE)
        signed = await self.sign_get(store, "up/a")
        for refused in self._alterations(signed, b"", methods=("PUT", "POST", "DELETE")):
            await self._refuse(http, refused)
        assert await self.content(store, http, "up/a") == NINE

    async def test_a_put_url_can_not_be_turned_into_another_grant(self, store: ObjectStore, http: SignedHttp) -> None:
        if not store.capabilities.conditional_put:
            return
        signed = await self.sign_put(store, "up/a", 9)
        for refused in self._alterations(signed, NINE):
            await self._refuse(http, refused)
        for body in (b"12345678", b"1234567890"):
            await self._refuse(http, Refused(f"{len(body)} bytes", "PUT", signed.url, signed.headers, body))
        assert await store.head(Address(store.bucket, "up/a")) is None

    async def _refuse(self, http: SignedHttp, refused: Refused) -> None:
        answer = await http.request(refused.method, refused.url, refused.headers, refused.body)
        assert 400 <= answer.status < 500, f"{refused.what}: {answer.status}"

    def _alterations(
        self, signed: SignedRequest, body: bytes, methods: Iterable[str] = ("GET", "POST", "DELETE")
    ) -> list[Refused]:
        """Every query value altered, every one left out, the path altered, the method changed."""
        split = urlsplit(signed.url)
        pairs = parse_qsl(split.query, keep_blank_values=True)
        urls = {f"path {path}": split._replace(path=path) for path in (f"{split.path}x", f"{split.path[:-1]}b")}
        for index, (name, value) in enumerate(pairs):
            altered = ("1" if value[:1] != "1" else "2") + value[1:]
            rest = [*pairs[:index], *pairs[index + 1 :]]
            urls[f"{name} altered"] = split._replace(
                query=urlencode([*pairs[:index], (name, altered), *pairs[index + 1 :]])
            )
            urls[f"{name} left out"] = split._replace(query=urlencode(rest))
        refused = [Refused(what, signed.method, urlunsplit(url), signed.headers, body) for what, url in urls.items()]
        return refused + [Refused(f"as {method}", method, signed.url, signed.headers, body) for method in methods]

    async def _until_refused(self, store: ObjectStore, http: SignedHttp, signed: SignedRequest, body: bytes) -> None:
        for _ in range(100):
            if (await self.send(http, signed, body)).status in {400, 401, 403, 410}:
                return
            await self.advance(store, 0.1)
        pytest.fail("the URL outlived its time by far")

    # --- objects --------------------------------------------------------------------------------------------------

    async def test_what_was_deleted_is_gone(self, store: ObjectStore, http: SignedHttp) -> None:
        await self.put_object(store, http, "up/a", NINE)
        await self.put_object(store, http, "up/ab", NINE)
        address = Address(store.bucket, "up/a")
        signed = await self.sign_get(store, "up/a")
        await store.delete(address)
        await store.delete(address)
        assert await store.head(address) is None
        assert (await self.send(http, signed)).status == 404
        assert await self.content(store, http, "up/ab") == NINE

    async def test_a_marker_is_an_empty_object_that_replaces(self, store: ObjectStore) -> None:
        address = Address(store.bucket, "up/.installation")
        for value in ("first", "second"):
            await store.put_marker(address, ObjectHeaders("text/plain", {"uploadcore-installation": value}))
            head = await store.head(address)
            assert head is not None
            assert (head.size, head.metadata["uploadcore-installation"]) == (0, value)

    @pytest.mark.parametrize(
        "filename",
        [
            "trip.mp4",
            "my trip.mp4",
            'a"b.mp4',
            "a;b=c.mp4",
            "日本語 🎬.mp4",
            "100%.mp4",
            "../../etc/passwd",
            "a\\b",
            "é'é",
        ],
    )
    async def test_a_download_is_an_attachment_of_that_name_and_type(
        self, store: ObjectStore, http: SignedHttp, filename: str
    ) -> None:
        await self.put_object(store, http, "up/a", NINE)
        signed = await self.sign_get(store, "up/a", filename)
        answer = await self.send(http, signed)
        assert (answer.status, answer.body) == (200, NINE)
        assert answer.headers["content-type"] == "video/mp4"
        disposition = Message()
        disposition["content-disposition"] = answer.headers["content-disposition"]
        assert disposition.get_content_disposition() == "attachment"
        name = disposition.get_param("filename", header="content-disposition")
        assert collapse_rfc2231_value(name if name is not None else "", errors="strict") == filename

    async def test_a_filename_adds_no_header(self, store: ObjectStore, http: SignedHttp) -> None:
        await self.put_object(store, http, "up/a", NINE)
        answer = await self.send(http, await self.sign_get(store, "up/a", "a\r\nset-cookie: b=c\r\n.mp4"))
        assert answer.status == 200
        assert "set-cookie" not in answer.headers
        assert "\n" not in answer.headers["content-disposition"]

    async def test_a_get_url_is_good_for_head(self, store: ObjectStore, http: SignedHttp) -> None:
        await self.put_object(store, http, "up/a", NINE)
        signed = await self.sign_get(store, "up/a")
        answer = await http.request("HEAD", signed.url, signed.headers, b"")
        assert (answer.status, answer.body, answer.headers["content-length"]) == (200, b"", "9")

    async def test_close_is_idempotent(self, store: ObjectStore) -> None:
        await store.close()
        await store.close()


def _zeros(algorithm: ChecksumAlgorithm) -> str:
    """A checksum of that kind that is not that of `NINE`."""
    return base64.b64encode(bytes(algorithm.digest_size)).decode()
