"""The file: the durable record of what was uploaded, which outlives the upload."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import ClassVar

from uploadcore.address import Address
from uploadcore.errors import FileNotReadyError, InvalidRequestError

__all__ = ["Checksum", "ChecksumAlgorithm", "File", "FileStatus", "FileView", "VerifiedBy", "Visibility"]

_MISLEADING = re.compile(r"[\x80-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""Controls, line ends and embeddings of direction (Unicode Standard Annex 9, section 2); ASCII's controls are in no name."""


class ChecksumAlgorithm(StrEnum):
    """Checksums S3 knows, by the suffix of their `x-amz-checksum-…` header.

    Source: S3 User Guide, "Checking object integrity for data uploads".
    """

    CRC64NVME = "crc64nvme"
    CRC32C = "crc32c"
    SHA256 = "sha256"

    @property
    def digest_size(self) -> int:
        """Length of the checksum in bytes.

        >>> ChecksumAlgorithm.CRC64NVME.digest_size
        8
        """
        return {"crc64nvme": 8, "crc32c": 4, "sha256": 32}[self.value]


class VerifiedBy(StrEnum):
    """Who vouches for a file's checksum."""

    STORE = "store"
    """The store computed it over the bytes it holds."""
    CLIENT = "client"
    """The client said so; nobody checked."""


@dataclass(frozen=True, slots=True)
class Checksum:
    """A checksum of a whole blob, or of one part.

    Attributes:
        algorithm: Which one.
        value: Base64 of the big-endian digest, as in S3's headers.

    Raises:
        InvalidRequestError: If the value is not base64 of a digest of that length.

    >>> Checksum(ChecksumAlgorithm.CRC32C, "AAAAAA==")
    Checksum(algorithm=<ChecksumAlgorithm.CRC32C: 'crc32c'>, value='AAAAAA==')
    """

    algorithm: ChecksumAlgorithm
    value: str

    def __post_init__(self) -> None:
        """Refuse what can't be such a digest."""
        try:
            digest = base64.b64decode(self.value, validate=True)
        except (binascii.Error, ValueError):
            digest = b""
        # Encoded again: the last character can hold stray bits, and two spellings of one digest must not count as a mismatch.
        spelled = base64.b64encode(digest).decode()
        if len(digest) != self.algorithm.digest_size or spelled != self.value:
            expected = self.algorithm.digest_size
            raise InvalidRequestError(
                f"a {self.algorithm} checksum is base64 of {expected} bytes, not {self.value[:80]!r}"
            )


class FileStatus(StrEnum):
    """What a file is."""

    UPLOADING = "uploading"
    AVAILABLE = "available"
    FAILED = "failed"
    DELETING = "deleting"
    DELETED = "deleted"


class Visibility(StrEnum):
    """Who may read a file, besides its owner. Others see it while it is available only, and in no listing."""

    PRIVATE = "private"
    """Nobody."""
    UNLISTED = "unlisted"
    """Any authenticated caller who knows its id."""
    PUBLIC = "public"
    """Anybody, without a token."""


@dataclass(frozen=True, slots=True)
class File:
    """One file. Immutable: each verb returns the next one, for the database to save if the version still stands.

    Attributes:
        id: Its name in every interface.
        owner: The principal it belongs to.
        name: The filename given; never part of a storage key.
        upload_id: The upload that made the current content (or is to make the first).
        address: Where that content lies (or is to lie). Of its own: it outlives the upload.
        size: Bytes; `None` until known.
        manifest_url: Where a player begins, once there is something to play.
        version: Counts the changes saved, from 0. Two copies of one version are the same.
        lease_until: While `deleting`: who deletes has the right to until then (database's clock).
    """

    id: str
    owner: str
    name: str
    upload_id: str
    content_type: str
    address: Address = field(repr=False)
    status: FileStatus = FileStatus.UPLOADING
    visibility: Visibility = Visibility.PRIVATE
    size: int | None = None
    checksum: Checksum | None = None
    verified_by: VerifiedBy | None = None
    title: str = ""
    description: str = ""
    labels: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    manifest_url: str | None = None
    version: int = 0
    created_at: datetime | None = None
    updated_at: datetime | None = None
    lease_until: datetime | None = None

    LIVE: ClassVar[frozenset[FileStatus]] = frozenset({FileStatus.UPLOADING, FileStatus.AVAILABLE})

    def is_visible_to(self, caller: str | None) -> bool:
        """Whether a caller may see it: its owner always, others only what is available, and as its visibility says.

        Args:
            caller: The principal that asks; `None` for one who has not said who they are.
        """
        if caller is not None and caller == self.owner:
            return True
        if self.status is not FileStatus.AVAILABLE:
            return False
        return self.visibility is Visibility.PUBLIC or (caller is not None and self.visibility is Visibility.UNLISTED)

    @property
    def download_name(self) -> str:
        """What a download is called: the name without what makes it read as another (`…gpj.exe`, turned around, as `…exe.jpg`)."""
        return _MISLEADING.sub("_", self.name)

    def becomes_available(
        self,
        *,
        upload_id: str,
        address: Address,
        size: int,
        content_type: str,
        checksum: Checksum | None,
        verified_by: VerifiedBy | None,
    ) -> File:
        """The file with the content that `upload_id` brought."""
        return replace(
            self,
            status=FileStatus.AVAILABLE,
            upload_id=upload_id,
            address=replace(address, storage_upload_id=None),
            size=size,
            content_type=content_type,
            checksum=checksum,
            verified_by=verified_by,
        )

    def fails(self) -> File:
        """The file whose only upload ended without content, or whose content is not what was completed any more."""
        return replace(self, status=FileStatus.FAILED)

    def starts_deleting(self) -> File:
        """The file whose content is about to be deleted.

        Raises:
            FileNotReadyError: If it has no content to delete.
        """
        has_content = self.status is FileStatus.FAILED and self.size is not None
        if self.status not in {FileStatus.AVAILABLE, FileStatus.DELETING} and not has_content:
            raise FileNotReadyError(file_id=self.id, status=self.status)
        return replace(self, status=FileStatus.DELETING)

    def is_deleted(self) -> File:
        """The file whose content is gone from the store."""
        return replace(self, status=FileStatus.DELETED)


@dataclass(frozen=True, slots=True)
class FileView:
    """What is shown of a file. Carries no storage address."""

    id: str
    name: str
    status: FileStatus
    visibility: Visibility
    content_type: str
    size: int | None
    checksum: Checksum | None
    verified_by: VerifiedBy | None
    title: str
    description: str
    labels: tuple[str, ...]
    metadata: Mapping[str, str]
    manifest_url: str | None
    version: int
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, file: File) -> FileView:
        """The view of a file the database has returned."""
        if file.created_at is None or file.updated_at is None:
            raise ValueError(f"file {file.id!r} has not been saved yet")
        return cls(
            id=file.id,
            name=file.name,
            status=file.status,
            visibility=file.visibility,
            content_type=file.content_type,
            size=file.size,
            checksum=file.checksum,
            verified_by=file.verified_by,
            title=file.title,
            description=file.description,
            labels=file.labels,
            metadata=file.metadata,
            manifest_url=file.manifest_url,
            version=file.version,
            created_at=file.created_at,
            updated_at=file.updated_at,
        )
