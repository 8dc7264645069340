"""What services answer: no view carries a storage address."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import NamedTuple

from uploadcore.file import Checksum, FileView
from uploadcore.plan import PartLedger
from uploadcore.ports import SignedRequest
from uploadcore.states import UploadState
from uploadcore.upload import Reason, Strategy, Upload

__all__ = ["Completion", "FilePage", "SignedPart", "SweepReport", "UploadPage", "UploadParts", "UploadView"]


class SignedPart(NamedTuple):
    """One part and the request that uploads it. `offset` and `length` in bytes; `length` is `None` where the URL does not bind it."""

    part_number: int
    offset: int
    length: int | None
    request: SignedRequest


@dataclass(frozen=True, slots=True)
class UploadView:
    """What an owner sees of an upload. `parts` are the ones signed with this answer."""

    id: str
    owner: str
    file_id: str
    state: UploadState
    strategy: Strategy
    filename: str
    size: int | None
    content_type: str
    metadata: Mapping[str, str]
    fingerprint: str | None
    checksum: Checksum | None
    part_size: int
    part_count: int | None
    reason: Reason | None
    created_at: datetime
    expires_at: datetime
    parts: tuple[SignedPart, ...] = ()

    @classmethod
    def of(cls, upload: Upload, parts: tuple[SignedPart, ...] = ()) -> UploadView:
        """The view of an upload the database has returned."""
        if upload.created_at is None or upload.expires_at is None:
            raise ValueError(f"upload {upload.id!r} has not been saved yet")
        return cls(
            id=upload.id,
            owner=upload.owner,
            file_id=upload.file_id,
            state=upload.state,
            strategy=upload.strategy,
            filename=upload.filename,
            size=upload.size,
            content_type=upload.content_type,
            metadata=upload.metadata,
            fingerprint=upload.fingerprint,
            checksum=upload.checksum,
            part_size=upload.plan.part_size,
            part_count=upload.plan.part_count if upload.expected is None else upload.expected.part_count,
            reason=upload.reason,
            created_at=upload.created_at,
            expires_at=upload.expires_at,
            parts=parts,
        )


@dataclass(frozen=True, slots=True)
class UploadPage:
    """Some of an owner's uploads, newest first. `next` is the cursor of the page after this one; `None` on the last."""

    uploads: tuple[UploadView, ...]
    next: str | None


@dataclass(frozen=True, slots=True)
class FilePage:
    """Some of an owner's files, newest first. `next` is the cursor of the page after this one; `None` on the last."""

    files: tuple[FileView, ...]
    next: str | None


@dataclass(frozen=True, slots=True)
class UploadParts:
    """An upload, and its plan held against what the store lists."""

    upload: UploadView
    ledger: PartLedger


@dataclass(frozen=True, slots=True)
class Completion:
    """How far completion got. `file` is `None` while the store still assembles: ask again."""

    upload: UploadView
    file: FileView | None


@dataclass(frozen=True, slots=True)
class SweepReport:
    """What one sweep did, or with `dry_run` would have done.

    Attributes:
        expired, opened, settled, cleaned, rechecked: Uploads: past their deadline; whose opening, completion or abort stopped half-way; looked
            at again after their last URL had run out.
        damaged: Looked at again likewise, but of these the store has no longer what was completed: their files have failed.
        files_deleted: Files whose deletion stopped half-way.
        orphans: Multipart uploads that no row knows.
        records_purged: Idempotency keys and events.
        unsettled: Uploads that must be looked at again, later.
        failed: What could not be done, and is tried again.
        multiparts, parts, objects, bytes: What was removed from the store by all this, as the store listed it before: multipart uploads, their
            parts, objects, and the bytes of parts and objects.
        oldest_age: Seconds since the oldest of these uploads and files was begun.
        more: There is more to do at once.
    """

    expired: int = 0
    opened: int = 0
    settled: int = 0
    cleaned: int = 0
    rechecked: int = 0
    damaged: int = 0
    files_deleted: int = 0
    orphans: int = 0
    records_purged: int = 0
    unsettled: int = 0
    failed: int = 0
    multiparts: int = 0
    parts: int = 0
    objects: int = 0
    bytes: int = 0
    oldest_age: float = 0.0
    more: bool = False

    def plus(self, later: SweepReport) -> SweepReport:
        """This one and the pass after it, as one."""
        counts = {
            field.name: getattr(self, field.name) + getattr(later, field.name)
            for field in fields(self)
            if field.name not in {"oldest_age", "more"}
        }
        return SweepReport(**counts, oldest_age=max(self.oldest_age, later.oldest_age), more=later.more)
