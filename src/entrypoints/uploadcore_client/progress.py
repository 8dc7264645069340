"""How far a transfer is, in numbers that add up whatever was sent twice."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Meter", "Progress", "ProgressCallback"]


@dataclass(frozen=True, slots=True)
class Progress:
    """A moment of a transfer. All amounts in bytes but the parts.

    Attributes:
        upload_id: The upload; the empty string before it is known, and in a download the file's id.
        done: What the far end (in a download: the disk) has, what is just on its way included. Falls when a part breaks off.
        total: Size of the whole.
        sent: What went over the wire in this call.
        resent: What of it (or, after a crash, of what was being sent then) went a second time.
        parts_done: Parts the store has.
        parts_total: Parts in all; 0 before it is known.
        parts_resent: Parts that were begun more than once.
        resumed: What was there already when this call began.
        is_verified: Of a download, at its end: what arrived was compared with the file's checksum. Stays `False` where the service names none.
    """

    upload_id: str
    done: int
    total: int
    sent: int = 0
    resent: int = 0
    parts_done: int = 0
    parts_total: int = 0
    parts_resent: int = 0
    resumed: int = 0
    is_verified: bool = False


ProgressCallback = Callable[[Progress], None]
"""Called by the thread that made the call, at most ten times a second and once at the end."""


class Meter:
    """Counts for `Progress`. Safe for use by several threads."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._lock = threading.Lock()
        self._upload_id = ""
        self._parts_total = 0
        self._moving: dict[int, int] = {}
        self._begun: set[int] = set()
        self._stored = self._sent = self._resent = self._parts_done = self._parts_resent = self._resumed = 0

    def begins(self, upload_id: str, parts_total: int, *, interrupted: set[int]) -> None:
        """The upload is known; `interrupted` are the parts an earlier process was just sending when it ended."""
        with self._lock:
            self._upload_id, self._parts_total = upload_id, parts_total
            self._begun |= interrupted

    def found(self, length: int) -> None:
        """The store had a part before this call."""
        with self._lock:
            self._stored += length
            self._resumed += length
            self._parts_done += 1

    def gone(self, length: int) -> None:
        """A part that counted as stored does not any more."""
        with self._lock:
            self._stored -= length
            self._parts_done -= 1

    def starts(self, part_number: int, length: int, *, first_try: bool) -> None:
        """A part is about to be sent. What an earlier process had sent of it is not known: all of it counts."""
        with self._lock:
            self._moving[part_number] = 0
            if part_number in self._begun:
                self._parts_resent += first_try
                self._resent += length if first_try else 0
            self._begun.add(part_number)

    def moves(self, part_number: int, count: int) -> None:
        """So many bytes of a part went out."""
        with self._lock:
            self._moving[part_number] += count
            self._sent += count

    def breaks_off(self, part_number: int) -> None:
        """What was sent of a part counts for nothing."""
        with self._lock:
            lost = self._moving.pop(part_number, 0)
            self._resent += lost
            self._parts_resent += lost > 0

    def stored(self, part_number: int, length: int) -> None:
        """The store has a part."""
        with self._lock:
            self._moving.pop(part_number, None)
            self._stored += length
            self._parts_done += 1

    def reading(self) -> Progress:
        """The numbers now."""
        with self._lock:
            return Progress(
                upload_id=self._upload_id,
                done=self._stored + sum(self._moving.values()),
                total=self._total,
                sent=self._sent,
                resent=self._resent,
                parts_done=self._parts_done,
                parts_total=self._parts_total,
                parts_resent=self._parts_resent,
                resumed=self._resumed,
            )
