"""Time and ids that a test decides."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from datetime import UTC, datetime, timedelta

__all__ = ["ManualClock", "SequentialIds"]


class ManualClock:
    """A clock that stands still until it is told to go on.

    `sleep` suspends until `advance` has passed its end. With `auto_advance`, a sleep takes no real time: others get a turn, then the
    clock stands where the sleeper wanted it.

    >>> clock = ManualClock()
    >>> before = clock.now()
    >>> clock.advance(90)
    >>> clock.now() - before
    datetime.timedelta(seconds=90)
    """

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC), *, auto_advance: bool = False) -> None:
        """Stand at `start`, which must know its time zone."""
        if start.tzinfo is None:
            raise ValueError("a clock's start needs a time zone")
        self.auto_advance = auto_advance
        self._start = start
        self._passed = timedelta(0)
        self._order = itertools.count()
        self._sleepers: list[tuple[timedelta, int, asyncio.Future[None]]] = []
        self._fell_asleep = asyncio.Event()

    def now(self) -> datetime:
        """Wall-clock time, UTC."""
        return (self._start + self._passed).astimezone(UTC)

    def monotonic(self) -> float:
        """Seconds since the start."""
        return self._passed.total_seconds()

    @property
    def sleepers(self) -> int:
        """How many wait in `sleep`."""
        return sum(not future.done() for _, _, future in self._sleepers)

    async def until_asleep(self, count: int = 1) -> None:
        """Wait until that many wait in `sleep`: what a test does before it advances."""
        while self.sleepers < count:
            self._fell_asleep.clear()
            await self._fell_asleep.wait()

    def advance(self, by: float | timedelta) -> None:
        """Go on by that much (seconds, if a number), and wake whoever slept until then, in order of their ends."""
        passed = by if isinstance(by, timedelta) else timedelta(seconds=by)
        if passed < timedelta(0):
            raise ValueError(f"a clock does not go back by {-passed}")
        self._passed += passed
        while self._sleepers and self._sleepers[0][0] <= self._passed:
            _, _, future = heapq.heappop(self._sleepers)
            if not future.done():
                future.set_result(None)

    async def sleep(self, seconds: float) -> None:
        """Wait until the clock has gone on by `seconds`."""
        end = self._passed + timedelta(seconds=max(0.0, seconds))
        if self.auto_advance or end <= self._passed:
            await asyncio.sleep(0)
            if end > self._passed:
                self.advance(end - self._passed)
            return
        future = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (end, next(self._order), future))
        self._fell_asleep.set()
        await future


class SequentialIds:
    """Ids a test can foresee. Guessable, hence for tests only.

    >>> ids = SequentialIds("upload")
    >>> ids.new(), ids.new()
    ('upload-1', 'upload-2')
    """

    def __init__(self, prefix: str = "id") -> None:
        """Count from 1 behind `prefix`."""
        self._prefix = prefix
        self._numbers = itertools.count(1)

    def new(self) -> str:
        """The next one."""
        return f"{self._prefix}-{next(self._numbers)}"
