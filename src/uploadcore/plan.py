"""How a blob is cut into parts, and how the plan compares with what a store lists.

Pure arithmetic: `PartPlan` is frozen when an upload is initiated; `PartLedger` holds it against the store's listing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from uploadcore.errors import InvalidRequestError, PartOutOfRangeError, TooLargeError
from uploadcore.file import Checksum
from uploadcore.states import PartInput, PartState, next_part_state

__all__ = ["S3_LIMITS", "Part", "PartLedger", "PartPlan", "StoreLimits", "StoredPart", "digest_of"]

MIB = 1024 * 1024
DEFAULT_PART_SIZE = 8 * MIB
"""Floor of a declared plan's part size: above it, one request per part costs little beside the body."""
DEFAULT_OPEN_PART_SIZE = 16 * MIB
"""Part size where the size is not known: 10,000 of them hold 156 GiB."""
PREFERRED_PART_COUNT = 1_000
"""Past this many parts a declared plan takes larger parts: one page of ListParts shows them all (S3 API, MaxParts)."""


@dataclass(frozen=True, slots=True)
class StoreLimits:
    """What a store can hold, in bytes.

    Attributes:
        min_part_size: Smallest part that may be followed by another.
        max_part_size: Largest part, and largest single PUT.
        max_parts: Highest part number.
        max_object_size: Largest object.
    """

    min_part_size: int
    max_part_size: int
    max_parts: int
    max_object_size: int

    def __post_init__(self) -> None:
        """Refuse limits no plan can meet."""
        if not (1 <= self.min_part_size <= self.max_part_size and self.max_parts >= 1):
            raise ValueError(f"no part can satisfy {self!r}")
        if not 0 < self.max_object_size <= self.max_part_size * self.max_parts:
            raise ValueError(
                f"{self.max_object_size} bytes can't be cut into {self.max_parts} parts of {self.max_part_size}"
            )


S3_LIMITS = StoreLimits(
    min_part_size=5 * MIB, max_part_size=5 * 1024 * MIB, max_parts=10_000, max_object_size=53_687_091_200_000
)
"""Source: S3 User Guide, "Amazon S3 multipart upload limits" (10,000 parts of 5 MiB to 5 GiB, the last one smaller)."""


class Part(NamedTuple):
    """One slice: bytes `offset` to `offset + length - 1`. `length` is `None` where the plan does not bind it.

    A named tuple, as all that is made once per part when signing: half the cost of a frozen dataclass.
    """

    part_number: int
    offset: int
    length: int | None


@dataclass(frozen=True, slots=True)
class StoredPart:
    """One part as the store lists it. `etag` is opaque: it is handed back at completion and means nothing else."""

    part_number: int
    size: int
    etag: str
    checksum: Checksum | None = None


def digest_of(parts: Iterable[StoredPart]) -> str:
    """What tells whether the store still lists the same parts: SHA-256, in hexadecimal, of numbers, sizes and ETags.

    An ETag's quotes don't count: one client library leaves them out, another does not.

    >>> before, after = [StoredPart(1, 9, '"a"')], [StoredPart(1, 9, '"b"')]
    >>> digest_of(before) == digest_of([StoredPart(1, 9, "a")]), digest_of(before) == digest_of(after)
    (True, False)
    """
    digest = hashlib.sha256()
    for part in parts:
        etag = part.etag.strip('"')
        digest.update(f"{part.part_number} {part.size} {etag}\n".encode())
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class PartPlan:
    """How a size is cut into parts of one uniform size; only the last may be shorter.

    Attributes:
        part_size: Bytes per part. In an open plan: what a part is taken to be unless a length is given.
        size: Bytes of the whole; `None` for an open plan, whose size is settled at completion.
        max_parts: Highest part number an open plan may reach.

    >>> plan = PartPlan.declared(20 * 1024 * 1024, S3_LIMITS)
    >>> plan.part_count, plan.part(3)
    (3, Part(part_number=3, offset=16777216, length=4194304))
    """

    part_size: int
    size: int | None
    max_parts: int

    @classmethod
    def declared(cls, size: int, limits: StoreLimits, *, part_size: int | None = None) -> PartPlan:
        """The plan for a known size: the smallest multiple of 1 MiB that is ≥ max(8 MiB, size / 1,000), within the limits.

        Args:
            size: Bytes of the whole, 0 or more.
            limits: What the store can hold.
            part_size: Asked for by the caller, in bytes, instead of the rule.

        Raises:
            InvalidRequestError: If the size is negative, or the part size asked for does not fit the limits.
            TooLargeError: If the store can't hold that size.
        """
        if size < 0:
            raise InvalidRequestError(f"a size is 0 bytes or more, not {size}")
        if size > limits.max_object_size:
            raise TooLargeError(f"{size} bytes are more than the store can hold ({limits.max_object_size})")
        if part_size is None:
            wanted = max(DEFAULT_PART_SIZE, _up(size, min(PREFERRED_PART_COUNT, limits.max_parts)))
            part_size = _within(limits, _up(wanted, MIB) * MIB)
        else:
            _check_part_size(part_size, limits)
            if part_size * limits.max_parts < size:
                raise InvalidRequestError(
                    f"{size} bytes in parts of {part_size} make more than {limits.max_parts} parts: "
                    f"ask for {_up(size, limits.max_parts)} or more"
                )
        return cls(part_size=part_size, size=size, max_parts=limits.max_parts)

    @classmethod
    def open(cls, limits: StoreLimits, *, part_size: int | None = None) -> PartPlan:
        """The plan for a size not known yet.

        Raises:
            InvalidRequestError: If the part size asked for does not fit the limits.
        """
        if part_size is None:
            part_size = _within(limits, DEFAULT_OPEN_PART_SIZE)
        else:
            _check_part_size(part_size, limits)
        return cls(part_size=part_size, size=None, max_parts=limits.max_parts)

    @property
    def part_count(self) -> int | None:
        """How many parts; at least 1 (an empty blob is one empty part). `None` for an open plan."""
        return None if self.size is None else max(1, _up(self.size, self.part_size))

    def part(self, part_number: int) -> Part:
        """Where part `part_number` (from 1) lies.

        Raises:
            PartOutOfRangeError: If the plan has no such part.
        """
        return self.parts([part_number])[0]

    def parts(self, part_numbers: Iterable[int]) -> list[Part]:
        """Where these parts lie, in the order given. Hot when signing: what they share is computed once.

        Raises:
            PartOutOfRangeError: If the plan has no such part.
        """
        size, part_size, last = self.size, self.part_size, self.part_count or self.max_parts
        parts = []
        for number in part_numbers:
            if not 1 <= number <= last:
                raise PartOutOfRangeError(f"part {number} is outside 1 to {last}")
            offset = (number - 1) * part_size
            length = None if size is None else part_size if number < last else size - offset
            parts.append(Part(number, offset, length))
        return parts


