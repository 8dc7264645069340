"""What is announced: facts, written in the same transaction as the change they tell of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from types import MappingProxyType

__all__ = ["Event", "EventType", "cloud_event"]

SEQUENCE_DIGITS = 20
"""Of a position in a CloudEvent: all that 64 bits can count to, so that positions compare as text as they do as numbers."""


class EventType(StrEnum):
    """The kinds of event. The values are public: they travel to other systems."""

    UPLOAD_COMPLETED = "upload.completed"
    UPLOAD_ABORTED = "upload.aborted"
    UPLOAD_EXPIRED = "upload.expired"
    UPLOAD_FAILED = "upload.failed"
    UPLOAD_REOPENED = "upload.reopened"
    FILE_DELETED = "file.deleted"
    FILE_DAMAGED = "file.damaged"
    """What the store has is no longer what was completed."""


@dataclass(frozen=True, slots=True)
class Event:
    """One fact about an upload and its file.

    Attributes:
        type: What happened: an `EventType`, or the name of one that a later version of this code has written.
        owner: Whose upload it is.
        upload_id: Events are delivered in order per upload.
        file_id: The file it brought, or was to bring.
        data: Plain text values (`size` in bytes, `state`, `reason`, …). Never an address, a URL or a secret.
        id: Stable: the same on every delivery. Of an upload: its id, its version and the last word of the type, as in `0197…-4-completed`; of a file:
            `…-deleted`, and the upload's `…-damaged`. Never that of another event, also where a database restored from an older copy gives a version again.
        occurred_at: Set by the database when it is written.
        position: Its place among all events, from 1, without gaps, given by the relay once it is committed: who has seen a position has seen, or
            can see, all before it. `None` before that.
    """

    type: str
    owner: str
    upload_id: str
    file_id: str
    id: str
    data: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    occurred_at: datetime | None = None
    position: int | None = None


def cloud_event(event: Event, *, source: str) -> dict[str, object]:
    """The event in the JSON format of CloudEvents 1.0, which it travels in to other systems.

    `sequence` and `partitionkey` are documented extensions of CloudEvents ("Sequence", "Partitioning"): the position, and the upload, whose events
    come in order.

    Args:
        event: As the relay delivers it: with its time and position.
        source: A URI that says whose events these are; with `id`, it identifies an event among those of all sources.

    >>> from datetime import UTC, datetime
    >>> moment = datetime(2026, 1, 1, 12, 0, 0, 500_000, tzinfo=UTC)
    >>> event = Event(EventType.UPLOAD_COMPLETED, "u_1", "a", "f", "a-4-completed", {"size": "25"}, occurred_at=moment, position=7)
    >>> told = cloud_event(event, source="https://uploads.example.com")
    >>> told["type"], told["time"], told["sequence"]
    ('uploadcore.upload.completed', '2026-01-01T12:00:00.500000Z', '00000000000000000007')
    >>> told["data"]
    {'upload_id': 'a', 'file_id': 'f', 'owner': 'u_1', 'size': '25'}
    """
    told: dict[str, object] = {
        "specversion": "1.0",
        "id": event.id,
        "source": source,
        "type": f"uploadcore.{event.type}",
        "subject": event.upload_id,
        "datacontenttype": "application/json",
        "partitionkey": event.upload_id,
        "data": {"upload_id": event.upload_id, "file_id": event.file_id, "owner": event.owner, **event.data},
    }
    if event.occurred_at is not None:
        told["time"] = event.occurred_at.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if event.position is not None:
        told["sequence"] = f"{event.position:0{SEQUENCE_DIGITS}}"
    return told
