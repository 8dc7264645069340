"""Who may upload what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

__all__ = ["Admission", "UploadPolicy", "UploadRequest"]


@dataclass(frozen=True, slots=True)
class UploadRequest:
    """What somebody asks for when initiating."""

    owner: str
    filename: str
    size: int | None
    content_type: str


@dataclass(frozen=True, slots=True)
class Admission:
    """What an owner may do. Limits of `None` are none; sizes in bytes.

    Attributes:
        max_size: Largest blob, whether its size was said before or not.
        max_unknown_size: What an upload of unknown size is charged, and may grow to; `max_size`, where that is less.
        max_open_uploads: Uploads open at a time.
        max_bytes_in_flight: Sum of their sizes.
        content_types: Accepted ones; a pattern may end in `/*`. Empty: any.
    """

    max_size: int | None = None
    max_unknown_size: int = 10 * 1024**3
    max_open_uploads: int | None = None
    max_bytes_in_flight: int | None = None
    content_types: tuple[str, ...] = ()


class UploadPolicy(Protocol):
    """Decides what may be uploaded."""

    async def admit(self, request: UploadRequest) -> Admission:
        """The limits for this request. Raises `ForbiddenError` to refuse it outright."""
