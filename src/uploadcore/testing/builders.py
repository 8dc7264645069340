"""Records for tests: everything has a value, and only what matters to the test is said in it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from uploadcore.events import Event, EventType
from uploadcore.file import File
from uploadcore.plan import PartPlan
from uploadcore.states import UploadState
from uploadcore.upload import Address, Strategy, Upload

__all__ = ["make_event", "make_file", "make_upload"]

_numbers = itertools.count(1)
_NOTHING: Mapping[str, str] = MappingProxyType({})


def make_upload(
    id: str | None = None,  # noqa: A002 - the field's name
    *,
    owner: str = "u_1",
    size: int | None = 25,
    part_size: int = 10,
    state: UploadState = UploadState.PENDING,
    strategy: Strategy = Strategy.MULTIPART,
    storage_upload_id: str | None = None,
    **fields: Any,
) -> Upload:
    """An upload that was not saved yet, with an id and a key of its own.

    >>> make_upload("a", size=25).plan.part_count
    3
    """
    upload_id = id or f"upload-{next(_numbers):06}"
    values: dict[str, Any] = {
        "file_id": f"file-of-{upload_id}",
        "filename": "trip.mp4",
        "content_type": "video/mp4",
        "plan": PartPlan(part_size=part_size, size=size, max_parts=10_000),
        "address": Address("bucket", f"up/{upload_id}", storage_upload_id),
    }
    return Upload(id=upload_id, owner=owner, state=state, strategy=strategy, **(values | fields))


def make_file(
    id: str | None = None,  # noqa: A002 - the field's name
    *,
    owner: str = "u_1",
    name: str = "trip.mp4",
    upload_id: str = "upload-1",
    **fields: Any,
) -> File:
    """A file that was not saved yet, with an id of its own.

    >>> make_file("a").status
    <FileStatus.UPLOADING: 'uploading'>
    """
    values: dict[str, Any] = {"content_type": "video/mp4", "address": Address("bucket", f"up/{upload_id}")}
    return File(id=id or f"file-{next(_numbers):06}", owner=owner, name=name, upload_id=upload_id, **(values | fields))


def make_event(
    id: str | None = None,  # noqa: A002 - the field's name
    *,
    upload_id: str = "upload-1",
    kind: EventType = EventType.UPLOAD_COMPLETED,
    data: Mapping[str, str] = _NOTHING,
) -> Event:
    """An event that was not written yet, with an id of its own.

    >>> make_event("a").type
    <EventType.UPLOAD_COMPLETED: 'upload.completed'>
    """
    return Event(
        type=kind,
        owner="u_1",
        upload_id=upload_id,
        file_id=f"file-of-{upload_id}",
        id=id or f"event-{next(_numbers):06}",
        data=data,
    )
