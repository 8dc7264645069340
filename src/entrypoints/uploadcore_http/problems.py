"""Errors as the client sees them: RFC 9457 problem details. The one place that knows which status a code has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import msgspec

from uploadcore.errors import (
    FileNotReadyError,
    OverloadedError,
    PartsMissingError,
    UploadBusyError,
    UploadClosedError,
    UploadCoreError,
)
from uploadcore_http.asgi import Receive, Scope, Send
from uploadcore_http.responses import BytesResponse

__all__ = [
    "PROBLEM_JSON",
    "STATUS",
    "TITLES",
    "BodyTooLargeError",
    "MethodNotAllowedError",
    "PartRange",
    "Problem",
    "RateLimitedError",
    "RouteNotFoundError",
    "UnauthenticatedError",
    "UnexpectedError",
    "problem_response",
    "problem_type",
]

PROBLEM_JSON = "application/problem+json"
"""Source: RFC 9457, section 6.1."""

STATUS: dict[str, int] = {
    "invalid_request": 400,
    "unauthenticated": 401,
    "forbidden": 403,
    "quota_exceeded": 403,
    "not_found": 404,
    "upload_not_found": 404,
    "file_not_found": 404,
    "method_not_allowed": 405,
    "upload_busy": 409,
    "upload_closed": 409,
    "parts_missing": 409,
    "file_not_ready": 409,
    "version_conflict": 412,
    "too_large": 413,
    "content_type_not_allowed": 415,
    "part_out_of_range": 422,
    "idempotency_mismatch": 422,
    "checksum_mismatch": 422,
    "rate_limited": 429,
    "internal": 500,
    "store_unavailable": 503,
    "database_unavailable": 503,
    "overloaded": 503,
    "storage_full": 507,
}
"""HTTP status by error code. Tests hold it against every code the core has."""

TITLES: dict[str, str] = {
    "invalid_request": "The request can't be used",
    "unauthenticated": "Who are you?",
    "forbidden": "Not allowed",
    "quota_exceeded": "Quota used up",
    "not_found": "No such address",
    "upload_not_found": "No such upload",
    "file_not_found": "No such file",
    "method_not_allowed": "Method not allowed",
    "upload_busy": "The upload is busy",
    "upload_closed": "The upload is closed",
    "parts_missing": "Parts are missing",
    "file_not_ready": "The file has no content",
    "version_conflict": "Changed meanwhile",
    "too_large": "Too large",
    "content_type_not_allowed": "Type not accepted",
    "part_out_of_range": "No such part",
    "idempotency_mismatch": "Idempotency key used for another request",
    "checksum_mismatch": "Checksums differ",
    "rate_limited": "Too many requests",
    "internal": "Something went wrong here",
    "store_unavailable": "The object store does not answer",
    "database_unavailable": "The database does not answer",
    "overloaded": "Too busy",
    "storage_full": "No room left",
}

UNAVAILABLE_RETRY_AFTER = 2
"""Seconds told to callers while store or database are away: soon, for nothing is lost meanwhile."""


class UnauthenticatedError(UploadCoreError):
    """Nobody, or nobody we know."""

    code = "unauthenticated"

    def __init__(self, message: str = "send a valid token: Authorization: Bearer …") -> None:
        super().__init__(message)


class RouteNotFoundError(UploadCoreError):
    """There is nothing at this path."""

    code = "not_found"

    def __init__(self) -> None:
        super().__init__("there is nothing at this path; /schema says what there is")


class MethodNotAllowedError(UploadCoreError):
    """There is something at this path, but not for this method.

    Attributes:
        allow: The methods there are, as in the `Allow` header.
    """

    code = "method_not_allowed"

    def __init__(self, allow: str) -> None:
        super().__init__(f"this path takes {allow}")
        self.allow = allow


class BodyTooLargeError(UploadCoreError):
    """The request body is larger than any valid one; the connection is closed, for the rest of it is not read."""

    code = "too_large"

    def __init__(self, limit: int) -> None:
        super().__init__(f"a body has at most {limit} bytes here; a file's bytes go to its signed URLs")


class RateLimitedError(UploadCoreError):
    """The caller asks too often.

    Attributes:
        retry_after: Seconds until the caller is let in again.
    """

    code = "rate_limited"

    def __init__(self, limit: str, *, retry_after: int) -> None:
        super().__init__(f"asked more often than {limit}: try again in {retry_after} s")
        self.retry_after = retry_after


class UnexpectedError(UploadCoreError):
    """A defect. What it is stands in the log, under the request's id."""

    code = "internal"

    def __init__(self) -> None:
        super().__init__("something went wrong here; the log has it under this request_id")


PartRange = Annotated[
    tuple[int, ...], msgspec.Meta(min_length=2, max_length=2, description="First and last, inclusive.")
]
"""Two part numbers. Not `tuple[int, int]`, for which msgspec writes a schema that OpenAPI 3.1 does not know."""


class Problem(msgspec.Struct, omit_defaults=True):
    """A problem document. What a member is there for depends on `code`."""

    type: str
    code: str
    title: str
    status: int
    detail: str
    request_id: str
    upload_id: str | None = None
    file_id: str | None = None
    state: str | None = None
    reason: str | None = None
    missing: Sequence[PartRange] | None = None
    mismatched: Sequence[int] | None = None
    retry_after: int | None = None


_encode = msgspec.json.Encoder().encode
PROBLEM_KEY = "uploadcore_problem"


def problem_type(code: str) -> str:
    """The problem type of a code: a name, not an address (RFC 9457, section 4.2.1 and RFC 4151).

    >>> problem_type("parts_missing")
    'tag:uploadcore,2026:/errors/parts_missing'
    """
    return f"tag:uploadcore,2026:/errors/{code}"


class ProblemResponse(BytesResponse):
    """A problem document, whose code is left in the request's state when it is sent: for metrics and traces."""

    __slots__ = ("_code",)

    def __init__(self, code: str, body: bytes, headers: Mapping[str, str]) -> None:
        super().__init__(body, STATUS[code], PROBLEM_JSON, headers)
        self._code = code

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"][PROBLEM_KEY] = self._code
        await super().__call__(scope, receive, send)


def problem_response(error: UploadCoreError, request_id: str) -> BytesResponse:
    """The answer for an error raised on purpose."""
    code = error.code
    problem = Problem(
        type=problem_type(code),
        code=code,
        title=TITLES[code],
        status=STATUS[code],
        detail=error.message,
        request_id=request_id,
        upload_id=error.upload_id,
        file_id=error.file_id,
    )
    if isinstance(error, PartsMissingError):
        problem.missing, problem.mismatched = error.missing, error.mismatched
    elif isinstance(error, UploadClosedError):
        problem.state, problem.reason = error.state, error.reason
    elif isinstance(error, FileNotReadyError):
        problem.state = error.status
    elif isinstance(error, (UploadBusyError, OverloadedError, RateLimitedError)):
        problem.retry_after = error.retry_after
    elif STATUS[code] == 503:
        problem.retry_after = UNAVAILABLE_RETRY_AFTER
    return ProblemResponse(code, _encode(problem), _headers(error, problem))


def _headers(error: UploadCoreError, problem: Problem) -> Mapping[str, str]:
    headers = {}
    if problem.retry_after is not None:
        headers["retry-after"] = str(problem.retry_after)
    if isinstance(error, UnauthenticatedError):
        headers["www-authenticate"] = 'Bearer realm="uploadcore"'
    elif isinstance(error, MethodNotAllowedError):
        headers["allow"] = error.allow
    elif isinstance(error, BodyTooLargeError):
        headers["connection"] = "close"
    return headers
