"""Background: expire, recover, clean up. One bounded pass at a time, safe on any number of instances at once.

What a pass does to an upload it does under the upload's lease, or under a version that only one instance can save.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Coroutine
from contextlib import suppress
from types import MappingProxyType
from typing import Any

from uploadcore.config import UploadConfig
from uploadcore.errors import (
    ChecksumMismatchError,
    PartsMissingError,
    StoreUnavailableError,
    UploadCoreError,
    VersionConflictError,
)
from uploadcore.file import File, FileStatus
from uploadcore.ports import Clock, Database, ObjectHeaders, ObjectStore, OpenMultipart
from uploadcore.records import existing_file
from uploadcore.states import UploadState
from uploadcore.steps import UploadSteps
from uploadcore.upload import Address, Upload
from uploadcore.views import SweepReport

__all__ = ["Sweeper"]

log = logging.getLogger(__name__)

INSTALLATION_MARKER = "uploadcore-installation"
"""Metadata key of the object that says whose prefix this is."""
LOOKUP = 1_000
"""Storage keys looked up at a time, as many as one page of ListMultipartUploads shows (S3 API, MaxUploads)."""


class Sweeper:
    """Made by `UploadCore`; use it as `core.sweep()`."""

    def __init__(
        self, *, store: ObjectStore, database: Database, steps: UploadSteps, clock: Clock, config: UploadConfig
    ) -> None:
        """Work on these ports."""
        self._store = store
        self._database = database
        self._steps = steps
        self._clock = clock
        self._config = config

    async def sweep(self, *, dry_run: bool = False) -> SweepReport:
        """One pass over what is due.

        Args:
            dry_run: Only count; change nothing, at the store or in the database.

        Raises:
            DatabaseUnavailableError: It can't be asked what is due.
        """
        done: Counter[str] = Counter()
        async with self._database.reader() as tx:
            uploads = await tx.uploads.due(self._config.batch)
            files = await tx.files.due(self._config.batch)
        for upload in uploads:
            kind = _kind(upload)
            done[kind if dry_run else await self._outcome(kind, upload.id, self._see_to(upload))] += 1
        for file in files:
            done["files_deleted" if dry_run else await self._outcome("files_deleted", file.id, self._delete(file))] += 1
        try:
            done["orphans"] = await self._clear_orphans(dry_run=dry_run)
        except StoreUnavailableError as exc:
            log.warning("sweep: looking for orphans failed: %s", exc.message)
            done["failed"] += 1
        if not dry_run:
            async with self._database.transaction() as tx:
                done["records_purged"] = await tx.idempotency.purge(older_than=self._config.idempotency_kept)
                done["records_purged"] += await tx.outbox.purge(
                    older_than=self._config.events_kept, dead_older_than=self._config.dead_letters_kept
                )
        del done[_ELSEWHERE]
        return SweepReport(**done, more=self._config.batch in {len(uploads), len(files)})

    async def _outcome(self, kind: str, name: str, work: Coroutine[Any, Any, None]) -> str:
        """What to count this as: one failure stops no other."""
        try:
            await work
        except VersionConflictError:
            return _ELSEWHERE
        except UploadCoreError as exc:
            log.warning("sweep: %s (%s): %s", name, kind, exc.message)
            return "failed"
        return kind

    async def _see_to(self, upload: Upload) -> None:
        lease = self._config.lease
        if upload.state is UploadState.UPLOADING:
            await self._steps.clean(await self._steps.save(upload.deadline_passed(lease)))
        elif upload.state is UploadState.PENDING:
            await self._see_to_pending(upload)
        elif upload.state is UploadState.COMPLETING:
            taken = await self._steps.save(upload.lease_taken_over(lease))
            with suppress(PartsMissingError, ChecksumMismatchError):  # back to uploading: its client sees why
                await self._steps.assemble(taken, None)
        elif upload.state is UploadState.ABORTING:
            await self._steps.clean(await self._steps.save(upload.lease_taken_over(lease)))
        else:
            await self._recheck(upload)

    async def _see_to_pending(self, upload: Upload) -> None:
        """Expire it, or else go on where its opener stopped."""
        try:
            expired = await self._steps.save(upload.deadline_passed(self._config.lease))
        except VersionConflictError:
            await self._steps.open(await self._steps.save(upload.lease_taken_over(self._config.lease)))
        else:
            await self._steps.clean(expired)

    async def _recheck(self, upload: Upload) -> None:
        """Every URL has run out: remove what landed after the upload was cleaned, or after its file was deleted or replaced."""
        async with self._database.reader(single=True) as tx:
            file = await existing_file(tx, upload.file_id)
        is_current = (
            upload.state is UploadState.COMPLETED
            and file.upload_id == upload.id
            and file.status is not FileStatus.DELETED
        )
        is_done = False
        try:
            is_done = is_current or await self._steps.wipe(upload)
        finally:
            # One that keeps failing must not stand at the head of every pass.
            await self._steps.save(upload.recheck(None if is_done else self._config.sweep_interval))

    async def _delete(self, file: File) -> None:
        taken = await self._steps.save_file(file, lease=self._config.lease, lease_passed=True)
        await self._steps.delete_content(taken)

    # --- orphans --------------------------------------------------------------------------------------------------

    async def _clear_orphans(self, *, dry_run: bool) -> int:
        """Abort multipart uploads under our prefix that no row knows and that are older than any of ours can be."""
        installation = await self._database.installation_id()
        prefix = f"{self._config.key_prefix}/{installation}/"
        if not await self._is_ours(prefix, installation, dry_run=dry_run):
            log.error("sweep: the marker under this installation's prefix is another's: orphans are left alone")
            return 0
        oldest = self._clock.now() - self._config.orphan_age
        found = 0
        page: list[OpenMultipart] = []
        async for multipart in self._store.list_multiparts(prefix if self._store.capabilities.list_by_prefix else ""):
            if multipart.initiated < oldest and multipart.key.startswith(prefix):
                page.append(multipart)
            if len(page) == LOOKUP:
                found += await self._abort_orphans(page, dry_run=dry_run)
                page = []
        return found + await self._abort_orphans(page, dry_run=dry_run)

    async def _abort_orphans(self, page: list[OpenMultipart], *, dry_run: bool) -> int:
        async with self._database.reader(single=True) as tx:
            known = await tx.uploads.by_keys([multipart.key for multipart in page]) if page else {}
        orphans = [multipart for multipart in page if _is_orphan(multipart, known.get(multipart.key))]
        if not dry_run:
            for multipart in orphans:
                await self._store.abort_multipart(
                    Address(self._store.bucket, multipart.key, multipart.storage_upload_id)
                )
        return len(orphans)

    async def _is_ours(self, prefix: str, installation: str, *, dry_run: bool) -> bool:
        """Whether the marker object under our prefix names this installation; the first sweep writes it."""
        marker = Address(self._store.bucket, f"{prefix}.installation")
        found = await self._store.head(marker)
        if found is None and not dry_run:
            headers = ObjectHeaders("application/octet-stream", MappingProxyType({INSTALLATION_MARKER: installation}))
            await self._store.put_marker(marker, headers)
            found = await self._store.head(marker)
        return found is None or found.metadata.get(INSTALLATION_MARKER) == installation


_ELSEWHERE = "elsewhere"
"""Counted nowhere: another instance did it."""


def _kind(upload: Upload) -> str:
    """The field of `SweepReport` that counts what is due for an upload."""
    return {
        UploadState.PENDING: "opened",
        UploadState.UPLOADING: "expired",
        UploadState.COMPLETING: "settled",
        UploadState.ABORTING: "cleaned",
    }.get(upload.state, "rechecked")


def _is_orphan(multipart: OpenMultipart, upload: Upload | None) -> bool:
    """Nobody's: no row has its key, or the row has another multipart upload and is not just being opened."""
    if upload is None:
        return True
    return upload.address.storage_upload_id != multipart.storage_upload_id and upload.state is not UploadState.PENDING
