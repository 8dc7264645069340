"""What is announced: facts, written in the same transaction as the change they tell of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType

__all__ = ["Event", "EventType"]


class EventType(StrEnum):
    """The kinds of event. The values are public: they travel to other systems."""

    UPLOAD_COMPLETED = "upload.completed"
    UPLOAD_ABORTED = "upload.aborted"
    UPLOAD_EXPIRED = "upload.expired"
    UPLOAD_FAILED = "upload.failed"
    UPLOAD_REOPENED = "upload.reopened"
    FILE_DELETED = "file.deleted"


@dataclass(frozen=True, slots=True)
class Event:
    """One fact about an upload and its file.

    Attributes:
        type: What happened.
        owner: Whose upload it is.
        upload_id: Events are delivered in order per upload.
        file_id: The file it brought, or was to bring.
        data: Plain text values (`size` in bytes, `state`, `reason`, …). Never an address, a URL or a secret.
        id: Stable: the same on every delivery. Derived from the upload, its version and the type.
        occurred_at: Set by the database when it is written.
    """

    type: EventType
    owner: str
    upload_id: str
    file_id: str
    id: str
    data: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    occurred_at: datetime | None = None
