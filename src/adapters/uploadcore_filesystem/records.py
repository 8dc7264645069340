"""Part records: empty files whose names say everything, and the listing they make."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

__all__ = ["PartIndex", "PartRecord"]


@dataclass(frozen=True, slots=True)
class PartRecord:
    """A listed part.

    Attributes:
        offset: Where in `data` it lies; `None` if it has a file of its own, `chunks/<etag>`.
        etag: Of this very attempt, whatever its bytes.
    """

    part_number: int
    offset: int | None
    size: int
    etag: str
    crc64: int

    @property
    def name(self) -> str:
        """The file's name.

        >>> PartRecord(7, 48, 8, "e" * 32, 0xAE8B14860A799888).name
        '00007-48-8-eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee-ae8b14860a799888'
        """
        offset = "own" if self.offset is None else self.offset
        return f"{self.prefix(self.part_number)}{offset}-{self.size}-{self.etag}-{self.crc64:016x}"

    @classmethod
    def parse(cls, name: str) -> PartRecord:
        """The reverse of `name`."""
        number, offset, size, etag, crc64 = name.split("-")
        return cls(int(number), None if offset == "own" else int(offset), int(size), etag, int(crc64, 16))

    @staticmethod
    def prefix(part_number: int) -> str:
        """What all records of a part begin with."""
        return f"{part_number:05d}-"


class PartIndex:
    """The listed parts of one upload.

    Those that lie in `data` lie there in order of their numbers and do not meet: `has_room` is asked before one is written, and the answer costs
    two bisections.
    """

    def __init__(self, records: Iterable[PartRecord] = ()) -> None:
        self._records = {record.part_number: record for record in records}
        self._placed = sorted(number for number, record in self._records.items() if record.offset is not None)

    def __iter__(self) -> Iterator[PartRecord]:
        return iter([self._records[number] for number in sorted(self._records)])

    def get(self, part_number: int) -> PartRecord | None:
        """The part's record, if it is listed."""
        return self._records.get(part_number)

    def add(self, record: PartRecord) -> None:
        """List a part that is not listed."""
        self._records[record.part_number] = record
        if record.offset is not None:
            bisect.insort(self._placed, record.part_number)

    def remove(self, part_number: int) -> None:
        """Unlist a part, if it is listed."""
        record = self._records.pop(part_number, None)
        if record is not None and record.offset is not None:
            del self._placed[bisect.bisect_left(self._placed, part_number)]

    def has_room(self, part_number: int, start: int, end: int) -> bool:
        """If bytes `start` up to `end` of `data` lie after every lower part there and before every higher one."""
        position = bisect.bisect_left(self._placed, part_number)
        if position > 0:
            lower = self._records[self._placed[position - 1]]
            if (lower.offset or 0) + lower.size > start:
                return False
        after = bisect.bisect_right(self._placed, part_number)
        return after == len(self._placed) or (self._records[self._placed[after]].offset or 0) >= end
