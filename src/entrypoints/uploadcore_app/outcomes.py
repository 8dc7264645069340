"""How a call ended, in one word out of a bounded number: what metrics and spans call it."""

from __future__ import annotations

import asyncio

from uploadcore.errors import NoSuchMultipartError, PartsRejectedError, UploadCoreError

__all__ = ["FAILURES", "outcome_of"]

FAILURES = frozenset(
    {"store_unavailable", "database_unavailable", "overloaded", "storage_full", "internal", "unexpected"}
)
"""Outcomes of what went wrong here or further on. What a caller did wrong, or another was faster at, is none."""
_UNPUBLISHED = {NoSuchMultipartError: "no_such_multipart", PartsRejectedError: "parts_rejected"}
"""Errors between the core and a store: their code says no more than that they are internal."""


def outcome_of(error: BaseException | None) -> str:
    """`ok`; the code of an error of ours; `cancelled`, or `unexpected`.

    >>> from uploadcore.errors import StoreUnavailableError
    >>> outcome_of(StoreUnavailableError("no answer in 10 s"))
    'store_unavailable'
    """
    if error is None:
        return "ok"
    for kind, name in _UNPUBLISHED.items():
        if isinstance(error, kind):
            return name
    if isinstance(error, UploadCoreError):
        return error.code
    return "cancelled" if isinstance(error, asyncio.CancelledError | GeneratorExit) else "unexpected"
