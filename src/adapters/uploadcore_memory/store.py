"""An object store in memory, whose signed URLs are redeemed by calling it: `put` and `get` stand for HTTP."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from urllib.parse import quote

from uploadcore.errors import ChecksumMismatchError, InvalidRequestError, NoSuchMultipartError, PartsRejectedError
from uploadcore.file import Checksum, ChecksumAlgorithm
from uploadcore.plan import Part, StoredPart, StoreLimits
from uploadcore.ports import Clock, ObjectHeaders, OpenMultipart, SignedRequest, StoreCapabilities, StoredObject
from uploadcore.system import SystemClock
from uploadcore.upload import Address
from uploadcore_memory.checksums import checksum_of
from uploadcore_memory.signing import Grant, StoreResponse, UrlSigner

__all__ = ["MEMORY_CAPABILITIES", "MEMORY_LIMITS", "MemoryObjectStore", "RefusedError"]

MEMORY_LIMITS = StoreLimits(
    min_part_size=1, max_part_size=5 * 1024**3, max_parts=10_000, max_object_size=53_687_091_200_000
)
"""S3's, but for the smallest part: tests want small ones."""

MEMORY_CAPABILITIES = StoreCapabilities(
    conditional_put=True,
    repeatable_complete=True,
    concurrent_complete=True,
    late_parts_refused=True,
    forgets_completed=True,
    get_signs_head=True,
    list_by_prefix=True,
    object_checksums=frozenset({ChecksumAlgorithm.CRC64NVME}),
    part_checksums=frozenset(ChecksumAlgorithm),
)
"""All there is."""


class RefusedError(Exception):
    """The store refused a signed request; `response` says how."""

    def __init__(self, response: StoreResponse) -> None:
        super().__init__(f"{response.status} {response.body[:200].decode(errors='replace')}")
        self.response = response


@dataclass(frozen=True, slots=True)
class _StoredPart:
    body: bytes
    etag: str
    checksum: Checksum


@dataclass(slots=True)
class _Multipart:
    """A multipart upload; `assembled` names the parts of a completed one."""

    key: str
    headers: ObjectHeaders
    initiated: datetime
    parts: dict[int, _StoredPart] = field(default_factory=dict)
    assembled: tuple[tuple[int, str], ...] | None = None


@dataclass(frozen=True, slots=True)
class _Object:
    body: bytes
    etag: str
    headers: ObjectHeaders


