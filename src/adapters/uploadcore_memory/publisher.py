"""An event publisher that keeps what it got."""

from __future__ import annotations

from uploadcore.events import Event

__all__ = ["MemoryEventPublisher"]


class MemoryEventPublisher:
    """Keeps every event it delivers, and fails when told to.

    Attributes:
        events: What was delivered, in order, repetitions included.
        failures: Raised by the next deliveries, one each, first to last. `fail_with` is raised by all, as long as it is set.
    """

    def __init__(self) -> None:
        """Deliver everything."""
        self.events: list[Event] = []
        self.failures: list[Exception] = []
        self.fail_with: Exception | None = None

    async def open(self) -> None:
        """Get ready: nothing to do."""

    async def close(self) -> None:
        """Let go of nothing: what was delivered stays."""

    async def publish(self, event: Event) -> None:
        """Deliver one event, or fail as told; what fails is not kept."""
        if self.failures:
            raise self.failures.pop(0)
        if self.fail_with is not None:
            raise self.fail_with
        self.events.append(event)
