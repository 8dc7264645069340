"""Records that are there and fit for what is asked, or else the error that says why not. Uploads and files are never removed from the database."""

from __future__ import annotations

import re

from uploadcore.errors import NoSuchFileError, UploadBusyError, UploadClosedError, UploadNotFoundError
from uploadcore.file import File
from uploadcore.ports import Transaction
from uploadcore.states import UploadState
from uploadcore.upload import Upload

__all__ = ["ID", "busy", "closed", "existing_file", "existing_upload", "owned_file", "underway"]

ID = re.compile(r"[A-Za-z0-9-]{1,64}")
"""What `IdFactory` makes. Anything else names nothing, and is not shown to a database that might choke on it."""


async def existing_upload(tx: Transaction, upload_id: str) -> Upload:
    """The upload of this id, whoever owns it.

    Raises:
        UploadNotFoundError: There is none.
    """
    upload = await tx.uploads.get(upload_id) if ID.fullmatch(upload_id) else None
    if upload is None:
        raise UploadNotFoundError(upload_id=upload_id)
    return upload


async def existing_file(tx: Transaction, file_id: str, *, hold: bool = False) -> File:
    """The file of this id, whoever owns it; `hold`: nobody else changes it until the transaction ends.

    Raises:
        NoSuchFileError: There is none.
    """
    file = await tx.files.get(file_id, hold=hold) if ID.fullmatch(file_id) else None
    if file is None:
        raise NoSuchFileError(file_id=file_id)
    return file


async def owned_file(tx: Transaction, file_id: str, owner: str) -> File:
    """The file of this id, if it is this owner's.

    Raises:
        NoSuchFileError: Unknown, or another owner's.
    """
    file = await existing_file(tx, file_id)
    if file.owner != owner:
        raise NoSuchFileError(file_id=file_id)
    return file


def busy(upload: Upload) -> UploadBusyError:
    """The error that says who is at work on it."""
    doing = "opened" if upload.state is UploadState.PENDING else "completed"
    return UploadBusyError(f"upload {upload.id!r} is just being {doing}; try again", upload_id=upload.id)


def underway(upload: Upload) -> Upload:
    """The same upload, if the store has its parts or is assembling them."""
    if upload.state is UploadState.PENDING:
        raise busy(upload)
    if upload.state not in {UploadState.UPLOADING, UploadState.COMPLETING}:
        raise closed(upload)
    return upload


def closed(upload: Upload) -> UploadClosedError:
    """The error that says how and why it has ended."""
    return UploadClosedError(upload_id=upload.id, state=upload.state, reason=upload.reason)
