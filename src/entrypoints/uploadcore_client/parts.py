"""The parts of one transfer: each one's state, moved by the core's table and by nothing else, and written to the journal."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from uploadcore.plan import Part, PartPlan
from uploadcore.states import PartInput, PartState, next_part_state
from uploadcore_client.checksums import combine, to_checksum
from uploadcore_client.journal import Journal
from uploadcore_client.wire import Arrived

__all__ = ["PartTable"]

_BACK_TO_PLANNED: dict[PartState, tuple[PartInput, ...]] = {
    PartState.PLANNED: (),
    PartState.SIGNED: (PartInput.GONE,),
    PartState.SENDING: (PartInput.INTERRUPTED, PartInput.GONE),
    PartState.UPLOADED: (PartInput.GONE,),
    PartState.VERIFIED: (PartInput.GONE,),
    PartState.EXPIRED: (PartInput.GONE,),
    PartState.REJECTED: (PartInput.GONE,),
}


class PartTable:
    """State and CRC64NVME of every part. Safe for use by several threads.

    Args:
        plan: How the file is cut, as the server froze it.
        journal: Where the states that another process can use are written.
    """

    def __init__(self, plan: PartPlan, journal: Journal) -> None:
        self.plan = plan
        self.count = plan.part_count or 1
        self._journal = journal
        self._lock = threading.Lock()
        self._states = dict.fromkeys(range(1, self.count + 1), PartState.PLANNED)
        self._crcs: dict[int, int] = {}

    @property
    def numbers(self) -> Iterable[int]:
        """All part numbers, in order."""
        return self._states.keys()

    def part(self, part_number: int) -> Part:
        """Where a part lies."""
        return self.plan.part(part_number)

    def length(self, part_number: int) -> int:
        """Its bytes."""
        return self.plan.part(part_number).length or 0

    def state(self, part_number: int) -> PartState:
        """What a part is."""
        return self._states[part_number]

    def move(self, part_number: int, *happened: PartInput) -> None:
        """Let these happen to a part, in order.

        Raises:
            IllegalTransitionError: If one of them can't; the ones before it have.
        """
        with self._lock:
            for each in happened:
                self._states[part_number] = next_part_state(self._states[part_number], each)
        if self._states[part_number] is PartState.SENDING:
            self._journal.note(part_number, PartState.SENDING)

    def verify(self, part_number: int, crc: int) -> None:
        """The store has it, and this is its CRC64NVME by our own reading."""
        self._crcs[part_number] = crc
        self.move(part_number, PartInput.CHECKED)
        self._journal.note(part_number, PartState.VERIFIED, crc)

    def plan_again(self, part_number: int) -> None:
        """Whatever it was, it must be sent (again)."""
        self.move(part_number, *_BACK_TO_PLANNED[self._states[part_number]])
        self._crcs.pop(part_number, None)

    def recall(self, arrived: Iterable[Arrived]) -> list[int]:
        """Fold the store's listing onto a new table; return the parts whose CRC is not known and must be read from the file.

        What an earlier process noted counts only where the store agrees that there is such a part. A part of the wrong size, or of
        another CRC than the one noted, stays planned.
        """
        unread = []
        for each in arrived:
            number = each.part_number
            if number > self.count or each.size != self.length(number):
                continue  # completing will name it
            self.move(number, PartInput.STORED)
            crc = self._journal.crcs.get(number) if self._journal.states.get(number) is PartState.VERIFIED else None
            if crc is None:
                unread.append(number)
            elif each.checksum in {None, to_checksum(crc)}:
                self._crcs[number] = crc
                self.move(number, PartInput.CHECKED)
            else:
                self.move(number, PartInput.MISMATCHED, PartInput.GONE)
        return unread

    def to_do(self) -> list[int]:
        """Parts that are not verified yet, in order."""
        return [number for number, state in self._states.items() if state is not PartState.VERIFIED]

    def assembled(self) -> None:
        """The whole stands. Parts that another process sent meanwhile are not ours to move."""
        for number, state in list(self._states.items()):
            if state is PartState.VERIFIED:
                self.move(number, PartInput.ASSEMBLED)

    def crc(self, read: Callable[[int], int]) -> int:
        """The CRC64NVME of the whole. `read` gives that of a part which is not verified."""
        pieces = (
            (self._crcs[number] if number in self._crcs else read(number), self.length(number))
            for number in self._states
        )
        return combine(pieces)
