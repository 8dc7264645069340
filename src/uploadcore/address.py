"""Where bytes lie at the store."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Address"]


@dataclass(frozen=True, slots=True, repr=False)
class Address:
    """Where the bytes lie. Server-side only: in no view, log or answer, hence without a telling `repr`.

    Attributes:
        bucket: The store's bucket, or whatever it calls one.
        key: Unique to one upload, so that whatever lies there can only be this upload's.
        storage_upload_id: The store's name for the multipart upload; `None` for a single PUT, while there is none yet, and for content
            that stands.
    """

    bucket: str
    key: str
    storage_upload_id: str | None = None

    def __repr__(self) -> str:
        """Say nothing."""
        return "Address(…)"
