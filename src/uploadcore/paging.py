"""Lists, a page at a time: newest first, each page strictly after the last thing of the page before."""

from __future__ import annotations

import base64
from datetime import UTC, datetime

from uploadcore.errors import InvalidRequestError
from uploadcore.records import ID

__all__ = ["MAX_PAGE", "cursor_after", "page_start"]

MAX_PAGE = 1_000
"""Things on a page, at most."""


def cursor_after(created_at: datetime, last_id: str) -> str:
    """The cursor of the page that begins after this one's last thing."""
    return base64.urlsafe_b64encode(f"{created_at.isoformat()} {last_id}".encode()).decode()


def page_start(cursor: str | None, limit: int) -> tuple[datetime, str] | None:
    """What a page begins strictly after; `None` for the first.

    Raises:
        InvalidRequestError: The cursor is not one of ours, or the limit is not 1 to 1,000.
    """
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidRequestError(f"limit is 1 to {MAX_PAGE}, not {limit}")
    if cursor is None:
        return None
    try:
        moment, _, last_id = base64.b64decode(cursor, altchars=b"-_", validate=True).decode().partition(" ")
        created_at = datetime.fromisoformat(moment).astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidRequestError("the cursor is not one that was given out here") from None
    if not ID.fullmatch(last_id):
        raise InvalidRequestError("the cursor is not one that was given out here")
    return created_at, last_id
