"""Which time it is: the database's, where this machine's clock is known to be wrong.

What decides is decided by the database's clock, inside its statements. What is reckoned here (how long a URL may live before its upload's deadline,
whether something is old enough to be looked at again) is reckoned with the same clock, as far as the adapter can tell what it shows.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Protocol

__all__ = ["CorrectedClock", "clock_offset", "set_clock"]

AGREED = timedelta(seconds=1)
"""Clocks that differ by less are taken for equal: so well any clock is kept that is kept at all, and asking takes its time."""


class _Clock(Protocol):
    def now(self) -> datetime: ...
    def monotonic(self) -> float: ...
    async def sleep(self, seconds: float) -> None: ...


def clock_offset(port: object) -> timedelta | None:
    """How far the clock behind a port is ahead of this process's: its attribute `clock_offset`.

    `None` where the adapter does not know it yet, or has no such attribute: then there is no other clock, or nothing to tell it by.
    """
    offset: timedelta | None = getattr(port, "clock_offset", None)
    return offset


def set_clock(port: object, clock: _Clock) -> None:
    """Have a port go by a clock: its method `use_clock(clock)`. One that has none tells nobody the time."""
    use_clock = getattr(port, "use_clock", None)
    if use_clock is not None:
        use_clock(clock)


class CorrectedClock:
    """This process's clock, put right by that of a port.

    Args:
        clock: This process's.
        port: Whose clock is right, if it is known.
    """

    def __init__(self, clock: _Clock, port: object) -> None:
        self._clock = clock
        self._port = port
        self.monotonic = clock.monotonic
        self.sleep = clock.sleep

    def now(self) -> datetime:
        """Wall-clock time, UTC."""
        now, offset = self._clock.now(), clock_offset(self._port)
        return now if offset is None or abs(offset) < AGREED else now + offset
