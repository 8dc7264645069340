"""What answers mean: a store's to a part, the service's to a call."""

from __future__ import annotations

import pytest

from uploadcore import errors
from uploadcore_client import UnauthenticatedError, UnexpectedAnswerError
from uploadcore_client.answers import Meaning, meaning_of
from uploadcore_client.api import to_error
from uploadcore_client.connection import Answer, retry_after_of


@pytest.mark.parametrize(
    ("status", "code", "meaning"),
    [
        (200, "", Meaning.STORED),
        (204, "", Meaning.STORED),
        (400, "ExpiredToken", Meaning.SIGN_AGAIN),
        (400, "RequestTimeout", Meaning.TRY_AGAIN),
        (400, "BadDigest", Meaning.DAMAGED),
        (400, "EntityTooLarge", Meaning.REFUSED),
        (403, "AccessDenied", Meaning.SIGN_AGAIN),
        (403, "SignatureDoesNotMatch", Meaning.SIGN_AGAIN),
        (404, "NoSuchUpload", Meaning.LOST),
        (404, "", Meaning.LOST),
        (409, "OperationAborted", Meaning.TRY_AGAIN),
        (411, "MissingContentLength", Meaning.REFUSED),
        (412, "PreconditionFailed", Meaning.EXISTS),
        (429, "", Meaning.TRY_AGAIN),
        (500, "InternalError", Meaning.TRY_AGAIN),
        (503, "SlowDown", Meaning.TRY_AGAIN),
        (507, "InsufficientStorage", Meaning.FULL),
        (302, "", Meaning.REFUSED),
    ],
)
def test_a_stores_answer_means(status: int, code: str, meaning: Meaning) -> None:
    assert meaning_of(Answer(status, {}, code)) is meaning


def public_codes() -> list[str]:
    kinds: list[type[errors.UploadCoreError]] = [getattr(errors, name) for name in errors.__all__]
    return sorted({kind.code for kind in kinds} - {"internal"})


@pytest.mark.parametrize("code", public_codes())
def test_every_code_of_the_core_comes_back_as_the_cores_error(code: str) -> None:
    error = to_error(409, {"code": code, "detail": "why", "upload_id": "u", "file_id": "f", "missing": [[1, 2]]})

    assert error.code == code
    assert type(error).__module__ == "uploadcore.errors"


def test_attributes_come_with_it() -> None:
    missing = to_error(409, {"code": "parts_missing", "upload_id": "u", "missing": [[2, 5]], "mismatched": [7]})
    closed = to_error(409, {"code": "upload_closed", "upload_id": "u", "state": "aborted", "reason": "expired"})
    busy = to_error(409, {"code": "upload_busy", "upload_id": "u", "detail": "d"}, retry_after=7)

    assert isinstance(missing, errors.PartsMissingError)
    assert (missing.missing, missing.mismatched) == (((2, 5),), (7,))
    assert isinstance(closed, errors.UploadClosedError)
    assert (closed.state, closed.reason) == ("aborted", "expired")
    assert isinstance(busy, errors.UploadBusyError)
    assert busy.retry_after == 7


def test_an_answer_of_nobody_we_know_is_unexpected() -> None:
    assert isinstance(to_error(401, {}), UnauthenticatedError)
    error = to_error(418, {"code": "teapot"})
    assert isinstance(error, UnexpectedAnswerError)
    assert (error.status, error.answered_code) == (418, "teapot")


@pytest.mark.parametrize(
    ("value", "seconds"), [("7", 7.0), ("0", 0.0), ("Wed, 21 Oct 2015 07:28:00 GMT", None), ("", None)]
)
def test_retry_after_in_seconds_is_understood(value: str, seconds: float | None) -> None:
    assert retry_after_of({"retry-after": value}) == seconds
