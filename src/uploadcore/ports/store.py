"""The object store, and what it is asked and answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import NamedTuple, Protocol

from uploadcore.address import Address
from uploadcore.file import Checksum, ChecksumAlgorithm
from uploadcore.plan import Part, StoredPart, StoreLimits

__all__ = [
    "MARKER",
    "ObjectHeaders",
    "ObjectStore",
    "OpenMultipart",
    "SignedRequest",
    "StoreCapabilities",
    "StoredObject",
]

MARKER = "uploadcore-upload"
"""Key of the user metadata (`x-amz-meta-…` on S3) that names the upload an object belongs to."""


@dataclass(frozen=True, slots=True)
class StoreCapabilities:
    """What a store can do beyond the least. Declared as data: nobody asks what class a store is.

    Attributes:
        conditional_put: A signed `If-None-Match: *` refuses to overwrite.
        repeatable_complete: Completing twice with the same parts answers success twice.
        concurrent_complete: Two completions at once do no harm; without it a second call waits ten minutes.
        late_parts_refused: A part URL used after completion changes no byte of the object.
        forgets_completed: `list_parts` of a completed upload finds none. Without it the parts may go on being listed, whatever
            stands under the key: a listing is then no evidence that an upload is still open.
        get_signs_head: A URL signed for GET answers HEAD as well.
        list_by_prefix: `list_multiparts` finds uploads by any prefix, not by the whole key only.
        object_checksums: Checksums of whole objects it computes and tells in `head`.
        part_checksums: Checksums it verifies when a signed part carries one.
    """

    conditional_put: bool = False
    repeatable_complete: bool = False
    concurrent_complete: bool = False
    late_parts_refused: bool = False
    forgets_completed: bool = False
    get_signs_head: bool = False
    list_by_prefix: bool = False
    object_checksums: frozenset[ChecksumAlgorithm] = frozenset()
    part_checksums: frozenset[ChecksumAlgorithm] = frozenset()


@dataclass(frozen=True, slots=True)
class ObjectHeaders:
    """What an object carries besides its bytes. `metadata` includes the `MARKER`."""

    content_type: str
    metadata: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class StoredObject:
    """What `head` tells of an object."""

    size: int
    etag: str
    content_type: str
    metadata: Mapping[str, str]
    checksum: Checksum | None = None


@dataclass(frozen=True, slots=True)
class OpenMultipart:
    """A multipart upload the store lists. `initiated` is the store's own time."""

    key: str
    storage_upload_id: str
    initiated: datetime


class SignedRequest(NamedTuple):
    """A request anybody may make until `expires_at`, with exactly these headers. The URL is a secret: `repr` hides it."""

    method: str
    url: str
    headers: Mapping[str, str]
    expires_at: datetime

    def __repr__(self) -> str:
        """Show neither URL nor headers."""
        return f"SignedRequest({self.method} …, expires_at={self.expires_at.isoformat()})"


class ObjectStore(Protocol):
    """Where the bytes are. Named after S3's verbs. Every method may raise `StoreUnavailableError`, which says nothing of the outcome."""

    @property
    def bucket(self) -> str:
        """The bucket new addresses are made in."""

    @property
    def limits(self) -> StoreLimits:
        """What it can hold."""

    @property
    def capabilities(self) -> StoreCapabilities:
        """What it can do."""

    async def open(self) -> None:
        """Get ready. Raises `StoreUnavailableError` only where it could never work (no such folder, no permission)."""

    async def close(self) -> None:
        """Let go of everything. Idempotent."""

    async def create_multipart(self, address: Address, headers: ObjectHeaders) -> str:
        """Begin a multipart upload under `address.key`; return its storage upload id. Not idempotent: each call makes another.

        Raises:
            InvalidRequestError: The store definitely refuses it, and nothing was made.
            StorageFullError: There is no room.
        """

    async def presign_parts(
        self, address: Address, parts: Sequence[Part], *, checksums: Mapping[int, Checksum], expires_in: timedelta
    ) -> list[SignedRequest]:
        """Sign one PUT per part, in order. No call to the store.

        Each URL binds method, key, storage upload id, part number, and the `content-length` where `Part.length` is not `None`, and the
        checksum header of the parts named in `checksums`. `expires_at` is true: it may be earlier than asked for, never later.
        """

    async def presign_put(
        self, address: Address, part: Part, headers: ObjectHeaders, *, checksum: Checksum | None, expires_in: timedelta
    ) -> SignedRequest:
        """Sign a PUT of a whole object that binds everything in `headers`, the length, and `If-None-Match: *`. No call to the store.

        Only called where `capabilities.conditional_put`.
        """

    async def list_parts(self, address: Address) -> list[StoredPart]:
        """All parts of a multipart upload, in order of number, each only once it is durable. Any page size is the adapter's matter.

        Raises:
            NoSuchMultipartError: The store knows no such multipart upload; with `capabilities.forgets_completed`, any more.
        """

    async def complete_multipart(
        self, address: Address, parts: Sequence[StoredPart], *, size: int, checksum: Checksum | None
    ) -> None:
        """Assemble exactly these parts. A return is an answer, no proof: the caller looks with `head`.

        Raises:
            NoSuchMultipartError: The store knows no such multipart upload: completed before, aborted, or reaped.
            PartsRejectedError: A part is not as named; nothing was assembled.
            ChecksumMismatchError: The whole has not that checksum; nothing was assembled.
        """

    async def abort_multipart(self, address: Address) -> None:
        """Drop a multipart upload and its parts. Idempotent: an unknown one is no error."""

    def list_multiparts(self, prefix: str) -> AsyncIterator[OpenMultipart]:
        """Multipart uploads in progress whose key begins with `prefix`, in no particular order.

        Without `capabilities.list_by_prefix` it is asked for a whole key, or with an empty prefix for all there are.
        """

    async def head(self, address: Address) -> StoredObject | None:
        """What stands under `address.key`; `None` if nothing does. Read-after-write consistent."""

    async def delete(self, address: Address) -> None:
        """Delete the object under `address.key`. Idempotent: an absent one is no error."""

    async def put_marker(self, address: Address, headers: ObjectHeaders) -> None:
        """Store an empty object under `address.key`, replacing what is there. For the installation marker only."""

    async def presign_get(
        self, address: Address, *, filename: str, content_type: str, expires_in: timedelta
    ) -> SignedRequest:
        """Sign a GET (with `capabilities.get_signs_head`, and HEAD) of an object, answered as an attachment with that name and type.

        No call to the store.
        """