class MemoryObjectStore:
    """Keeps objects and multipart uploads in dictionaries, and behaves as its capabilities say, the absent ones included.

    Every call lets other tasks run before it takes effect and again before it returns, as one over a network would.

    Args:
        bucket: Name of the one bucket.
        limits: What it can hold.
        capabilities: What it can do. What is left out is really missing: without `repeatable_complete` a second completion finds no
            such upload; without `late_parts_refused` a late part changes the object; without `forgets_completed` its parts go on being
            listed while it stands; without `list_by_prefix` only a whole key is found. Without `concurrent_complete` nothing is
            different here.
        clock: Decides when URLs expire and when uploads were initiated.
    """

    def __init__(
        self,
        bucket: str = "memory",
        *,
        limits: StoreLimits = MEMORY_LIMITS,
        capabilities: StoreCapabilities = MEMORY_CAPABILITIES,
        clock: Clock | None = None,
    ) -> None:
        self._bucket = bucket
        self._limits = limits
        self._capabilities = capabilities
        self._clock = clock or SystemClock()
        self._signer = UrlSigner(bucket)
        self._ids = itertools.count(1)
        self._multiparts: dict[str, _Multipart] = {}
        self._objects: dict[str, _Object] = {}

    # --- what a test looks at -------------------------------------------------------------------------------------

    @property
    def objects(self) -> dict[str, bytes]:
        """The bytes of every object, by key."""
        return {key: stored.body for key, stored in self._objects.items()}

    @property
    def multiparts(self) -> dict[str, str]:
        """The key of every multipart upload in progress, by storage upload id."""
        return {name: upload.key for name, upload in self._multiparts.items() if upload.assembled is None}

    def lose(self, address: Address) -> None:
        """Forget a multipart upload and its parts, as a store's lifecycle rule would."""
        self._multiparts.pop(address.storage_upload_id or "", None)

    async def put(self, signed: SignedRequest, body: bytes, headers: Mapping[str, str] | None = None) -> StoreResponse:
        """Redeem a signed PUT: send `body` with the headers that were signed, and with `headers` added or put in their place."""
        sent = {name.lower(): value for name, value in {**signed.headers, **(headers or {})}.items()}
        await asyncio.sleep(0)
        grant = self._signer.redeem("PUT", signed.url, sent, now=self._clock.now())
        response = grant if isinstance(grant, StoreResponse) else self._accept(grant, body)
        await asyncio.sleep(0)
        return response

    async def get(self, signed: SignedRequest, *, method: str = "GET") -> StoreResponse:
        """Redeem a signed GET (or, with `method`, a HEAD of the same)."""
        await asyncio.sleep(0)
        signed_method = "GET" if method == "HEAD" and self._capabilities.get_signs_head else method
        grant = self._signer.redeem(signed_method, signed.url, {}, now=self._clock.now())
        if isinstance(grant, StoreResponse):
            return grant
        stored = self._objects.get(grant.key)
        if stored is None:
            return StoreResponse(404, body=b"NoSuchKey")
        headers = {
            "content-length": str(len(stored.body)),
            "etag": stored.etag,
            "content-type": grant.query["response-content-type"],
            "content-disposition": grant.query["response-content-disposition"],
        }
        return StoreResponse(200, headers, b"" if method == "HEAD" else stored.body)

    async def fetch(self, signed: SignedRequest) -> bytes:
        """The bytes behind a signed GET.

        Raises:
            RefusedError: The store answered anything but 200.
        """
        response = await self.get(signed)
        if response.status != 200:
            raise RefusedError(response)
        return response.body

    # --- the port -------------------------------------------------------------------------------------------------

    @property
    def bucket(self) -> str:
        """The one bucket."""
        return self._bucket

    @property
    def limits(self) -> StoreLimits:
        """What it can hold."""
        return self._limits

    @property
    def capabilities(self) -> StoreCapabilities:
        """What it can do."""
        return self._capabilities

    async def open(self) -> None:
        """Get ready: nothing to do."""

    async def close(self) -> None:
        """Let go of nothing: what is stored stays, as it would anywhere else."""

    async def create_multipart(self, address: Address, headers: ObjectHeaders) -> str:
        """Begin a multipart upload; return its storage upload id."""
        await asyncio.sleep(0)
        if address.bucket != self._bucket:
            raise InvalidRequestError(f"this store has one bucket, {self._bucket!r}")
        storage_upload_id = f"{self._bucket}-{next(self._ids)}"
        self._multiparts[storage_upload_id] = _Multipart(address.key, headers, self._clock.now())
        await asyncio.sleep(0)
        return storage_upload_id

    async def presign_parts(
        self, address: Address, parts: Sequence[Part], *, checksums: Mapping[int, Checksum], expires_in: timedelta
    ) -> list[SignedRequest]:
        """Sign one PUT per part, in order."""
        expires_at = self._clock.now() + expires_in
        signed = []
        for part in parts:
            query = {"uploadId": address.storage_upload_id or "", "partNumber": str(part.part_number)}
            if part.length is not None:
                query["content-length"] = str(part.length)
            headers = _checksum_header(checksums.get(part.part_number))
            signed.append(self._signer.sign("PUT", address.key, query, headers, expires_at=expires_at))
        return signed

    async def presign_put(
        self, address: Address, part: Part, headers: ObjectHeaders, *, checksum: Checksum | None, expires_in: timedelta
    ) -> SignedRequest:
        """Sign a PUT of a whole object that can't overwrite.

        Raises:
            InvalidRequestError: The store was made without `conditional_put`.
        """
        if not self._capabilities.conditional_put:
            raise InvalidRequestError("this store can't refuse to overwrite")
        signed_headers = {"content-type": headers.content_type, "if-none-match": "*"} | _checksum_header(checksum)
        # Header values are ASCII; S3 takes other text as RFC 2047, here it is simply quoted and unquoted.
        signed_headers |= {f"x-amz-meta-{name}": quote(value) for name, value in headers.metadata.items()}
        query = {} if part.length is None else {"content-length": str(part.length)}
        # The object's headers travel in the grant, under the MAC: their case and text come back exactly.
        query |= {f"meta:{name}": value for name, value in headers.metadata.items()}
        expires_at = self._clock.now() + expires_in
        return self._signer.sign("PUT", address.key, query, signed_headers, expires_at=expires_at)

    async def list_parts(self, address: Address) -> list[StoredPart]:
        """All parts of a multipart upload, in order of number."""
        await asyncio.sleep(0)
        upload = self._multiparts.get(address.storage_upload_id or "")
        is_listed = upload is not None and upload.assembled is not None and address.key in self._objects
        if upload is None or self._capabilities.forgets_completed or upload.key != address.key or not is_listed:
            upload = self._in_progress(address)
        told = ChecksumAlgorithm.CRC64NVME in self._capabilities.object_checksums
        return [
            StoredPart(number, len(part.body), part.etag, part.checksum if told else None)
            for number, part in sorted(upload.parts.items())
        ]

    async def complete_multipart(
        self, address: Address, parts: Sequence[StoredPart], *, size: int, checksum: Checksum | None
    ) -> None:
        """Assemble exactly these parts. A checksum of an algorithm that is not in `object_checksums` is not looked at."""
        await asyncio.sleep(0)
        named = tuple((part.part_number, part.etag) for part in parts)
        done = self._multiparts.get(address.storage_upload_id or "")
        repeated = done is not None and done.assembled == named and done.key == address.key
        if repeated and self._capabilities.repeatable_complete and address.key in self._objects:
            return
        upload = self._in_progress(address)
        body = self._assemble(upload, parts, size)
        verified = checksum is not None and checksum.algorithm in self._capabilities.object_checksums
        if checksum is not None and verified and checksum_of(body, checksum.algorithm) != checksum:
            raise ChecksumMismatchError(f"the parts do not add up to the {checksum.algorithm} that was declared")
        self._objects[address.key] = _Object(body, _etag(body, len(named)), upload.headers)
        upload.assembled = named
        await asyncio.sleep(0)

    async def abort_multipart(self, address: Address) -> None:
        """Drop a multipart upload and its parts. One that is completed is unknown, and no error."""
        await asyncio.sleep(0)
        upload = self._multiparts.get(address.storage_upload_id or "")
        if upload is not None and upload.key == address.key and upload.assembled is None:
            del self._multiparts[address.storage_upload_id or ""]
        await asyncio.sleep(0)

    async def list_multiparts(self, prefix: str) -> AsyncIterator[OpenMultipart]:
        """Multipart uploads in progress whose key begins with `prefix` (or is it, without `list_by_prefix`); all for an empty one."""
        await asyncio.sleep(0)
        for storage_upload_id, upload in list(self._multiparts.items()):
            found = upload.key == prefix
            if self._capabilities.list_by_prefix or not prefix:
                found = upload.key.startswith(prefix)
            if found and upload.assembled is None:
                yield OpenMultipart(upload.key, storage_upload_id, upload.initiated)

    async def head(self, address: Address) -> StoredObject | None:
        """What stands under the key."""
        await asyncio.sleep(0)
        stored = self._objects.get(address.key)
        if stored is None:
            return None
        told = sorted(self._capabilities.object_checksums)
        return StoredObject(
            size=len(stored.body),
            etag=stored.etag,
            content_type=stored.headers.content_type,
            metadata=dict(stored.headers.metadata),
            checksum=checksum_of(stored.body, _preferred(told)) if told else None,
        )

    async def delete(self, address: Address) -> None:
        """Delete the object under the key."""
        await asyncio.sleep(0)
        self._objects.pop(address.key, None)
        await asyncio.sleep(0)

    async def put_marker(self, address: Address, headers: ObjectHeaders) -> None:
        """Store an empty object under the key, replacing what is there."""
        await asyncio.sleep(0)
        self._objects[address.key] = _Object(b"", _etag(b""), headers)
        await asyncio.sleep(0)

    async def presign_get(
        self, address: Address, *, filename: str, content_type: str, expires_in: timedelta
    ) -> SignedRequest:
        """Sign a GET (and HEAD) of an object, answered as an attachment."""
        query = {
            "response-content-type": content_type,
            # RFC 6266, section 4.3: the name in any script, with nothing that could end the header.
            "response-content-disposition": f"attachment; filename*=UTF-8''{quote(filename, safe='')}",
        }
        return self._signer.sign("GET", address.key, query, {}, expires_at=self._clock.now() + expires_in)

    # --- how ------------------------------------------------------------------------------------------------------

    def _in_progress(self, address: Address) -> _Multipart:
        upload = self._multiparts.get(address.storage_upload_id or "")
        if upload is None or upload.key != address.key or upload.assembled is not None:
            raise NoSuchMultipartError("the store knows no such multipart upload")
        return upload

    def _assemble(self, upload: _Multipart, parts: Sequence[StoredPart], size: int) -> bytes:
        numbers = [part.part_number for part in parts]
        if not numbers or numbers != sorted(set(numbers)):
            raise PartsRejectedError("parts are named in ascending order, each once, and at least one of them")
        bodies = []
        for part in parts:
            stored = upload.parts.get(part.part_number)
            if stored is None or stored.etag != part.etag:
                raise PartsRejectedError(f"part {part.part_number} is not here as named")
            if len(stored.body) < self._limits.min_part_size and part is not parts[-1]:
                raise PartsRejectedError(f"part {part.part_number} is smaller than a part that others follow may be")
            bodies.append(stored.body)
        body = b"".join(bodies)
        if len(body) != size or size > self._limits.max_object_size:
            raise PartsRejectedError(f"the parts make {len(body)} bytes, not {size}, or more than the store can hold")
        return body

    def _accept(self, grant: Grant, body: bytes) -> StoreResponse:
        """A PUT whose signature is good."""
        if int(grant.query.get("content-length", len(body))) != len(body):
            return StoreResponse(400, body=b"IncompleteBody: the length is not the one that was signed")
        if len(body) > self._limits.max_part_size:
            return StoreResponse(400, body=b"EntityTooLarge")
        for algorithm in self._capabilities.part_checksums:
            said = grant.headers.get(f"x-amz-checksum-{algorithm}")
            if said is not None and checksum_of(body, algorithm).value != said:
                return StoreResponse(400, body=b"BadDigest")
        return self._accept_part(grant, body) if "partNumber" in grant.query else self._accept_object(grant, body)

    def _accept_part(self, grant: Grant, body: bytes) -> StoreResponse:
        number = int(grant.query["partNumber"])
        upload = self._multiparts.get(grant.query["uploadId"])
        if not 1 <= number <= self._limits.max_parts:
            return StoreResponse(400, body=b"InvalidArgument: partNumber")
        if upload is None or upload.key != grant.key:
            return StoreResponse(404, body=b"NoSuchUpload")
        if upload.assembled is not None and self._capabilities.late_parts_refused:
            return StoreResponse(404, body=b"NoSuchUpload")
        part = _StoredPart(body, _etag(body), checksum_of(body))
        upload.parts[number] = part
        stored = self._objects.get(upload.key)
        if upload.assembled is not None and stored is not None:
            late = b"".join(upload.parts[named].body for named, _ in upload.assembled)
            self._objects[upload.key] = _Object(late, _etag(late, len(upload.assembled)), stored.headers)
        return _stored(part.etag, part.checksum)

    def _accept_object(self, grant: Grant, body: bytes) -> StoreResponse:
        if grant.key in self._objects:
            return StoreResponse(412, body=b"PreconditionFailed")
        metadata = {
            name.removeprefix("meta:"): value for name, value in grant.query.items() if name.startswith("meta:")
        }
        stored = _Object(body, _etag(body), ObjectHeaders(grant.headers["content-type"], metadata))
        self._objects[grant.key] = stored
        return _stored(stored.etag, checksum_of(body))


def _checksum_header(checksum: Checksum | None) -> dict[str, str]:
    return {} if checksum is None else {f"x-amz-checksum-{checksum.algorithm}": checksum.value}


def _preferred(told: Sequence[ChecksumAlgorithm]) -> ChecksumAlgorithm:
    """S3's own default where there is a choice."""
    return ChecksumAlgorithm.CRC64NVME if ChecksumAlgorithm.CRC64NVME in told else told[0]


def _stored(etag: str, checksum: Checksum) -> StoreResponse:
    return StoreResponse(200, {"etag": etag, "x-amz-checksum-crc64nvme": checksum.value})


def _etag(body: bytes, part_count: int | None = None) -> str:
    """Opaque, but like S3's: quoted, the same for the same bytes, with the part count behind a hyphen."""
    digest = hashlib.md5(body, usedforsecurity=False).hexdigest()
    return f'"{digest}"' if part_count is None else f'"{digest}-{part_count}"'
