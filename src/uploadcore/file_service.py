"""The use cases of a request: files."""

from __future__ import annotations

from uploadcore.config import UploadConfig
from uploadcore.errors import FileNotReadyError, StoreUnavailableError, VersionConflictError
from uploadcore.file import File, FileStatus, FileView
from uploadcore.ports import Database, ObjectStore, SignedRequest
from uploadcore.records import existing_upload, owned_file
from uploadcore.steps import UploadSteps

__all__ = ["FileService"]


class FileService:
    """Read and delete files. Made by `UploadCore`; use it as `core.files`."""

    def __init__(self, *, store: ObjectStore, database: Database, steps: UploadSteps, config: UploadConfig) -> None:
        """Work on these ports."""
        self._store = store
        self._database = database
        self._steps = steps
        self._config = config

    async def get(self, file_id: str, *, owner: str) -> FileView:
        """One file.

        Raises:
            NoSuchFileError: Unknown, or another owner's.
        """
        return FileView.of(await self._owned(file_id, owner))

    async def content(self, file_id: str, *, owner: str) -> SignedRequest:
        """A signed request that reads the file's content from the store, as an attachment under its name.

        Raises:
            NoSuchFileError: Unknown, or another owner's.
            FileNotReadyError: It has no content (yet, or any more).
        """
        async with self._database.reader() as tx:
            file = await owned_file(tx, file_id, owner)
            upload = await existing_upload(tx, file.upload_id)
        if file.status is not FileStatus.AVAILABLE:
            raise FileNotReadyError(file_id=file.id, status=file.status)
        return await self._store.presign_get(
            upload.address, filename=file.name, content_type=file.content_type, expires_in=self._config.url_lifetime
        )

    async def delete(self, file_id: str, *, owner: str) -> FileView:
        """Delete a file and its content. Recorded at once; what the store does not delete now, the sweeper deletes later.

        Raises:
            NoSuchFileError: Unknown, or another owner's.
            FileNotReadyError: It has no content to delete: abort its upload instead.
            VersionConflictError: It was changed meanwhile; look again.
        """
        file = await self._owned(file_id, owner)
        if file.status in {FileStatus.DELETING, FileStatus.DELETED}:
            return FileView.of(file)
        async with self._database.transaction() as tx:
            file = await tx.files.save(file.starts_deleting(), lease=self._config.lease)
        try:
            file = await self._steps.delete_content(file)
        except (StoreUnavailableError, VersionConflictError):
            file = await self._owned(file_id, owner)
        return FileView.of(file)

    async def _owned(self, file_id: str, owner: str) -> File:
        async with self._database.reader() as tx:
            return await owned_file(tx, file_id, owner)
