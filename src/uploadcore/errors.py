"""Every error this library raises on purpose, keyed by what it means.

Each carries a stable `code` (the same word in Python, in a problem document and on the command line), the upload or file it is
about, and whatever the caller needs to go on. HTTP statuses are not known here: they belong to `uploadcore_http`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

__all__ = [
    "ChecksumMismatchError",
    "ContentTypeNotAllowedError",
    "DatabaseUnavailableError",
    "DeliveryError",
    "FileNotReadyError",
    "ForbiddenError",
    "IdempotencyMismatchError",
    "IllegalTransitionError",
    "InvalidRequestError",
    "NoSuchFileError",
    "NoSuchMultipartError",
    "OverloadedError",
    "PartOutOfRangeError",
    "PartsMissingError",
    "PartsRejectedError",
    "QuotaExceededError",
    "StorageFullError",
    "StoreOverloadedError",
    "StoreUnavailableError",
    "TooLargeError",
    "UndeliverableError",
    "UploadBusyError",
    "UploadClosedError",
    "UploadCoreError",
    "UploadNotFoundError",
    "VersionConflictError",
]


class UploadCoreError(Exception):
    """Base of every error raised on purpose.

    Attributes:
        code: Stable, lower-case word for programs to compare.
        message: One sentence for a person: what happened, and what to do next.
        upload_id: The upload it is about, if any.
        file_id: The file it is about, if any.

    >>> UploadNotFoundError(upload_id="u1").code
    'upload_not_found'
    """

    code: ClassVar[str] = "internal"

    def __init__(self, message: str, *, upload_id: str | None = None, file_id: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.upload_id = upload_id
        self.file_id = file_id


class InvalidRequestError(UploadCoreError):
    """A value the caller gave can't be used; nothing was changed."""

    code = "invalid_request"


class ForbiddenError(UploadCoreError):
    """The principal may not do this."""

    code = "forbidden"


class QuotaExceededError(UploadCoreError):
    """The owner's open uploads or bytes in flight are used up."""

    code = "quota_exceeded"


class UploadNotFoundError(UploadCoreError):
    """No such upload, or it is another owner's: the two can't be told apart."""

    code = "upload_not_found"

    def __init__(self, *, upload_id: str) -> None:
        super().__init__(f"there is no upload {upload_id!r} of yours", upload_id=upload_id)


class NoSuchFileError(UploadCoreError):
    """No such file, or it is another owner's: the two can't be told apart."""

    code = "file_not_found"

    def __init__(self, *, file_id: str) -> None:
        super().__init__(f"there is no file {file_id!r} of yours", file_id=file_id)


class UploadBusyError(UploadCoreError):
    """Another caller is opening or completing the upload; ask again after `retry_after` seconds."""

    code = "upload_busy"

    def __init__(self, message: str, *, upload_id: str, retry_after: int = 1) -> None:
        super().__init__(message, upload_id=upload_id)
        self.retry_after = retry_after


class UploadClosedError(UploadCoreError):
    """The upload has ended or is ending; `state` says how, `reason` why."""

    code = "upload_closed"

    def __init__(self, *, upload_id: str, state: str, reason: str | None) -> None:
        because = f" ({reason})" if reason else ""
        super().__init__(f"upload {upload_id!r} is {state}{because} and takes no more of this", upload_id=upload_id)
        self.state = state
        self.reason = reason


class PartsMissingError(UploadCoreError):
    """The store does not hold exactly the planned parts; nothing was changed.

    Attributes:
        missing: Inclusive ranges of part numbers the store does not have.
        mismatched: Part numbers whose size (or checksum) is not the planned one, or that lie beyond the plan.
    """

    code = "parts_missing"

    def __init__(
        self, *, upload_id: str, missing: Sequence[tuple[int, int]], mismatched: Sequence[int], message: str = ""
    ) -> None:
        super().__init__(
            message or f"upload {upload_id!r} is not whole: send the missing and mismatched parts, then complete again",
            upload_id=upload_id,
        )
        self.missing = tuple(missing)
        self.mismatched = tuple(mismatched)


class FileNotReadyError(UploadCoreError):
    """The file has no content yet, or none any more, and takes no changes then; `status` says which."""

    code = "file_not_ready"

    def __init__(self, *, file_id: str, status: str, but: str = "it has no content to read") -> None:
        super().__init__(f"file {file_id!r} is {status}: {but}", file_id=file_id)
        self.status = status


class VersionConflictError(UploadCoreError):
    """The record was changed by somebody else, or a time condition on it does not hold; read it again and decide again."""

    code = "version_conflict"


class TooLargeError(UploadCoreError):
    """The blob, or what was asked for it, is larger than allowed or than the store can hold."""

    code = "too_large"


class ContentTypeNotAllowedError(UploadCoreError):
    """This content type is not accepted here."""

    code = "content_type_not_allowed"


class PartOutOfRangeError(UploadCoreError):
    """A part number, or a length for it, does not fit the plan."""

    code = "part_out_of_range"


class IdempotencyMismatchError(UploadCoreError):
    """The idempotency key was used before with another request body."""

    code = "idempotency_mismatch"


class ChecksumMismatchError(UploadCoreError):
    """The bytes at the store do not have the checksum that was declared."""

    code = "checksum_mismatch"


class StoreUnavailableError(UploadCoreError):
    """The object store did not answer, or its answer says nothing about the outcome. Nothing is lost: try again."""

    code = "store_unavailable"


class DatabaseUnavailableError(UploadCoreError):
    """The database did not answer. Nothing acknowledged is lost: try again.

    Attributes:
        is_away: It can't be asked at all, for now: there is nothing to put right here but to wait.
    """

    code = "database_unavailable"

    def __init__(
        self, message: str, *, is_away: bool = False, upload_id: str | None = None, file_id: str | None = None
    ) -> None:
        super().__init__(message, upload_id=upload_id, file_id=file_id)
        self.is_away = is_away


class DeliveryError(UploadCoreError):
    """Event publisher port only: the event was not delivered, or nobody knows. It comes again; the message is kept and shown, and has no secret.

    Attributes:
        retry_after: Seconds for which the receiver wants to be left alone; 0 where it did not say.
    """

    code = "internal"

    def __init__(self, message: str, *, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class OverloadedError(UploadCoreError):
    """Too much is waiting already; try again after `retry_after` seconds."""

    code = "overloaded"

    def __init__(self, message: str, *, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class StoreOverloadedError(StoreUnavailableError, OverloadedError):
    """As many calls wait for the object store as may, and this one was not made. Nothing is lost: try again."""

    code = "overloaded"


class StorageFullError(UploadCoreError):
    """The store has no room left. The upload stays as it is and can go on once there is."""

    code = "storage_full"


class UndeliverableError(UploadCoreError):
    """Event publisher port only: no retry can deliver this event, for its receiver is gone or refuses it for good. A dead letter at once."""

    code = "internal"


class IllegalTransitionError(UploadCoreError):
    """The state machine has no such edge. A defect if it reaches a user: callers look at the state first."""

    code = "internal"


class NoSuchMultipartError(UploadCoreError):
    """Store port only: the store knows no such multipart upload (completed, aborted, reaped or never made)."""

    code = "internal"


class PartsRejectedError(UploadCoreError):
    """Store port only: the store definitely refused to assemble these parts, and nothing was assembled."""

    code = "internal"
