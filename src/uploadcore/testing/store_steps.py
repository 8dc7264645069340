"""What the contracts of an `ObjectStore` have in common: how it is reached, and the steps they are made of."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import ClassVar, Protocol

from uploadcore.file import Checksum, ChecksumAlgorithm
from uploadcore.plan import Part, StoredPart
from uploadcore.ports import MARKER, ObjectHeaders, ObjectStore, SignedRequest
from uploadcore.upload import Address

__all__ = ["CHECKSUMS", "CLOCK_ERROR", "HEADERS", "MINUTE", "NINE", "HttpAnswer", "SignedHttp", "StoreSteps", "zeros"]

MINUTE = timedelta(minutes=1)
CLOCK_ERROR = timedelta(seconds=5)
"""How far from `StoreSteps.now` a store's times may be: some tell whole seconds, and it may be another machine's clock."""
HEADERS = ObjectHeaders(content_type="video/mp4", metadata={MARKER: "upload-1"})
NINE = b"123456789"
CHECKSUMS = {
    ChecksumAlgorithm.CRC64NVME: Checksum(ChecksumAlgorithm.CRC64NVME, "rosUhgp5mIg="),
    ChecksumAlgorithm.CRC32C: Checksum(ChecksumAlgorithm.CRC32C, "4waSgw=="),
    ChecksumAlgorithm.SHA256: Checksum(ChecksumAlgorithm.SHA256, "FeKw08M4keuw8e9gnsQZQgwg4yDOlMZfvIwzEkSOsiU="),
}
"""Of `NINE`. Sources: the check values in NVM Express NVM Command Set 1.0 (5.2.1.3.4) and RFC 3720 (B.4); hashlib."""


def zeros(algorithm: ChecksumAlgorithm) -> str:
    """A checksum of that kind that is not that of `NINE`."""
    return base64.b64encode(bytes(algorithm.digest_size)).decode()


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


class StoreSteps:
    """The seams an adapter's author may override, and the steps of the tests."""

    part_counts: ClassVar[Sequence[int]] = (1_000, 1_001, 10_000)
    open_multiparts: ClassVar[int] = 1_001

    async def advance(self, store: ObjectStore, seconds: float) -> None:
        """Let that much time pass for the store."""
        del store
        await asyncio.sleep(seconds)

    async def now(self, store: ObjectStore) -> datetime:
        """The store's time, to `CLOCK_ERROR`. By default this machine's."""
        del store
        return datetime.now(UTC)

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