class PartLedger:
    """The plan held against what the store lists. Costs one pass over the listing, and nothing per missing part.

    Attributes:
        parts: What the store lists, in order of part number.
        missing: Inclusive ranges of part numbers the store does not list.
        mismatched: Part numbers that are there and should not be as they are: wrong size, or beyond the plan.
        uploaded_bytes: Bytes of the parts that are as planned.

    >>> ledger = PartLedger(PartPlan(part_size=10, size=35, max_parts=9), [StoredPart(1, 10, "e1"), StoredPart(4, 3, "e4")])
    >>> ledger.missing, ledger.mismatched, ledger.uploaded_bytes, ledger.is_whole
    (((2, 3),), (4,), 10, False)
    """

    def __init__(self, plan: PartPlan, listed: Iterable[StoredPart], *, size: int | None = None) -> None:
        """Fold a listing onto a plan.

        Args:
            plan: As frozen at initiate.
            listed: The store's parts, in any order.
            size: For an open plan only: the size the caller says the whole has, in bytes.
        """
        self.parts = tuple(sorted(listed, key=lambda part: part.part_number))
        self._stored = {part.part_number: part for part in self.parts}
        self.plan = plan if plan.size is not None else self._settled(plan, size)
        # While nobody has said where an open plan ends, the parts beyond the last one sent are still planned.
        self._planned = plan if size is None else self.plan
        count = self.plan.part_count or 1
        missing: list[tuple[int, int]] = []
        mismatched: list[int] = []
        uploaded = expected = 0
        for part in self.parts:
            number = part.part_number
            if number > count or part.size != self.plan.part(number).length:
                mismatched.append(number)
            else:
                uploaded += part.size
            if number <= count:
                if number > expected + 1:
                    missing.append((expected + 1, number - 1))
                expected = number
        if expected < count:
            missing.append((expected + 1, count))
        self.missing = tuple(missing)
        self.mismatched = tuple(mismatched)
        self.uploaded_bytes = uploaded
        self._wrong = frozenset(mismatched)

    def _settled(self, plan: PartPlan, size: int | None) -> PartPlan:
        """An open plan, closed by what arrived: part 1 shows the part size, the last part where the whole ends."""
        first = self._stored.get(1)
        part_size = first.size if first is not None and first.size > 0 else plan.part_size
        if size is None:
            last = self.parts[-1] if self.parts else None
            size = 0 if last is None else (last.part_number - 1) * part_size + min(last.size, part_size)
        return PartPlan(part_size=part_size, size=size, max_parts=plan.max_parts)

    @property
    def is_whole(self) -> bool:
        """Exactly the planned parts are there, each with its planned size."""
        return not self.missing and not self.mismatched

    @property
    def size(self) -> int:
        """Bytes of the whole, as planned or, in an open plan, as settled by what arrived."""
        return self.plan.size or 0

    def state_of(self, part_number: int) -> PartState:
        """What the server can know of one part.

        Raises:
            PartOutOfRangeError: If the plan has no such part and the store lists none.
        """
        if part_number not in self._stored:
            self._planned.part(part_number)
            return PartState.PLANNED
        uploaded = next_part_state(PartState.PLANNED, PartInput.STORED)
        return next_part_state(uploaded, PartInput.MISMATCHED if part_number in self._wrong else PartInput.CHECKED)


def _up(dividend: int, divisor: int) -> int:
    """The quotient, rounded up."""
    return -(-dividend // divisor)


def _within(limits: StoreLimits, part_size: int) -> int:
    """The part size, or the nearest one the store takes."""
    return min(max(part_size, limits.min_part_size), limits.max_part_size)


def _check_part_size(part_size: int, limits: StoreLimits) -> None:
    if not limits.min_part_size <= part_size <= limits.max_part_size:
        raise InvalidRequestError(
            f"a part size is {limits.min_part_size} to {limits.max_part_size} bytes at this store, not {part_size}"
        )
