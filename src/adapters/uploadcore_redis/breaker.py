"""A circuit breaker whose probes run in the background, never on somebody's request.

Those on the index close again by letting requests try (half open): one of them pays for it with a whole deadline, and a server that hangs
makes it pay again and again. This one asks no request to pay.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from uploadcore.ports import Clock

__all__ = ["Breaker"]


class Breaker:
    """Closed until `failures` calls in a row have failed; then open until a probe succeeds.

    Args:
        probe: Tries what the calls need, and says whether it went well. It limits its own time, and does not raise.
        clock: Whose `sleep` is between two probes.
        failures: In a row, until it opens.
        probe_every: Seconds between the end of a probe and the next. The first is made at once: a moment's hiccup costs a moment.
    """

    def __init__(
        self, probe: Callable[[], Awaitable[bool]], clock: Clock, *, failures: int = 3, probe_every: float = 0.5
    ) -> None:
        """Be closed."""
        self._probe = probe
        self._clock = clock
        self._limit = failures
        self._probe_every = probe_every
        self._in_a_row = 0
        self._probing: asyncio.Task[None] | None = None

    @property
    def is_open(self) -> bool:
        """Whether no call is to be made."""
        return self._probing is not None

    def succeeded(self) -> None:
        """A call went well. One that began before it opened does not close it: the probe does."""
        self._in_a_row = 0

    def failed(self) -> None:
        """A call failed."""
        self._in_a_row += 1
        if self._in_a_row >= self._limit:
            self.trip()

    def trip(self) -> None:
        """Open, and begin to probe."""
        if self._probing is None:
            self._probing = asyncio.create_task(self._until_back())

    async def close(self) -> None:
        """Stop probing. It is closed afterwards, and may be used again."""
        probing, self._probing = self._probing, None
        self._in_a_row = 0
        if probing is not None:
            probing.cancel()
            await asyncio.gather(
                probing, return_exceptions=True
            )  # raises the cancellation of who closes, not the probe's

    async def _until_back(self) -> None:
        probing = asyncio.current_task()
        # A cancelled probe may end as if it were not: until Python 3.12 asyncio.wait_for loses a cancellation that comes with the result.
        while not await self._probe() and self._probing is probing:
            await self._clock.sleep(self._probe_every)
        if self._probing is probing:
            self._in_a_row = 0
            self._probing = None
