"""The shapes of `/v1`: what a request may say, and what an answer says. Closed and bounded; `openapi.py` makes JSON Schemas of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType, structs

from uploadcore.file import Checksum, ChecksumAlgorithm, FileStatus, FileView, VerifiedBy, Visibility
from uploadcore.plan import StoredPart
from uploadcore.states import UploadState
from uploadcore.upload import Strategy
from uploadcore.views import Completion, FilePage, SignedPart, UploadPage, UploadParts, UploadView
from uploadcore_http.fields import (
    BASE64_4,
    BASE64_8,
    BASE64_32,
    END,
    MAX_PART_SIZE,
    MAX_PARTS_A_CALL,
    Description,
    FileId,
    Filename,
    Fingerprint,
    Labels,
    MediaType,
    Metadata,
    PartChecksum,
    PartNumberKey,
    PartNumbers,
    PartSize,
    Size,
    Title,
)
from uploadcore_http.problems import PartRange

__all__ = [
    "ChecksumBody",
    "CompleteRequest",
    "CompletionBody",
    "FileBody",
    "FileChecksumBody",
    "FilePageBody",
    "InitiateRequest",
    "PartUrlsRequest",
    "PartsBody",
    "SignedPartBody",
    "SignedPartsBody",
    "StoredPartBody",
    "UpdateFileRequest",
    "UploadBody",
    "UploadPageBody",
    "completion_body",
    "file_body",
    "file_page_body",
    "parts_body",
    "signed_parts",
    "upload_body",
    "upload_page_body",
]

# --- requests -----------------------------------------------------------------------------------------------------


class _GivenChecksum(Struct, tag_field="algorithm", forbid_unknown_fields=True):
    def checksum(self) -> Checksum:
        """The core's checksum."""
        return Checksum(ChecksumAlgorithm(str(self.__struct_config__.tag)), self.value)  # type: ignore[attr-defined]


class Crc64NvmeChecksum(_GivenChecksum, tag="crc64nvme"):
    """A CRC64NVME of the whole: base64 of 8 bytes, big-endian."""

    value: Annotated[str, Meta(pattern=f"^{BASE64_8}{END}")]


class Crc32cChecksum(_GivenChecksum, tag="crc32c"):
    """A CRC32C of the whole: base64 of 4 bytes, big-endian."""

    value: Annotated[str, Meta(pattern=f"^{BASE64_4}{END}")]


class Sha256Checksum(_GivenChecksum, tag="sha256"):
    """A SHA-256 of the whole: base64 of 32 bytes."""

    value: Annotated[str, Meta(pattern=f"^{BASE64_32}{END}")]


GivenChecksum = Crc64NvmeChecksum | Crc32cChecksum | Sha256Checksum
"""One struct per algorithm, so that the schema says what belongs together."""


class InitiateRequest(Struct, forbid_unknown_fields=True):
    """What an upload is to be. `size` is `null` while it is not known."""

    filename: Filename
    size: Size | None
    content_type: MediaType = "application/octet-stream"
    file_id: FileId | None = None
    title: Title = ""
    metadata: Metadata = {}
    fingerprint: Fingerprint | None = None
    checksum: GivenChecksum | None = None
    part_size: PartSize | None = None
    sign: Annotated[int, Meta(ge=0, le=MAX_PARTS_A_CALL, description="How many parts to sign with the answer.")] = 0


class PartUrlsRequest(Struct, forbid_unknown_fields=True):
    """Which parts to sign. `checksums` are for the store to verify the parts by; `lengths` are for uploads of unknown size."""

    part_numbers: PartNumbers
    checksums: Annotated[dict[PartNumberKey, PartChecksum], Meta(max_length=MAX_PARTS_A_CALL)] = {}
    lengths: Annotated[
        dict[PartNumberKey, Annotated[int, Meta(ge=0, le=MAX_PART_SIZE)]], Meta(max_length=MAX_PARTS_A_CALL)
    ] = {}

    def part_checksums(self) -> dict[int, Checksum]:
        """The checksums by part number. Their length tells the algorithm."""
        return {int(number): Checksum(_BY_LENGTH[len(value)], value) for number, value in self.checksums.items()}

    def part_lengths(self) -> dict[int, int]:
        """The lengths by part number, in bytes."""
        return {int(number): length for number, length in self.lengths.items()}


class CompleteRequest(Struct, forbid_unknown_fields=True):
    """What the whole is, where that was not said before."""

    size: Size | None = None
    checksum: GivenChecksum | None = None


class UpdateFileRequest(Struct, forbid_unknown_fields=True):
    """What a file is to be from now on. Members that are not there stay as they are; those that are there are replaced as a whole."""

    name: Filename | UnsetType = UNSET
    title: Title | UnsetType = UNSET
    description: Description | UnsetType = UNSET
    labels: Labels | UnsetType = UNSET
    visibility: Visibility | UnsetType = UNSET
    metadata: Metadata | UnsetType = UNSET

    def changes(self) -> dict[str, Any]:
        """The members that are there, by the core's names."""
        return {name: value for name, value in structs.asdict(self).items() if value is not UNSET}


_BY_LENGTH = {8: ChecksumAlgorithm.CRC32C, 12: ChecksumAlgorithm.CRC64NVME, 44: ChecksumAlgorithm.SHA256}
"""Algorithms by the length of their base64: no two are the same."""


# --- answers ------------------------------------------------------------------------------------------------------


class ChecksumBody(Struct):
    """A declared checksum of the whole."""

    algorithm: ChecksumAlgorithm
    value: str


