"""The store's time: what it signs by is what it is told by, and it is the store that holds a URL against a clock.

Every answer carries the store's `Date`. Where this machine's clock is wrong, a URL would begin later or end earlier than it says, or be refused;
signed by the store's time, it does what it says whatever the clock here shows.
"""

from __future__ import annotations

import statistics
import threading
from collections import deque
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from uploadcore_s3.credentials import WallClock

__all__ = ["StoreClock", "parse_date"]

SAMPLES = 5
"""Answers, the last ones, whose median counts: one machine of the store, or a proxy before it, may be wrong alone. Of five, two may be."""
FEWEST = 3
"""Answers that have a median worth the name: one may be wrong. Two are believed if they agree, one never."""
SLOW = 2.0
"""Seconds. An answer that took longer tells too little: its `Date` may be of any moment within."""
IGNORED = timedelta(seconds=2)
"""Clocks that differ by less are taken for equal: a `Date` has whole seconds, and an answer takes its time."""
MOST = timedelta(days=1)
"""What differs by more is no clock that drifted, but a `Date` that is made up."""
_HALF_A_SECOND = timedelta(milliseconds=500)


class StoreClock:
    """A clock that shows the store's time, once it is known, and this machine's until then. For any number of threads.

    Args:
        clock: This machine's.
    """

    def __init__(self, clock: WallClock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._samples: deque[timedelta] = deque(maxlen=SAMPLES)
        self._offset: timedelta | None = None

    @property
    def offset(self) -> timedelta | None:
        """How far the store's clock is ahead of this machine's, to a second or so; `None`: not known."""
        return self._offset

    def now(self) -> datetime:
        """The store's time, UTC."""
        now, offset = self._clock.now(), self._offset
        return now if offset is None or abs(offset) < IGNORED else now + offset

    def heard(self, headers: Mapping[str, str], *, took: float) -> None:
        """Learn from an answer of the store.

        Args:
            headers: Of the answer, names in lower case.
            took: Seconds from sending the request to the end of the answer's head.
        """
        date = parse_date(headers.get("date", ""))
        if date is None or took > SLOW or "age" in headers:  # the last: RFC 9111, section 5.1: a cache has kept it
            return
        middle = self._clock.now() - timedelta(seconds=took / 2)
        ahead = date + _HALF_A_SECOND - middle
        if abs(ahead) > MOST:
            return
        with self._lock:
            self._samples.append(ahead)
            self._offset = _believed(self._samples)


def _believed(samples: Collection[timedelta]) -> timedelta | None:
    agree = len(samples) > 1 and max(samples) - min(samples) < IGNORED
    return statistics.median_low(samples) if agree or len(samples) >= FEWEST else None


def parse_date(text: str) -> datetime | None:
    """What a `Date` header says; `None` where it says nothing that can be understood."""
    try:
        told = parsedate_to_datetime(text)
    except ValueError:
        return None
    return told if told.tzinfo is not None else told.replace(tzinfo=UTC)
