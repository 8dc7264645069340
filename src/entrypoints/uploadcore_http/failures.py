"""Whatever was raised while a request was served, as a problem document."""

from __future__ import annotations

import logging

from litestar.exceptions import HTTPException, MethodNotAllowedException, NotFoundException

from uploadcore.errors import InvalidRequestError, UploadCoreError
from uploadcore_http.problems import MethodNotAllowedError, RouteNotFoundError, UnexpectedError, problem_response
from uploadcore_http.responses import BytesResponse

__all__ = ["problem_for"]

log = logging.getLogger("uploadcore.http")


def problem_for(error: Exception, request_id: str) -> BytesResponse:
    """The answer to an error. One that nobody meant is logged here, once, with its traceback."""
    known: UploadCoreError
    if isinstance(error, UploadCoreError) and error.code != "internal":
        known = error
    elif isinstance(error, NotFoundException):
        known = RouteNotFoundError()
    elif isinstance(error, MethodNotAllowedException):
        known = MethodNotAllowedError((error.headers or {}).get("allow", ""))
    elif isinstance(error, HTTPException) and 400 <= error.status_code < 500:
        known = InvalidRequestError(error.detail)
    else:
        log.error("unexpected", extra={"request_id": request_id}, exc_info=error)
        known = UnexpectedError()
    return problem_response(known, request_id)
