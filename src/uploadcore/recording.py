"""The outcome of what was done at the store, in the database and in the copies: each in one transaction, then written through.

What is said about a file may be changed at any time: whoever records the outcome of its upload holds the file meanwhile, and holds it
before any of its uploads, so that no two wait for each other.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from types import MappingProxyType

from uploadcore.cached import Copies
from uploadcore.config import UploadConfig
from uploadcore.errors import DatabaseUnavailableError
from uploadcore.events import Event, EventType
from uploadcore.file import Checksum, File, FileStatus, VerifiedBy
from uploadcore.ports import Clock, Database, ObjectStore, StoredObject, Transaction
from uploadcore.records import existing_file, existing_upload
from uploadcore.states import UploadState
from uploadcore.tally import Tally
from uploadcore.upload import Expected, Lease, Reason, Strategy, Transition, Upload

__all__ = ["Recording", "contradicts", "expected_by_size", "expected_of"]

log = logging.getLogger(__name__)


class Recording:
    """Reads and writes uploads and files."""

    def __init__(
        self,
        *,
        store: ObjectStore,
        database: Database,
        copies: Copies,
        clock: Clock,
        config: UploadConfig,
        tally: Tally,
        instance: str,
    ) -> None:
        """Work on these ports as this instance, and count what is done."""
        self.store = store
        self.database = database
        self.copies = copies
        self.clock = clock
        self.config = config
        self.lease = Lease(instance, config.lease)
        self.tally = tally

    async def read(self, upload_id: str) -> Upload:
        """The upload as the database has it.

        Raises:
            UploadNotFoundError: There is none.
        """
        async with self.database.reader(single=True) as tx:
            return await existing_upload(tx, upload_id)

    async def save(self, transition: Transition) -> Upload:
        """Carry out one transition, alone in its transaction.

        Raises:
            VersionConflictError: Somebody else was faster, or a condition does not hold.
        """
        began = self.clock.monotonic()
        with self._in_doubt([transition.upload]):
            async with self.database.transaction(single=True) as tx:
                saved = await tx.uploads.save(transition)
        if transition.is_move:
            self.tally.moves[saved.state] += 1
        await self.copies.uploads.remember(saved, as_of=began)
        return saved

    async def take_over(self, upload: Upload) -> Upload:
        """Go on where a holder let the lease run out, or gave it up.

        Raises:
            VersionConflictError: It has not run out, or somebody else was faster.
        """
        taken = await self.save(upload.lease_taken_over(self.lease))
        log.info(
            "upload %s, %s: taken over from %s by %s",
            upload.id,
            upload.state,
            upload.lease_owner or "nobody",
            self.lease.owner,
            extra={"upload_id": upload.id},
        )
        return taken

    async def save_file(self, file: File, *, lease: timedelta | None = None, lease_passed: bool = False) -> File:
        """Save one file, alone in its transaction.

        Raises:
            VersionConflictError: Somebody else was faster, or holds its lease.
        """
        began = self.clock.monotonic()
        with self._in_doubt([file]):
            async with self.database.transaction(single=True) as tx:
                saved = await tx.files.save(file, lease=lease, lease_passed=lease_passed)
        await self.copies.files.remember(saved, as_of=began)
        return saved

    async def _record_completed(self, upload: Upload, found: StoredObject) -> Upload:
        began, changing = self.clock.monotonic(), list[Upload | File]([upload])
        with self._in_doubt(changing):
            async with self.database.transaction() as tx:
                file = await existing_file(tx, upload.file_id, hold=True)
                changing.append(file)
                if file.status in {FileStatus.DELETING, FileStatus.DELETED}:
                    saved = await tx.uploads.save(upload.integrity_failed(self.lease, Reason.FILE_DELETED))
                elif await self._is_older_than_the_content(tx, upload, file):
                    saved = await tx.uploads.save(upload.assembled(recheck_after=self.config.recheck_after))
                    await tx.quotas.release(upload.owner, size=upload.reserved_bytes)
                else:
                    saved = await tx.uploads.save(upload.assembled(recheck_after=self._recheck_of(upload)))
                    if file.upload_id != upload.id:
                        superseded = await existing_upload(tx, file.upload_id)
                        if superseded.state is UploadState.COMPLETED:
                            await tx.uploads.save(superseded.recheck(self.config.recheck_after))
                    checksum, verified_by = _vouched(upload, found)
                    file = await tx.files.save(
                        file.becomes_available(
                            upload_id=upload.id,
                            address=upload.address,
                            size=found.size,
                            content_type=upload.content_type,
                            checksum=checksum,
                            verified_by=verified_by,
                        )
                    )
                    await tx.quotas.release(upload.owner, size=upload.reserved_bytes)
            self.tally.moves[saved.state] += 1
            await self._remember(saved, file, as_of=began)
        return saved

    async def _is_older_than_the_content(self, tx: Transaction, upload: Upload, file: File) -> bool:
        """Whether it was found completed, in a past this database does not know, and the file has a version that was begun later.

        Which of them was completed last is not known then; the later was, most likely.
        """
        if not upload.was_found or file.upload_id == upload.id or file.status is not FileStatus.AVAILABLE:
            return False
        content = await existing_upload(tx, file.upload_id)
        assert content.created_at is not None, "set when it was recorded"
        assert upload.created_at is not None, "set when it was recorded"
        return content.created_at > upload.created_at

    def _recheck_of(self, upload: Upload) -> timedelta | None:
        """When to look whether a completed upload still stands: where its URLs may change it, once the last of them has run out."""
        return self.config.recheck_after if self.may_change(upload) else None

    def may_change(self, upload: Upload) -> bool:
        """Whether who holds a URL can change the object of a completed upload, until that URL runs out."""
        return upload.strategy is Strategy.MULTIPART and not self.store.capabilities.late_parts_refused

    async def record_damaged(self, upload: Upload, file: File) -> None:
        """The content of this file is no longer what was completed: it is shown to nobody as if it were.

        Raises:
            VersionConflictError: Somebody else changed upload or file meanwhile: it is looked at again.
        """
        began, changing = self.clock.monotonic(), list[Upload | File]([upload, file])
        with self._in_doubt(changing):
            async with self.database.transaction() as tx:
                await existing_file(tx, file.id, hold=True)
                await tx.uploads.save(upload.recheck(None))
                failed = await tx.files.save(file.fails())
                await tx.outbox.add(_told_of(file, EventType.FILE_DAMAGED, "damaged"))
        log.error("file %s: what the store has is not what was completed", file.id, extra={"file_id": file.id})
        await self.copies.files.remember(failed, as_of=began)

    async def _record_cleaned(self, upload: Upload) -> Upload:
        began, changing = self.clock.monotonic(), list[Upload | File]([upload])
        with self._in_doubt(changing):
            async with self.database.transaction() as tx:
                file = await existing_file(tx, upload.file_id, hold=True)
                changing.append(file)
                saved = await tx.uploads.save(upload.cleaned(recheck_after=self.config.recheck_after))
                if file.status is FileStatus.UPLOADING and file.upload_id == upload.id:
                    file = await tx.files.save(file.fails())
                await tx.quotas.release(upload.owner, size=upload.reserved_bytes)
            self.tally.moves[saved.state] += 1
            await self._remember(saved, file, as_of=began)
        return saved

    @contextmanager
    def _in_doubt(self, changing: Sequence[Upload | File]) -> Iterator[None]:
        """Around a transaction that changes these: where its outcome stays unknown, it may be made, and their copies overtaken."""
        try:
            yield
        except (asyncio.CancelledError, DatabaseUnavailableError):
            for record in changing:
                if isinstance(record, Upload):
                    self.copies.uploads.doubt(record)
                else:
                    self.copies.files.doubt(record)
            raise

    async def _remember(self, upload: Upload, file: File, *, as_of: float) -> None:
        """Write both through at once. Called while they are in doubt: of a caller that goes away now, neither may have begun."""
        await asyncio.gather(
            self.copies.uploads.remember(upload, as_of=as_of), self.copies.files.remember(file, as_of=as_of)
        )

    async def _record_deleted(self, file: File) -> File:
        began = self.clock.monotonic()
        with self._in_doubt([file]):
            async with self.database.transaction() as tx:
                await existing_file(tx, file.id, hold=True)
                upload = await existing_upload(tx, file.upload_id)
                await tx.uploads.save(upload.recheck(self.config.recheck_after))
                deleted = await tx.files.save(file.is_deleted())
                await tx.outbox.add(_told_of(file, EventType.FILE_DELETED, "deleted"))
        await self.copies.files.remember(deleted, as_of=began)
        return deleted


def expected_of(upload: Upload) -> Expected:
    """What the object of a fenced upload must look like."""
    assert upload.expected is not None, "set by the fence"
    return upload.expected


def expected_by_size(upload: Upload, size: int) -> Expected:
    """What the object of an upload must look like, where one of this size stands and no listing tells its parts."""
    declared = upload.plan.size
    total = size if declared is None else declared
    count = replace(upload.plan, size=total).part_count
    assert count is not None, "the size is known now"
    return Expected(count, total, upload.checksum)


def contradicts(declared: Checksum | None, found: Checksum | None) -> bool:
    """Whether two checksums show that the bytes differ: those of two kinds can't be compared, and show nothing."""
    return declared is not None and found is not None and declared.algorithm is found.algorithm and declared != found


def _vouched(upload: Upload, found: StoredObject) -> tuple[Checksum | None, VerifiedBy | None]:
    """The file's checksum, and who vouches for it."""
    declared = expected_of(upload).checksum
    if declared is not None and (found.checksum is None or found.checksum.algorithm != declared.algorithm):
        return declared, VerifiedBy.CLIENT
    return found.checksum, None if found.checksum is None else VerifiedBy.STORE


def _told_of(file: File, kind: EventType, what: str) -> Event:
    return Event(
        type=kind,
        owner=file.owner,
        upload_id=file.upload_id,
        file_id=file.id,
        id=f"{file.id}-{what}" if kind is EventType.FILE_DELETED else f"{file.upload_id}-{what}",
        data=MappingProxyType({"filename": file.name}),
    )
