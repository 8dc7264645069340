"""The ten calls the store makes, whichever SDK makes them.

They are synchronous: each runs on one of the store's own threads. They decide nothing: no retry, no mapping of errors, no default. What goes
wrong is an `S3CallError` (the store said so) or a `TransportError` (there is no answer, or not a whole one).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Protocol

from uploadcore.errors import InvalidRequestError
from uploadcore.file import Checksum, ChecksumAlgorithm
from uploadcore.plan import StoredPart
from uploadcore_s3.errors import TransportError
from uploadcore_s3.signing import Credentials
from uploadcore_s3.transport import Transport

__all__ = ["Identity", "ListedMultipart", "MultipartsPage", "ObjectHead", "PartsPage", "S3Client", "told_checksum"]


def told_checksum(algorithm: ChecksumAlgorithm, value: str | None) -> Checksum | None:
    """What a store says the bytes have. `None` where it says nothing, or what is no digest of them: of the parts' digests (`…-3`), or of no sense.

    >>> told_checksum(ChecksumAlgorithm.CRC32C, "AAAAAA==") is None, told_checksum(ChecksumAlgorithm.CRC32C, "AAAAAA==-3") is None
    (False, True)
    """
    try:
        return Checksum(algorithm, value) if value else None
    except InvalidRequestError:  # no fault of the caller's
        return None


class Identity(Enum):
    """On whose behalf a URL is signed."""

    WRITE = "write"
    """Signs PUTs of objects and parts, and does nothing else."""
    CONTROL = "control"
    """Makes the calls, and signs GETs."""


@dataclass(frozen=True, slots=True)
class PartsPage:
    """One page of ListParts. `next_marker` is the store's, and `None` on the last page; 0 where it tells none."""

    parts: Sequence[StoredPart]
    next_marker: int | None

    def __post_init__(self) -> None:
        """Refuse parts that can't be."""
        if any(part.part_number < 1 or part.size < 0 for part in self.parts):
            raise TransportError("the store's answer makes no sense")


@dataclass(frozen=True, slots=True)
class ListedMultipart:
    """A multipart upload as listed."""

    key: str
    upload_id: str
    initiated: datetime


@dataclass(frozen=True, slots=True)
class MultipartsPage:
    """One page of ListMultipartUploads. `next_marker` is the store's key and upload id; `None` on the last page."""

    uploads: Sequence[ListedMultipart]
    next_marker: tuple[str, str] | None


@dataclass(frozen=True, slots=True)
class ObjectHead:
    """What HeadObject tells. Header names in lower case; metadata without its `x-amz-meta-`."""

    size: int
    etag: str
    content_type: str
    metadata: Mapping[str, str]
    headers: Mapping[str, str]


class S3Client(Protocol):
    """One SDK's calls to one bucket. Headers are given by their names on the wire, in lower case."""

    @property
    def transport(self) -> Transport:
        """What carries the calls."""

    @property
    def endpoint(self) -> str:
        """Where the calls go: scheme, host and port; in virtual-host style without the bucket."""

    @property
    def region(self) -> str:
        """What signatures name."""

    def create_multipart(self, key: str, headers: Mapping[str, str]) -> str:
        """CreateMultipartUpload; the upload id."""

    def list_parts(self, key: str, upload_id: str, *, marker: int, limit: int) -> PartsPage:
        """ListParts after a part number."""

    def complete_multipart(
        self, key: str, upload_id: str, parts: Sequence[StoredPart], headers: Mapping[str, str]
    ) -> bytes:
        """CompleteMultipartUpload; the body of the answer, which the status says nothing about."""

    def abort_multipart(self, key: str, upload_id: str) -> None:
        """AbortMultipartUpload."""

    def list_multiparts(self, prefix: str, *, marker: tuple[str, str] | None, limit: int) -> MultipartsPage:
        """ListMultipartUploads after a key and an upload id."""

    def head(self, key: str, *, with_checksum: bool) -> ObjectHead:
        """HeadObject."""

    def delete(self, key: str) -> None:
        """DeleteObject."""

    def put_empty(self, key: str, headers: Mapping[str, str]) -> None:
        """PutObject of no bytes."""

    def credentials(self, identity: Identity) -> Credentials:
        """What signs for this identity now, renewed first where it is time. May ask another service.

        Raises:
            LookupError: There are none.
        """

    def close(self) -> None:
        """End the connections, those in use too: who waits for an answer gets a `TransportError`."""
