"""The use cases of a request: files.

Every method takes the caller on whose behalf it acts. What is not visible to it is as unknown as what never was, and costs no call to the
store. Addresses come from the file's record, never from the caller.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from uploadcore.config import UploadConfig
from uploadcore.errors import FileNotReadyError, NoSuchFileError, StoreUnavailableError, VersionConflictError
from uploadcore.file import File, FileStatus, FileView, Visibility
from uploadcore.file_changes import FileChanges, check_label
from uploadcore.paging import cursor_after, page_start
from uploadcore.ports import Database, ObjectStore, SignedRequest
from uploadcore.records import owned_file
from uploadcore.steps import UploadSteps
from uploadcore.views import FilePage

__all__ = ["FileService"]

ATTEMPTS = 10
"""How often a call without `if_version` starts over because somebody else changed the file."""
ENDED = frozenset({FileStatus.DELETING, FileStatus.DELETED})


class FileService:
    """Read, find, change and delete files. Made by `UploadCore`; use it as `core.files`."""

    def __init__(self, *, store: ObjectStore, database: Database, steps: UploadSteps, config: UploadConfig) -> None:
        """Work on these ports."""
        self._store = store
        self._database = database
        self._steps = steps
        self._copies = steps.copies.files
        self._config = config

    # --- read -----------------------------------------------------------------------------------------------------

    async def get(self, file_id: str, *, owner: str | None) -> FileView:
        """One file, perhaps from a copy as old as `file_cache_ttl`.

        Args:
            file_id: Which file.
            owner: Who asks: sees their own files, and available ones that are unlisted or public. `None` is somebody unknown, who sees
                available public ones only.

        Raises:
            NoSuchFileError: Unknown, or not visible to who asks.
        """
        return FileView.of(await self._visible(file_id, owner))

    async def find(
        self,
        *,
        owner: str,
        status: FileStatus | None = None,
        label: str | None = None,
        cursor: str | None = None,
        limit: int = 100,
    ) -> FilePage:
        """An owner's files, newest first, as the database has them.

        Args:
            owner: Whose. Nobody else's file is listed, whatever its visibility.
            status: Only those in this status; `None`: all but the deleted ones.
            label: Only those with this label.
            cursor: `next` of the page before.
            limit: Files on a page, 1 to 1,000.

        Raises:
            InvalidRequestError: The label, the cursor or the limit can't be used.
        """
        before = page_start(cursor, limit)
        if label is not None:
            check_label(label)
        async with self._database.reader(single=True) as tx:
            found = await tx.files.find(owner=owner, status=status, label=label, before=before, limit=limit + 1)
        page = tuple(FileView.of(file) for file in found[:limit])
        return FilePage(page, cursor_after(page[-1].created_at, page[-1].id) if len(found) > limit else None)

    async def content(self, file_id: str, *, owner: str | None) -> SignedRequest:
        """A signed request that reads the file's content from the store, as an attachment under its name.

        The file may come from a copy, as in `get`. A URL for a file that was deleted meanwhile is dead with its object.

        Args:
            file_id: Which file.
            owner: Who asks, as in `get`.

        Raises:
            NoSuchFileError: Unknown, or not visible to who asks.
            FileNotReadyError: It has no content (yet, or any more).
        """
        file = await self._visible(file_id, owner)
        if file.status is not FileStatus.AVAILABLE:
            assert owner is not None, "others do not see it then"
            file = await self._owned(file_id, owner)  # a copy does not refuse its owner
        if file.status is not FileStatus.AVAILABLE:
            raise FileNotReadyError(file_id=file.id, status=file.status)
        return await self._store.presign_get(
            file.address,
            filename=file.download_name,
            content_type=file.content_type,
            expires_in=self._config.url_lifetime,
        )

    # --- change ---------------------------------------------------------------------------------------------------

    async def update(
        self,
        file_id: str,
        *,
        owner: str,
        if_version: int | None = None,
        name: str | None = None,
        title: str | None = None,
        description: str | None = None,
        labels: Sequence[str] | None = None,
        visibility: Visibility | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> FileView:
        """Change what is said about a file; `None` leaves a value as it is. What changes nothing is not written, and keeps the version.

        Args:
            file_id: Which file.
            owner: On whose behalf.
            if_version: Only if the file is at this version; `None`: whatever it is at, so that of two callers the last one wins.
            name: What it is called when it is downloaded; up to 1,024 bytes of UTF-8.
            title: Up to 1,024 bytes of UTF-8.
            description: Up to 16 KiB of UTF-8; may have several lines.
            labels: All of them, in this order: up to 32 different ones of 1 to 64 characters.
            visibility: Who else may read it.
            metadata: All of it; up to 2 KB of text values.

        Raises:
            InvalidRequestError: A value can't be used.
            NoSuchFileError: Unknown, or another owner's.
            FileNotReadyError: It is deleted, or just being deleted.
            VersionConflictError: It is not at `if_version`; or others keep changing it.

        Example:
            >>> import asyncio
            >>> from uploadcore import UploadCore, Visibility
            >>> from uploadcore_memory import MemoryDatabase, MemoryObjectStore
            >>> async def main():
            ...     async with UploadCore(store=MemoryObjectStore(), database=MemoryDatabase()) as core:
            ...         upload = await core.uploads.initiate(owner="u_1", filename="trip.mp4", size=3)
            ...         file = await core.files.update(
            ...             upload.file_id, owner="u_1", title="Trip", labels=["2026"], visibility=Visibility.PUBLIC
            ...         )
            ...         return file.title, file.labels, file.visibility, file.version
            >>> asyncio.run(main())
            ('Trip', ('2026',), <Visibility.PUBLIC: 'public'>, 1)
        """
        changes = FileChanges(
            name=name, title=title, description=description, labels=labels, visibility=visibility, metadata=metadata
        )
        for _ in range(ATTEMPTS):
            file = await self._owned(file_id, owner)
            if file.status in ENDED:
                raise FileNotReadyError(file_id=file.id, status=file.status, but="it takes no changes")
            _check_version(file, if_version)
            changed = changes.applied_to(file)
            if changed == file:
                return FileView.of(file)
            try:
                return FileView.of(await self._steps.save_file(changed))
            except VersionConflictError:
                continue
        raise VersionConflictError(f"file {file_id!r} keeps changing; try again", file_id=file_id)

    async def delete(self, file_id: str, *, owner: str, if_version: int | None = None) -> FileView:
        """Delete a file and its content. Recorded at once; what the store does not delete now, the sweeper deletes later.

        A file that is deleted already, or just being deleted, is answered as it is, whatever `if_version`: the call may be a retry.

        Args:
            file_id: Which file.
            owner: On whose behalf.
            if_version: Only if the file is at this version; `None`: whatever is said about it, as long as its content is the same.

        Raises:
            NoSuchFileError: Unknown, or another owner's.
            FileNotReadyError: It has no content to delete: abort its upload instead.
            VersionConflictError: It is not at `if_version`, or got new content meanwhile; look again.
        """
        file = await self._starts_deleting(file_id, owner, if_version)
        if file is None:
            return FileView.of(await self._owned(file_id, owner))
        try:
            file = await self._steps.delete_content(file)
        except (StoreUnavailableError, VersionConflictError):
            file = await self._owned(file_id, owner)
        return FileView.of(file)

    async def _starts_deleting(self, file_id: str, owner: str, if_version: int | None) -> File | None:
        """The file, `deleting` under a lease of ours; `None` if that was done before."""
        upload_id: str | None = None
        for _ in range(ATTEMPTS):
            file = await self._owned(file_id, owner)
            if file.status in ENDED:
                return None
            deleting = file.starts_deleting()
            _check_version(file, if_version)
            if upload_id not in {None, file.upload_id}:
                raise VersionConflictError(
                    f"file {file_id!r} got new content meanwhile: look at it again", file_id=file_id
                )
            upload_id = file.upload_id
            try:
                return await self._steps.save_file(deleting, lease=self._config.lease)
            except VersionConflictError:
                continue
        raise VersionConflictError(f"file {file_id!r} keeps changing; try again", file_id=file_id)

    # --- the rest -------------------------------------------------------------------------------------------------

    async def _visible(self, file_id: str, caller: str | None) -> File:
        file = await self._copies.get(file_id)
        if file is None or not file.is_visible_to(caller):
            raise NoSuchFileError(file_id=file_id)
        return file

    async def _owned(self, file_id: str, owner: str) -> File:
        async with self._database.reader(single=True) as tx:
            return await owned_file(tx, file_id, owner)


def _check_version(file: File, if_version: int | None) -> None:
    if if_version is not None and if_version != file.version:
        raise VersionConflictError(
            f"file {file.id!r} is at version {file.version}, not {if_version}: look at it again", file_id=file.id
        )
