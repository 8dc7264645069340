"""The history of an upload, and what its plan says in plain arithmetic."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from uploadcore.file import File
from uploadcore.states import UploadState
from uploadcore.upload import Upload

if TYPE_CHECKING:
    from tests.model.processes import Operation

__all__ = ["FileHistory", "Life", "Snapshot", "is_whole", "planned"]


@dataclass(frozen=True)
class Snapshot:
    """An upload from one moment to the next.

    Attributes:
        parts: Sizes by part number, as the store would list them; `None` once an object stands instead, unless the store goes on listing them.
    """

    position: int
    at: datetime
    state: UploadState
    parts: Mapping[int, int] | None


@dataclass(eq=False)
class Life:
    """The history of one upload.

    Attributes:
        content: What its object was when it was completed.
        stood: What its object was assembled to be, and has become by parts that were sent late.
    """

    first: Upload
    now: Upload
    storage_ids: set[str] = field(default_factory=set)
    timeline: list[Snapshot] = field(default_factory=list)
    holder: Operation | None = None
    content: bytes | None = None
    stood: list[bytes] = field(default_factory=list)

    @property
    def is_altered(self) -> bool:
        """Whether somebody has sent a part of it after it was assembled."""
        return len(self.stood) > 1

    def since(self, position: int) -> Iterator[Snapshot]:
        """How it was at `position`, and how since."""
        for snapshot, following in zip(self.timeline, [*self.timeline[1:], None], strict=True):
            if following is None or following.position > position:
                yield snapshot

    def states_since(self, position: int) -> set[UploadState]:
        """Its states since then."""
        return {snapshot.state for snapshot in self.since(position)}

    def states_since_time(self, moment: datetime) -> set[UploadState]:
        """Its states since that moment."""
        pairs = zip(self.timeline, [*self.timeline[1:], None], strict=True)
        return {snapshot.state for snapshot, following in pairs if following is None or following.at >= moment}


@dataclass(eq=False)
class FileHistory:
    """What was said about one file, and since when."""

    timeline: list[tuple[datetime, File]] = field(default_factory=list)

    def since_time(self, moment: datetime) -> list[File]:
        """How it was at that moment, and how since; oldest first."""
        pairs = zip(self.timeline, [*self.timeline[1:], None], strict=True)
        return [file for (_, file), following in pairs if following is None or following[0] >= moment]


def is_whole(upload: Upload, sizes: Mapping[int, int]) -> bool:
    """Whether these parts, by number, are exactly the planned ones."""
    if upload.plan.size is not None:
        return sizes == planned(upload)
    numbers = sorted(sizes)
    uniform = all(sizes[number] == sizes[1] for number in numbers[:-1]) and sizes[numbers[-1]] <= sizes[1]
    return numbers == list(range(1, len(numbers) + 1)) and uniform


def planned(upload: Upload) -> dict[int, int]:
    """Sizes by part number of a declared plan."""
    size, part_size = upload.plan.size or 0, upload.plan.part_size
    sizes: dict[int, int] = {}
    while size > 0 or not sizes:
        sizes[len(sizes) + 1] = min(size, part_size)
        size -= part_size
    return sizes
