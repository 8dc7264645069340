"""Events on their way: written with their change, numbered, and delivered to each destination."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple, Protocol

from uploadcore.events import Event

__all__ = ["Backlog", "DeadLetter", "Delivery", "FailedDelivery", "Outbox"]


class Delivery(NamedTuple):
    """An event that was claimed, to be brought to one destination.

    Attributes:
        event: With its position.
        destination: Name of where it goes.
        attempt: The how-manieth it is, from 1. Tells this claim from a later one.
    """

    event: Event
    destination: str
    attempt: int


class FailedDelivery(NamedTuple):
    """A delivery that did not come about.

    Attributes:
        delivery: As it was claimed.
        retry_after: When it may be claimed again; `None`: never, it is a dead letter.
        error: What went wrong, for an operator. No secret, no URL.
    """

    delivery: Delivery
    retry_after: timedelta | None
    error: str


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event that is not tried any more at a destination, until somebody replays it."""

    event: Event
    destination: str
    attempts: int
    dead_at: datetime
    error: str


@dataclass(frozen=True, slots=True)
class Backlog:
    """What a destination still has to get.

    Attributes:
        destination: Its name.
        pending: Events not delivered yet, those without a position included.
        dead: Dead letters.
        oldest: Age of the oldest pending event, by the database's clock; `None`: nothing is pending.
    """

    destination: str
    pending: int
    dead: int
    oldest: timedelta | None


class Outbox(Protocol):
    """Events written with their change, and how far each has come at each destination. Filled by `UploadRecords.save` and `add`.

    An event is first given its position, and with it a delivery to each destination; a delivery is claimed, and then done, failed or dead. What is
    undelivered is marked so; nobody looks for ids or positions beyond the last one seen, since the order they are written in is not that of commits.
    """

    async def add(self, event: Event) -> None:
        """Write an event that tells of a file."""

    async def number(self, destinations: Collection[str], limit: int) -> int:
        """Give committed events that have none their positions, and their deliveries to these destinations; how many, at most `limit`.

        One at a time, over all processes: whoever finds another at it does nothing, and says 0. Events of one upload are numbered in the order
        they were written in. A position is never given twice, none is left out, and whoever sees one sees all before it.
        """

    async def claim(self, destination: str, limit: int, *, lease: timedelta) -> list[Delivery]:
        """Undelivered events that are due there, the oldest one per upload at most, in order of position, hidden from others for `lease`.

        An event whose predecessor (same upload, same destination) is neither delivered nor dead is not returned, whatever the predecessor's
        retry time. A claim counts as an attempt: one that ends its process is counted, too.
        """

    async def delivered(self, deliveries: Sequence[Delivery]) -> None:
        """They have arrived, whoever has claimed them since. Idempotent."""

    async def failed(self, failures: Sequence[FailedDelivery]) -> None:
        """They have not. One that was claimed again since is left as it is."""

    async def dead_letters(
        self, *, destination: str | None, after: tuple[int, str] | None, limit: int
    ) -> list[DeadLetter]:
        """Dead letters by position and destination, strictly after that pair; of one destination, or of all."""

    async def replay(self, destination: str, *, event_id: str | None, limit: int) -> int:
        """Let dead letters of a destination, one or all, be claimed again, with no attempt counted; how many, at most `limit`."""

    async def discard(self, destination: str, *, event_id: str | None, limit: int) -> int:
        """Drop what a destination still has to get, pending or dead, one event or all; how many, at most `limit`."""

    async def purge(self, *, older_than: timedelta, dead_older_than: timedelta) -> int:
        """Drop dead letters, and then events that are delivered or dead everywhere, for longer than that; how many events and dead letters.

        A bounded number at a time (10,000, say). What is left is for the next call.
        """

    async def backlog(self, destinations: Collection[str]) -> tuple[Backlog, ...]:
        """What is pending and dead, by name: at these destinations, and at others that have deliveries from before."""
