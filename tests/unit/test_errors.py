"""Every error has a stable code and carries what its caller needs."""

from __future__ import annotations

import pytest

from uploadcore import errors
from uploadcore.errors import (
    FileNotReadyError,
    NoSuchFileError,
    OverloadedError,
    PartsMissingError,
    UploadBusyError,
    UploadClosedError,
    UploadCoreError,
    UploadNotFoundError,
)

# The words of the HTTP API and of the command line: a change of one breaks its users.
CODES = {
    "ChecksumMismatchError": "checksum_mismatch",
    "ContentTypeNotAllowedError": "content_type_not_allowed",
    "DatabaseUnavailableError": "database_unavailable",
    "DeliveryError": "internal",
    "FileNotReadyError": "file_not_ready",
    "ForbiddenError": "forbidden",
    "IdempotencyMismatchError": "idempotency_mismatch",
    "IllegalTransitionError": "internal",
    "InvalidRequestError": "invalid_request",
    "NoSuchFileError": "file_not_found",
    "NoSuchMultipartError": "internal",
    "OverloadedError": "overloaded",
    "PartOutOfRangeError": "part_out_of_range",
    "PartsMissingError": "parts_missing",
    "PartsRejectedError": "internal",
    "QuotaExceededError": "quota_exceeded",
    "StorageFullError": "storage_full",
    "StoreOverloadedError": "overloaded",
    "StoreUnavailableError": "store_unavailable",
    "TooLargeError": "too_large",
    "UndeliverableError": "internal",
    "UploadBusyError": "upload_busy",
    "UploadClosedError": "upload_closed",
    "UploadCoreError": "internal",
    "UploadNotFoundError": "upload_not_found",
    "VersionConflictError": "version_conflict",
}


def test_every_error_is_listed_here() -> None:
    assert set(CODES) == set(errors.__all__)


@pytest.mark.parametrize(("name", "code"), list(CODES.items()))
def test_codes_stay(name: str, code: str) -> None:
    kind = getattr(errors, name)
    assert issubclass(kind, UploadCoreError)
    assert kind.code == code
    assert kind.__doc__


def test_an_error_says_what_it_is_about() -> None:
    error = UploadCoreError("what happened", upload_id="u", file_id="f")
    assert (str(error), error.message, error.upload_id, error.file_id) == ("what happened", "what happened", "u", "f")


def test_a_thing_not_found_is_named() -> None:
    assert UploadNotFoundError(upload_id="u").upload_id == "u"
    assert "'u'" in UploadNotFoundError(upload_id="u").message
    assert NoSuchFileError(file_id="f").file_id == "f"
    assert "'f'" in NoSuchFileError(file_id="f").message


@pytest.mark.parametrize(
    "error", [UploadBusyError("busy", upload_id="u", retry_after=7), OverloadedError("full", retry_after=7)]
)
def test_what_passes_says_when_to_come_again(error: UploadBusyError | OverloadedError) -> None:
    assert error.retry_after == 7


@pytest.mark.parametrize(("reason", "told"), [("expired", "is aborting (expired) and"), (None, "is aborting and")])
def test_a_closed_upload_says_how_and_why(reason: str | None, told: str) -> None:
    error = UploadClosedError(upload_id="u", state="aborting", reason=reason)
    assert (error.upload_id, error.state, error.reason) == ("u", "aborting", reason)
    assert told in error.message


def test_missing_parts_are_named_and_a_message_given_is_kept() -> None:
    error = PartsMissingError(upload_id="u", missing=[(2, 3)], mismatched=[5])
    assert (error.upload_id, error.missing, error.mismatched) == ("u", ((2, 3),), (5,))
    assert "complete again" in error.message
    assert PartsMissingError(upload_id="u", missing=(), mismatched=(), message="other").message == "other"


def test_a_file_that_is_not_ready_says_what_it_is() -> None:
    error = FileNotReadyError(file_id="f", status="deleted")
    assert (error.file_id, error.status) == ("f", "deleted")
    assert "deleted" in error.message