class SignedPartBody(Struct):
    """A part and the request that uploads it: `method` to `url` with exactly these `headers`, until `expires_at`.

    `length` is `null` where the URL binds none.
    """

    part_number: int
    offset: int
    length: int | None
    method: str
    url: str
    headers: dict[str, str]
    expires_at: datetime


class SignedPartsBody(Struct):
    """Signed parts, in the order asked for."""

    parts: list[SignedPartBody]


class UploadBody(Struct):
    """An upload. `parts` are those signed with this answer; `reason` is why it ended without a file."""

    id: str
    file_id: str
    state: UploadState
    strategy: Strategy
    filename: str
    size: int | None
    content_type: str
    metadata: dict[str, str]
    fingerprint: str | None
    checksum: ChecksumBody | None
    part_size: int
    part_count: int | None
    reason: str | None
    created_at: datetime
    expires_at: datetime
    parts: list[SignedPartBody]


class UploadPageBody(Struct):
    """Uploads, newest first. `next` is the `cursor` of the page after this one; `null` on the last."""

    uploads: list[UploadBody]
    next: str | None


class StoredPartBody(Struct):
    """A part as the store lists it. `etag` is opaque."""

    part_number: int
    size: int
    etag: str
    checksum: str | None


class PartsBody(Struct):
    """What the store has. `missing` (inclusive ranges), `mismatched` and `uploaded_bytes` cover the whole upload on every page.

    `next` is the `after` of the page after this one; `null` on the last.
    """

    parts: list[StoredPartBody]
    next: int | None
    missing: Sequence[PartRange]
    mismatched: Sequence[int]
    uploaded_bytes: int


class FileChecksumBody(Struct):
    """A file's checksum, and who vouches for it."""

    algorithm: ChecksumAlgorithm
    value: str
    verified_by: VerifiedBy | None


class FileBody(Struct):
    """A file."""

    id: str
    name: str
    status: FileStatus
    content_type: str
    size: int | None
    checksum: FileChecksumBody | None
    title: str
    description: str
    labels: Sequence[str]
    visibility: Visibility
    metadata: dict[str, str]
    manifest_url: str | None
    version: int
    created_at: datetime
    updated_at: datetime


class FilePageBody(Struct):
    """Files, newest first. `next` is the `cursor` of the page after this one; `null` on the last."""

    files: list[FileBody]
    next: str | None


class CompletionBody(Struct):
    """How far completion got. `file` is `null` while the store still assembles: ask again."""

    upload: UploadBody
    file: FileBody | None


# --- views to answers ---------------------------------------------------------------------------------------------


def signed_parts(parts: Sequence[SignedPart]) -> list[SignedPartBody]:
    """Signed parts, as answered. Hot: up to 1,000 a call."""
    return [
        SignedPartBody(part_number, offset, length, method, url, _plain(headers), expires_at)
        for part_number, offset, length, (method, url, headers, expires_at) in parts
    ]


def upload_body(view: UploadView) -> UploadBody:
    """An upload, as answered."""
    checksum = view.checksum
    return UploadBody(
        id=view.id,
        file_id=view.file_id,
        state=view.state,
        strategy=view.strategy,
        filename=view.filename,
        size=view.size,
        content_type=view.content_type,
        metadata=_plain(view.metadata),
        fingerprint=view.fingerprint,
        checksum=None if checksum is None else ChecksumBody(checksum.algorithm, checksum.value),
        part_size=view.part_size,
        part_count=view.part_count,
        reason=view.reason,
        created_at=view.created_at,
        expires_at=view.expires_at,
        parts=signed_parts(view.parts),
    )


def upload_page_body(page: UploadPage) -> UploadPageBody:
    """A page of uploads, as answered."""
    return UploadPageBody([upload_body(view) for view in page.uploads], page.next)


def parts_body(listed: UploadParts, *, after: int, limit: int) -> PartsBody:
    """One page of an upload's ledger, as answered."""
    ledger = listed.ledger
    later = [part for part in ledger.parts if part.part_number > after]
    page = later[:limit]
    return PartsBody(
        parts=[_stored_part(part) for part in page],
        next=page[-1].part_number if len(later) > limit else None,
        missing=ledger.missing,
        mismatched=ledger.mismatched,
        uploaded_bytes=ledger.uploaded_bytes,
    )


def file_body(view: FileView) -> FileBody:
    """A file, as answered."""
    checksum = view.checksum
    return FileBody(
        id=view.id,
        name=view.name,
        status=view.status,
        content_type=view.content_type,
        size=view.size,
        checksum=None if checksum is None else FileChecksumBody(checksum.algorithm, checksum.value, view.verified_by),
        title=view.title,
        description=view.description,
        labels=view.labels,
        visibility=view.visibility,
        metadata=_plain(view.metadata),
        manifest_url=view.manifest_url,
        version=view.version,
        created_at=view.created_at,
        updated_at=view.updated_at,
    )


def file_page_body(page: FilePage) -> FilePageBody:
    """A page of files, as answered."""
    return FilePageBody([file_body(view) for view in page.files], page.next)


def completion_body(completion: Completion) -> CompletionBody:
    """How far completion got, as answered."""
    file = completion.file
    return CompletionBody(upload_body(completion.upload), None if file is None else file_body(file))


def _stored_part(part: StoredPart) -> StoredPartBody:
    return StoredPartBody(
        part.part_number, part.size, part.etag, None if part.checksum is None else part.checksum.value
    )


def _plain(values: Mapping[str, str]) -> dict[str, str]:
    """A mapping as what msgspec encodes."""
    return values if type(values) is dict else dict(values)
