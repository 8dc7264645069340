"""The service's answers as this client sees them. Fields it does not know are left alone: newer services add some."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Any

from uploadcore.file import Checksum, ChecksumAlgorithm
from uploadcore.plan import Part, PartPlan

__all__ = ["Arrived", "File", "Listing", "SignedPart", "Upload"]


@dataclass(frozen=True, slots=True)
class File:
    """A file as the service describes it.

    Attributes:
        id: Its name in every call.
        status: `uploading`, `available`, `failed`, `deleting` or `deleted`.
        size: Bytes; `None` until known.
        checksum: Of the whole content, if one is known.
        verified_by: Who vouches for the checksum: `store` or `client`.
        version: Counts its changes.
        name: The filename given; empty where the answer does not say.
        visibility: Who may read it besides its owner: `private` (nobody), `unlisted` or `public`.
    """

    id: str
    status: str
    size: int | None
    checksum: Checksum | None
    verified_by: str | None
    version: int
    name: str = ""
    content_type: str = ""
    title: str = ""
    description: str = ""
    labels: tuple[str, ...] = ()
    visibility: str = "private"
    metadata: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    manifest_url: str | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> File:
        """Read the service's JSON."""
        checksum = document.get("checksum") or None
        return cls(
            id=document["id"],
            status=document["status"],
            size=document.get("size"),
            checksum=_checksum(checksum),
            verified_by=checksum and checksum.get("verified_by"),
            version=document.get("version", 0),
            name=document.get("name") or "",
            content_type=document.get("content_type") or "",
            title=document.get("title") or "",
            description=document.get("description") or "",
            labels=tuple(document.get("labels") or ()),
            visibility=document.get("visibility") or "private",
            metadata=MappingProxyType(dict(document.get("metadata") or {})),
            manifest_url=document.get("manifest_url"),
            created_at=_time(document.get("created_at")),
            updated_at=_time(document.get("updated_at")),
        )


@dataclass(frozen=True, slots=True, repr=False)
class SignedPart:
    """A part and the request that brings it into the store. The URL is a secret: `repr` hides it."""

    part_number: int
    url: str
    headers: Mapping[str, str]
    expires_at: datetime

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> SignedPart:
        """Read the service's JSON."""
        return cls(
            part_number=document["part_number"],
            url=document["url"],
            headers=dict(document.get("headers") or {}),
            expires_at=datetime.fromisoformat(document["expires_at"]),
        )

    def __repr__(self) -> str:
        return f"SignedPart({self.part_number}, expires_at={self.expires_at.isoformat()})"


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload as the service describes it. Sizes in bytes.

    Attributes:
        strategy: `single` or `multipart`.
        part_count: `None` while the size is not known.
        parts: The first signed parts, in the answer to initiating only.
    """

    id: str
    file_id: str
    state: str
    strategy: str
    filename: str
    size: int | None
    part_size: int
    part_count: int | None
    content_type: str = ""
    reason: str | None = None
    fingerprint: str | None = None
    created_at: datetime | None = None
    expires_at: datetime | None = None
    parts: tuple[SignedPart, ...] = field(default=(), repr=False)

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Upload:
        """Read the service's JSON."""
        return cls(
            id=document["id"],
            file_id=document["file_id"],
            state=document["state"],
            strategy=document["strategy"],
            filename=document["filename"],
            size=document.get("size"),
            part_size=document["part_size"],
            part_count=document.get("part_count"),
            content_type=document.get("content_type") or "",
            reason=document.get("reason"),
            fingerprint=document.get("fingerprint"),
            created_at=_time(document.get("created_at")),
            expires_at=_time(document.get("expires_at")),
            parts=tuple(SignedPart.parse(each) for each in document.get("parts") or ()),
        )

    def plan(self) -> PartPlan:
        """How it is cut: the arithmetic is the core's, the numbers are the server's."""
        count = self.part_count or 1
        return PartPlan(part_size=self.part_size, size=self.size, max_parts=count)

    def part(self, part_number: int) -> Part:
        """Where a part lies."""
        return self.plan().part(part_number)


@dataclass(frozen=True, slots=True)
class Arrived:
    """A part the store lists."""

    part_number: int
    size: int
    checksum: Checksum | None


@dataclass(frozen=True, slots=True)
class Listing:
    """One page of what the store has of an upload.

    Attributes:
        parts: In order of number.
        next: What to ask for as `after` to get the next page; `None` on the last.
        uploaded_bytes: Over the whole upload.
    """

    parts: tuple[Arrived, ...]
    next: int | None
    uploaded_bytes: int

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Listing:
        """Read the service's JSON."""
        return cls(
            parts=tuple(_arrived(document.get("parts") or ())),
            next=document.get("next"),
            uploaded_bytes=document.get("uploaded_bytes", 0),
        )


def _arrived(documents: Any) -> Iterator[Arrived]:
    for each in documents:
        yield Arrived(each["part_number"], each["size"], _checksum_of_a_part(each.get("checksum")))


def _checksum_of_a_part(value: str | None) -> Checksum | None:
    """A listed part's checksum is a bare value: its length tells the algorithm."""
    for algorithm in ChecksumAlgorithm:
        if value is not None and len(value) == 4 * -(-algorithm.digest_size // 3):
            return Checksum(algorithm, value)
    return None


def _checksum(document: Any) -> Checksum | None:
    """A checksum, unless it is of a kind this client does not know."""
    if not isinstance(document, Mapping) or document.get("algorithm") not in set(ChecksumAlgorithm):
        return None
    return Checksum(ChecksumAlgorithm(document["algorithm"]), document["value"])


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
