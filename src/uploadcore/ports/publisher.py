"""Who brings events to a destination."""

from __future__ import annotations

from typing import Protocol

from uploadcore.events import Event

__all__ = ["EventPublisher"]


class EventPublisher(Protocol):
    """Where events go: one destination. Several deliveries run at once, of one upload never."""

    async def open(self) -> None:
        """Get ready. A destination that is away is no reason to fail: deliveries to it will."""

    async def publish(self, event: Event) -> None:
        """Deliver one event. Any exception counts as not delivered; it comes again, with the same id.

        It is cancelled after 10 s. The message of an `UploadCoreError` is kept with the event and logged, and so must not hold a secret; of any
        other exception that is its class only.

        Raises:
            UndeliverableError: No retry can help: it becomes a dead letter at once.
        """

    async def close(self) -> None:
        """Let go of everything. Idempotent."""
